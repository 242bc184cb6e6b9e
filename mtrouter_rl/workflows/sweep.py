"""A sweep: agent cards with parameters at several values, trained with several seeds and compared on validation.

It chooses, so it looks at the validation split alone: what is held out for the end is not touched. Trainings and episodes are
kept under the folder, and the same command again does what is missing, also after values were added.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import yaml
from pydantic import Field, JsonValue

from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.metrics import PolicyMetrics, averaged_trainings, policy_metrics
from mtrouter_rl.evaluation.result_rows import QUANTITIES, trainings_difference
from mtrouter_rl.evaluation.results import PairedDifference, header
from mtrouter_rl.files import ResultFile, slug, write_atomically
from mtrouter_rl.records import Episode, FiniteRecord
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    format_interval,
    format_number,
    format_usd_mean,
    format_with_ends,
    to_markdown,
    to_plain,
)
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.statistics.cluster_bootstrap import episode_means
from mtrouter_rl.statistics.estimate import Estimate, bounded
from mtrouter_rl.workers.executors import Workers, check_workers
from mtrouter_rl.workflows.evaluating import EvaluateRequest, evaluate_routers
from mtrouter_rl.workflows.presenting import present
from mtrouter_rl.workflows.quick_study import CACHE_FOLDER, ROUTERS_FOLDER, Clock, train_side_by_side
from mtrouter_rl.workflows.run_folder import episodes_of_run
from mtrouter_rl.workflows.training import TrainRequest, encode_log, load_agent

SWEEP_FILE = "sweep.json"
TABLE_FILE = "sweep.md"
BEST_CARD_FILE = "best.yaml"
SPLIT: Literal["validation"] = "validation"

Values = Mapping[str, tuple[JsonValue, ...]]
"""Parameter of the card -> the values that it takes."""


def parse_values(text: str) -> tuple[str, tuple[JsonValue, ...]]:
    """What `--set` says: a parameter and its values.

    Raises:
        ValueError: If it is not NAME=VALUE,VALUE...

    Example:
        >>> parse_values("learning_rate=1e-3,0.0003"), parse_values("history_hidden=[64],[256, 64]")
        (('learning_rate', (0.001, 0.0003)), ('history_hidden', ([64], [256, 64])))
        >>> parse_values("learner=double_dqn,dqn")
        ('learner', ('double_dqn', 'dqn'))
    """
    name, equals, listed = text.partition("=")
    if not (name.strip() and equals and listed.strip()):
        raise ValueError(f"'{text}' is not NAME=VALUE,VALUE")
    try:
        values = json.loads(f"[{listed}]")
    except json.JSONDecodeError:
        try:
            values = yaml.safe_load(f"[{listed}]")
        except yaml.YAMLError as error:
            raise ValueError(f"'{listed}' cannot be read as a list of values") from error
    return name.strip(), tuple(values)


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What `mtrouter-rl sweep` is asked for.

    Attributes:
        config: Environment.
        dataset: Folder of the log.
        out: Folder of the sweep.
        agents: Agent cards, names or paths.
        values: Parameters and their values; every combination is trained.
        n_trainings: Trainings of every combination.
        n_seeds: Seeds per variation of validation.
        per_task: At most this many variations of a task; None takes all.
        seed: Seed of the first training and of the bootstrap; further trainings count up from it.
        n_workers: Who trains and plays.
        encoder: Registered name of the text encoder.
    """

    config: EnvConfig
    dataset: Path
    out: Path
    agents: tuple[str, ...]
    values: Values
    n_trainings: int = 1
    n_seeds: int = 1
    per_task: int | None = None
    seed: int = 0
    n_workers: Workers = 2
    encoder: str = DEFAULT_ENCODER

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        check_workers(self.n_workers)
        if self.n_trainings < 1:
            raise InvalidConfigError(f"trainings is {self.n_trainings}, must be at least 1")

    @property
    def points(self) -> "tuple[SweepPoint, ...]":
        """Every agent with every combination of values.

        Raises:
            CardError: If a card has no such parameter, or a value breaks its rule.
            InvalidConfigError: If an agent learns from no log, or two points are the same.
        """
        combinations = [dict(zip(self.values, one, strict=True)) for one in itertools.product(*self.values.values())]
        points = [SweepPoint.of(agent, changes, self.config) for agent in self.agents for changes in combinations]
        names = [point.card.name for point in points]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidConfigError(f"the sweep has {twice[0]} twice; give every agent and every value once")
        return tuple(points)

    def training(self, point: "SweepPoint", number: int) -> TrainRequest:
        """One training of a point, counted from 0."""
        card = point.trained(self.seed + number, is_first=number == 0)
        return TrainRequest(
            agent=card,
            config=self.config,
            seed=self.seed + number,
            out=self.out / ROUTERS_FOLDER / slug(card.name),
            dataset=self.dataset,
            encoder=self.encoder,
            cache=self.out / CACHE_FOLDER,
        )


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """An agent card with its parameters at some values.

    Attributes:
        agent: The card that was given.
        changes: Parameters that were set.
        card: The changed card, named after both.
    """

    agent: str
    changes: Mapping[str, JsonValue]
    card: AgentCard

    @classmethod
    def of(cls, agent: str, changes: Mapping[str, JsonValue], config: EnvConfig) -> "SweepPoint":
        """Set the parameters. Raises as `SweepRequest.points`."""
        card = load_agent(agent, config.card)
        words = [f"{name}={_short(value)}" for name, value in changes.items()]
        changed = card.model_copy(
            update={"name": " ".join([card.name, *words]), "parameters": {**card.parameters, **changes}}
        )
        algorithm = load_algorithm(changed)
        if not algorithm.needs_dataset or algorithm.needs_validation:
            raise InvalidConfigError(
                f"agent '{agent}' does not learn from a log alone, so it cannot be swept; take one such as fitted-q"
            )
        return cls(agent=agent, changes=changes, card=changed)

    def trained(self, seed: int, *, is_first: bool) -> AgentCard:
        """Its card under the name of a training; from the second on the name ends in the seed."""
        return self.card if is_first else self.card.model_copy(update={"name": f"{self.card.name} s{seed}"})


def _short(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace(" ", "")


class SweepRow(FiniteRecord):
    """A point of the sweep. Intervals are over (task, variation), of means over trainings.

    Attributes:
        agent: Name of the agent card.
        changes: Parameters that were set, with their values.
        policies: Names of its routers in `results.json`, one for every training.
        score: Score, 100 * utility.
        cost_usd: Cost of an episode, USD.
        return_: Undiscounted return; the file calls it "return".
        return_by_training: Mean return of every training.
        to_best: This point minus the best one, over the same episodes; None for the best.
    """

    agent: str
    changes: dict[str, JsonValue]
    policies: tuple[str, ...]
    score: Estimate
    cost_usd: Estimate
    return_: Estimate = Field(validation_alias="return", serialization_alias="return")
    return_by_training: tuple[float, ...]
    to_best: PairedDifference | None


class Sweep(ResultFile):
    """Contents of the file.

    Attributes:
        schema_version: Version of this layout.
        split: Always validation.
        dataset_id: The log.
        is_simulated: Whether the models were simulated.
        n_seeds: Seeds per variation.
        n_trainings: Trainings of every point.
        seed: Seed of the first training and of the bootstrap.
        rows: One per point, the best return first.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl sweep` writes it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    split: Literal["validation"] = SPLIT
    dataset_id: str
    is_simulated: bool
    n_seeds: Annotated[int, Field(ge=1)]
    n_trainings: Annotated[int, Field(ge=1)]
    seed: int
    rows: Annotated[tuple[SweepRow, ...], Field(min_length=1)]

    def table(self) -> Table:
        """The table, the best first."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.changes))
        cells = tuple(
            (
                row.agent,
                *(_short(row.changes[name]) if name in row.changes else ABSENT for name in names),
                format_with_ends(row.score.value, row.score.ends, decimals=1),
                format_usd_mean(row.cost_usd.value, row.cost_usd.ends),
                format_with_ends(row.return_.value, row.return_.ends, decimals=3),
                ", ".join(format_number(one, decimals=3) for one in row.return_by_training),
                ABSENT if row.to_best is None else format_interval(row.to_best.return_, decimals=3),
            )
            for row in self.rows
        )
        models = "simulated models (no LLM was called)" if self.is_simulated else "real models"
        caption = (
            f"{self.env}, validation split, pool {self.pool}, {models}, log {self.dataset_id}, "
            f"{self.rows[0].return_.n_episodes} episodes a training. The best of {len(self.rows)} was chosen by these very "
            "episodes, so its return is flattered; what is within the interval of 'minus the best' cannot be told from it. "
            "Brackets: 95% intervals over (task, variation)."
        )
        heads = ("agent", *names, "score", "USD/episode", "return", "of each training", "minus the best (return)")
        return Table(caption=caption, header=heads, rows=cells)

    def to_text(self) -> str:
        """The table for a terminal."""
        return to_plain(self.table())


def run_sweep(request: SweepRequest, *, say: Callable[[str], None], show_progress: bool = True) -> Sweep:
    """Train every point, play all routers on the same validation episodes, and compare.

    Returns:
        The comparison, also in `out/sweep.json` and `sweep.md`; the best card is `out/best.yaml`.

    Raises:
        CardError: If a card has no such parameter, or a value breaks its rule.
        InvalidConfigError: If an agent cannot be swept, or two points are the same.
        DatasetError: If the log breaks its rules, or the folder holds other episodes under a name.
    """
    points = request.points
    clock = Clock(say)
    trainings = [request.training(point, number) for number in range(request.n_trainings) for point in points]
    clock.step(f"1/3 train {len(trainings)} routers: {len(points)} points, {request.n_trainings} trainings each")
    if any(load_algorithm(training.agent).needs_features for training in trainings):
        encode_log(trainings[0], show_progress=show_progress)
    train_side_by_side(trainings, n_workers=request.n_workers, show_progress=show_progress)
    clock.step("2/3 evaluate on validation, closed-loop, every router on the same episodes")
    routers = tuple(str(training.out) for training in trainings)
    with RolloutPool(request.config, n_workers=request.n_workers) as pool:
        evaluation = EvaluateRequest(
            routers=routers,
            split=SPLIT,
            n_seeds=request.n_seeds,
            out=request.out,
            per_task=request.per_task,
            seed=request.seed,
            cache=request.out / CACHE_FOLDER,
        )
        evaluate_routers(pool, evaluation, show_progress=show_progress)
    clock.step("3/3 compare, and draw")
    found = _compared(request, points)
    found.write(request.out / SWEEP_FILE)
    write_atomically(request.out / TABLE_FILE, (to_markdown(found.table()) + "\n").encode())
    best = next(point for point in points if point.card.name == found.rows[0].policies[0])
    _save_card(best, request.out / BEST_CARD_FILE)
    present(request.out, request.config, routers=routers, cache=request.out / CACHE_FOLDER)
    clock.done()
    return found


def _compared(request: SweepRequest, points: Sequence[SweepPoint]) -> Sweep:
    config = request.config
    episodes = episodes_of_run(request.out)[SPLIT]
    own: dict[str, list[PolicyMetrics]] = {}
    policies: dict[str, tuple[str, ...]] = {}
    for point in points:
        name = point.card.name
        policies[name] = tuple(request.training(point, number).agent.name for number in range(request.n_trainings))
        own[name] = [_metrics(config, episodes[policy], policy) for policy in policies[name]]
    means = {
        name: bounded(
            episode_means([averaged_trainings(one, column) for column in QUANTITIES], seed=request.seed).estimates()
        )
        for name, one in own.items()
    }
    order = sorted(points, key=lambda point: -means[point.card.name][2].value)
    best = order[0].card.name
    rows = []
    for point in order:
        score, cost_usd, return_ = means[point.card.name]
        name = point.card.name
        rows.append(
            SweepRow(
                agent=load_agent(point.agent, config.card).name,
                changes=dict(point.changes),
                policies=policies[name],
                score=score,
                cost_usd=cost_usd,
                return_=return_,
                return_by_training=tuple(one.mean("return_") for one in own[name]),
                to_best=None if name == best else trainings_difference(own[name], own[best], seed=request.seed),
            )
        )
    return Sweep(
        **header(config),
        dataset_id=read_info(request.dataset).dataset_id,
        is_simulated=config.pool.backend.kind == "simulated",
        n_seeds=request.n_seeds,
        n_trainings=request.n_trainings,
        seed=request.seed,
        rows=tuple(rows),
    )


def _metrics(config: EnvConfig, episodes: Sequence[Episode], policy: str) -> PolicyMetrics:
    return policy_metrics(episodes, config.reward, model_names=config.pool.model_names, policy=policy)


def _save_card(point: SweepPoint, path: Path) -> None:
    """The card of a point, under a name that a folder can have."""
    card = point.card.model_copy(update={"name": slug(point.card.name)})
    data = cast(dict[str, JsonValue], card.model_dump(mode="json", exclude_defaults=True))
    write_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120).encode())
