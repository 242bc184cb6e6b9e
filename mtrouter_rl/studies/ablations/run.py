"""What is each part of a router worth? The same agent card trained from the same log with one thing changed at a time.

All variants and the full router run the same episodes and are compared pairwise. Training number k of a variant has the
seed, hence the mini-batches, of training number k of the full router.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mtrouter_rl import __version__
from mtrouter_rl.agents.factored.factors import PARTS
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.subsets import check_percents, write_subsets
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import CardError, InvalidConfigError, MissingDependencyError, unknown_name
from mtrouter_rl.evaluation.metrics import PolicyMetrics, policy_metrics
from mtrouter_rl.files import slug
from mtrouter_rl.records import Frozen, JsonValue, Split
from mtrouter_rl.registry import DEFAULT_ENCODER, ENCODERS
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.ablations.record import (
    FULL,
    LOG_SIZE,
    WHOLE_LOG,
    Ablations,
    AblationSetting,
    VariantRecord,
    compare_variants,
)
from mtrouter_rl.studies.ablations.report import save_ablation_plots
from mtrouter_rl.workers.executors import Workers, check_workers
from mtrouter_rl.workflows import (
    CONFIG_FILE,
    EPISODES_FOLDER,
    EvaluateRequest,
    TrainRequest,
    describe,
    encode_log,
    evaluate_routers,
    load_agent,
    save_config,
)
from mtrouter_rl.workflows.quick_study import CACHE_FOLDER, ROUTERS_FOLDER, Clock, train_side_by_side
from mtrouter_rl.workflows.run_folder import read_setting

ENCODER = "encoder"
LOGS_FOLDER = "logs"
PLOTS_FOLDER = "plots"
PERCENTS = (10, 25, 50)

_CHANGES: dict[str, dict[str, dict[str, JsonValue]]] = {
    "embeddings": {"history-only": {"model_embedding": "none"}, "model-only": {"history_inputs": []}},
    "context": {
        "task-only": {"history_inputs": ["task"]},
        "last-turn": {"history_inputs": ["task", "last_observation", "last_action", "progress", "last_turn"]},
    },
    "model-features": {
        "metadata-only": {"model_embedding": "metadata"},
        "residual-only": {"model_embedding": "residual"},
    },
    "factors": {f"no-{part}": {"parts": [one for one in PARTS if one != part]} for part in PARTS},
}
"""Group -> variant -> parameters of the agent card that make it."""

GROUPS = (*_CHANGES, ENCODER, LOG_SIZE)
"""What can be ablated."""
GROUPS_OF_JOINT = tuple(group for group in GROUPS if group != "factors")
"""What can be ablated of an agent with a joint Q-function."""


def groups_of(agent: str, env: EnvConfig) -> tuple[str, ...]:
    """What can be ablated of an agent: groups of parameters that its card has, the encoder and the log's size."""
    algorithm = load_algorithm(load_agent(agent, env.card))
    known = set(getattr(type(algorithm), "parameters_model", Frozen).model_fields)
    return tuple(
        group for group in GROUPS if all(known.issuperset(change) for change in _CHANGES.get(group, {}).values())
    )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A router with one thing changed.

    Attributes:
        name: Its name in tables, such as "history-only".
        group: One of `GROUPS`; None for the full router.
        agent: Agent card, name or path.
        encoder: Registered name of the text encoder.
        changes: Parameters of the card that are changed, with their values.
        log_percent: Share of the log that it learns from.
    """

    name: str
    group: str | None
    agent: str
    encoder: str
    changes: Mapping[str, JsonValue] = field(default_factory=dict)
    log_percent: int = WHOLE_LOG

    def card(self, env: EnvConfig) -> AgentCard:
        """The changed card, named after agent and variant."""
        card = load_agent(self.agent, env.card)
        is_whole = not self.changes and self.group in (None, LOG_SIZE) and self.log_percent == WHOLE_LOG
        name = card.name if is_whole else f"{card.name}-{self.name}"
        return card.model_copy(update={"name": name, "parameters": {**card.parameters, **self.changes}})


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """What `mtrouter-rl lab ablate` is asked for.

    Attributes:
        config: Environment.
        dataset: Folder of the log.
        out: Folder of the run.
        agent: Agent card that is ablated.
        which: Groups of variants, of `GROUPS`.
        compared: A second agent card, trained from logs of the same sizes; None trains none.
        percents: Shares of the log, percent, beside the whole.
        split: Split that is run.
        n_seeds: Seeds per variation.
        n_trainings: Trainings of every variant.
        per_task: At most this many variations of a task; None takes all.
        seed: Seed of the first training and of the bootstrap; further trainings count up from it.
        n_workers: Worker processes.
        encoder: Registered name of the full router's text encoder.
    """

    config: EnvConfig
    dataset: Path
    out: Path
    agent: str = "fitted-q"
    which: tuple[str, ...] = GROUPS_OF_JOINT
    compared: str | None = None
    percents: tuple[int, ...] = PERCENTS
    split: Split = "test"
    n_seeds: int = 1
    n_trainings: int = 1
    per_task: int | None = None
    seed: int = 0
    n_workers: Workers = 2
    encoder: str = DEFAULT_ENCODER

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        for group in self.which:
            if group not in GROUPS:
                raise unknown_name("group of ablations", group, GROUPS)
        if not self.which:
            raise InvalidConfigError(f"which is empty, must name at least one of: {', '.join(GROUPS)}")
        check_workers(self.n_workers)
        for name in ("n_seeds", "n_trainings"):
            if getattr(self, name) < 1:
                raise InvalidConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        check_percents(self.percents)
        if self.compared is not None and LOG_SIZE not in self.which:
            raise InvalidConfigError(
                f"compare is '{self.compared}', which is trained for logs of several sizes only; add {LOG_SIZE} to --which, or "
                "leave --compare out"
            )

    @property
    def cache(self) -> Path:
        """Folder of the embedding cache."""
        return self.out / CACHE_FOLDER

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Everything that is trained, the full router first, then by group."""
        made = [Variant(name=FULL, group=None, agent=self.agent, encoder=self.encoder)]
        for group, variants in _CHANGES.items():
            if group in self.which:
                made += [
                    Variant(name=name, group=group, agent=self.agent, encoder=self.encoder, changes=changes)
                    for name, changes in variants.items()
                ]
        if ENCODER in self.which:
            # Plug-ins may ask for money or a network, so only those of the package are tried unasked.
            others = [name for name in ENCODERS.builtin if name != self.encoder]
            made += [Variant(name=f"encoder-{name}", group=ENCODER, agent=self.agent, encoder=name) for name in others]
        if LOG_SIZE in self.which:
            agents = [self.agent] if self.compared is None else [self.agent, self.compared]
            made += [
                Variant(name=f"log-{percent}", group=LOG_SIZE, agent=agent, encoder=self.encoder, log_percent=percent)
                for agent in agents
                for percent in (*sorted(self.percents), WHOLE_LOG)
                if (agent, percent) != (self.agent, WHOLE_LOG)
            ]
        return tuple(made)

    @property
    def trials(self) -> "tuple[Trial, ...]":
        """Every training: the first of every variant, then the second of every variant, and so on."""
        return tuple(
            Trial(request=self, variant=variant, number=number)
            for number in range(self.n_trainings)
            for variant in self.variants
        )

    def describe(self) -> dict[str, JsonValue]:
        """JSON of what must not change within a folder; variants and trainings may be added."""
        return {
            "command": "ablate",
            "agent": cast(JsonValue, load_agent(self.agent, self.config.card).model_dump(mode="json")),
            "encoder": self.encoder,
            "seed": self.seed,
            "n_seeds": self.n_seeds,
            "per_task": self.per_task,
            "dataset": cast(JsonValue, read_info(self.dataset).model_dump(mode="json")),
            **describe(self.config),
        }


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a variant.

    Attributes:
        request: What it is part of.
        variant: The variant.
        number: Which training of the variant, from 0.
    """

    request: AblationRequest
    variant: Variant
    number: int

    @property
    def seed(self) -> int:
        """Seed of the training, and of the draw of a smaller log."""
        return self.request.seed + self.number

    @property
    def card(self) -> AgentCard:
        """Card of the router; from the second training on its name ends in the seed."""
        card = self.variant.card(self.request.config)
        return card if self.number == 0 else card.model_copy(update={"name": f"{card.name}-s{self.seed}"})

    @property
    def folder(self) -> Path:
        """Folder of the router."""
        return self.request.out / ROUTERS_FOLDER / slug(self.card.name)

    @property
    def logs(self) -> Path:
        """Folder of the smaller logs of its seed."""
        return self.request.out / LOGS_FOLDER / f"s{self.seed}"

    @property
    def dataset(self) -> Path:
        """Folder of the log that it learns from."""
        percent = self.variant.log_percent
        return self.request.dataset if percent == WHOLE_LOG else self.logs / str(percent)

    @property
    def training(self) -> TrainRequest:
        """The training."""
        return TrainRequest(
            agent=self.card,
            config=self.request.config,
            seed=self.seed,
            out=self.folder,
            dataset=self.dataset,
            encoder=self.variant.encoder,
            cache=self.request.cache,
        )


def run_ablations(request: AblationRequest, *, say: Callable[[str], None], show_progress: bool = True) -> Ablations:
    """Train and run every variant; what is done is kept, and what was killed goes on where it stopped.

    Args:
        request: What to run.
        say: Told, in a sentence, what begins and how long it took.
        show_progress: Whether to draw progress bars.

    Returns:
        The comparison, also in `out/ablations.json`, `ablations.md` and `plots/`; every row is in `out/results.json` too.

    Raises:
        InvalidConfigError: If an agent cannot be ablated as asked, the folder is of another setting, or the log is too
            short for its smaller shares.
        DatasetError: If the log breaks its rules.
        MissingDependencyError: If the package of an encoder is not installed.
    """
    _check(request)
    _claim(request)
    clock = Clock(say)
    trials = request.trials
    if LOG_SIZE in request.which:
        clock.step("1/4 draw smaller logs, each inside every larger one")
        for logs, seed in dict.fromkeys((trial.logs, trial.seed) for trial in trials):
            write_subsets(request.dataset, logs, request.percents, seed=seed)
    clock.step(f"2/4 train {len(trials)} routers: {', '.join(trial.card.name for trial in trials)}")
    _encode(trials, show_progress=show_progress)
    train_side_by_side([trial.training for trial in trials], n_workers=request.n_workers, show_progress=show_progress)
    clock.step(f"3/4 evaluate on {request.split}, closed-loop, every router on the same episodes")
    with RolloutPool(request.config, n_workers=request.n_workers) as pool:
        for number in range(request.n_trainings):
            folders = [str(trial.folder) for trial in trials if trial.number == number]
            evaluate_routers(pool, _evaluation(request, folders), show_progress=show_progress)
    clock.step("4/4 compare, and draw")
    ablations = _compare(request, trials)
    ablations.save(request.out)
    save_ablation_plots(ablations, request.out / PLOTS_FOLDER)
    clock.done()
    return ablations


def _check(request: AblationRequest) -> None:
    """Refuse what would fail late."""
    if request.compared == request.agent:
        raise InvalidConfigError(f"compare is '{request.agent}', must be another agent than the one that is ablated")
    for agent in dict.fromkeys((request.agent, request.compared or request.agent)):
        algorithm = load_algorithm(load_agent(agent, request.config.card))
        if not algorithm.needs_dataset or algorithm.needs_validation:
            rule = "needs validation runs" if algorithm.needs_validation else "learns from no log"
            raise InvalidConfigError(
                f"agent '{agent}' {rule}, so it cannot be ablated; take one that learns from a log alone, such as fitted-q"
            )
    full = load_algorithm(load_agent(request.agent, request.config.card))
    for variant in request.variants:
        if variant.changes:
            _check_changes(request, variant, getattr(full, "parameters", None))


def _check_changes(request: AblationRequest, variant: Variant, full: object) -> None:
    try:
        changed = load_algorithm(variant.card(request.config))
    except CardError as error:
        raise InvalidConfigError(
            f"agent '{request.agent}' cannot be trained as '{variant.name}'; leave {variant.group} out of --which, or take "
            f"an agent with a joint Q-function, such as fitted-q: {error}"
        ) from error
    if getattr(changed, "parameters", None) == full:
        raise InvalidConfigError(
            f"agent '{request.agent}' is '{variant.name}' already ({dict(variant.changes)}), so there is nothing to compare; "
            f"leave {variant.group} out of --which, or take the card without that parameter"
        )


def _claim(request: AblationRequest) -> None:
    """Make the folder that of this setting, or see that it is."""
    path = request.out / CONFIG_FILE
    wanted = json.loads(json.dumps(request.describe() | {"package_version": __version__}))
    there = read_setting(path) if path.is_file() else wanted
    differing = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
    if differing:
        raise InvalidConfigError(
            f"{path} is of another setting (differs in: {', '.join(differing)}); choose another --out: only variants, "
            "trainings and splits can be added to a folder"
        )
    save_config(request.out, request.describe())


def _encode(trials: Sequence[Trial], *, show_progress: bool) -> None:
    """Encode the whole log once with every encoder, so that the trainings only read vectors."""
    whole = [trial for trial in trials if trial.variant.log_percent == WHOLE_LOG]
    for encoder in dict.fromkeys(trial.variant.encoder for trial in whole):
        trial = next(trial for trial in whole if trial.variant.encoder == encoder)
        if not load_algorithm(trial.card).needs_features:
            continue
        try:
            encode_log(trial.training, show_progress=show_progress)
        except MissingDependencyError as error:
            raise MissingDependencyError(f"encoder '{encoder}': {error}; or leave {ENCODER} out of --which") from error


def _evaluation(request: AblationRequest, folders: Sequence[str]) -> EvaluateRequest:
    return EvaluateRequest(
        routers=tuple(folders),
        split=request.split,
        n_seeds=request.n_seeds,
        out=request.out,
        per_task=request.per_task,
        seed=request.seed,
        cache=request.cache,
    )


def _compare(request: AblationRequest, trials: Sequence[Trial]) -> Ablations:
    info = read_info(request.dataset)
    n_whole = len(Dataset.load(request.dataset).completed)
    records = []
    for variant in request.variants:
        own = [trial for trial in trials if trial.variant == variant]
        is_whole = variant.log_percent == WHOLE_LOG
        records.append(
            VariantRecord(
                variant=variant.name,
                group=variant.group,
                agent=load_agent(variant.agent).name,
                changes=dict(variant.changes),
                encoder=variant.encoder,
                log_percent=variant.log_percent,
                n_logged_episodes=n_whole if is_whole else read_info(own[0].dataset).n_episodes_planned,
                policies=tuple(trial.card.name for trial in own),
            )
        )
    config = request.config
    setting = AblationSetting(
        env=config.card.name,
        pool=config.pool.name,
        split=request.split,
        is_simulated=config.pool.backend.kind == "simulated",
        cost_weight=config.cost_weight,
        cost_unit_usd=config.reward.cost_unit_usd,
        dataset_id=info.dataset_id,
        agent=load_agent(request.agent).name,
        compared=None if request.compared is None else load_agent(request.compared).name,
        n_seeds=request.n_seeds,
        n_trainings=request.n_trainings,
        seed=request.seed,
        package_version=__version__,
        config=request.describe(),
    )
    metrics = {trial.card.name: _metrics(request, trial.card.name) for trial in trials}
    return compare_variants(records, metrics, setting, seed=request.seed)


def _metrics(request: AblationRequest, policy: str) -> PolicyMetrics:
    """What a router did, from the episodes that the evaluation kept."""
    episodes = Dataset.load(request.out / EPISODES_FOLDER / request.split / slug(policy)).episodes
    config = request.config
    return policy_metrics(episodes, config.reward, model_names=config.pool.model_names, policy=policy)
