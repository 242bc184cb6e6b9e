"""The main job: collect, choose the strongest model, train, evaluate, report; every finished step is kept."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import EnvCard, card_roots, parse_section
from mtrouter_rl.cards.policy import reference_policy, single_policy
from mtrouter_rl.datasets.info import INFO_FILE, read_info
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.files import whole
from mtrouter_rl.records import Frozen, JsonValue, PositiveInt, Split
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.rollout.collection import fingerprint_cards
from mtrouter_rl.workers.executors import Workers, end_with_parent, result_of, start_executor, submitted
from mtrouter_rl.workflows import (
    RESULTS_FILE,
    VALIDATION_FOLDER,
    CollectRequest,
    EvaluateRequest,
    TrainRequest,
    collect_dataset,
    describe,
    encode_log,
    evaluate_routers,
    load_agent,
    present,
    save_config,
    train_router,
)

logger = logging.getLogger(__name__)

DATASET_FOLDER = "dataset"
ROUTERS_FOLDER = "routers"
CACHE_FOLDER = "embeddings"
STRONGEST = "strongest"
LOG_POLICY = "uniform"

_DEFAULT = ("factored-q-recurrent", "fitted-q", "monte-carlo-q", "behavior-cloning", "myopic")
_SINGLE_TURN = (
    "task-table",
    "task-ridge",
    "task-neighbors",
    "task-clusters",
    "task-boosting",
    "task-factorization",
)
_PER_TURN = ("turn-ridge", "turn-neighbors", "turn-clusters", "turn-boosting")
_RULES = ("escalate-on-error", "strong-first", "cheap-first", "interleave")
_LEARNERS = (
    "fitted-q",
    "fitted-q-last-iterate",
    "fitted-q-ensemble",
    "fitted-q-dqn",
    "fitted-q-nfq",
    "fitted-q-cql",
    "fitted-q-bcq",
)
AGENT_SETS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    "single-turn": _SINGLE_TURN,
    "per-turn": _PER_TURN,
    "rules": _RULES,
    "learners": _LEARNERS,
    "all": (*_DEFAULT, "behavior-cloning-best", *_SINGLE_TURN, *_PER_TURN, *_RULES, "cascade"),
}
"""Agents of a study by one word; random, cheapest, strongest and the single models are in every study."""


def expand_agents(names: Sequence[str]) -> tuple[str, ...]:
    """Agent cards that names stand for, each once; a name of `AGENT_SETS` stands for its agents.

    Example:
        >>> expand_agents(["rules", "fitted-q", "interleave"])
        ('escalate-on-error', 'strong-first', 'cheap-first', 'interleave', 'fitted-q')
    """
    return tuple(dict.fromkeys(agent for name in names for agent in AGENT_SETS.get(name, (name,))))


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How much a study does.

    Attributes:
        n_episodes: Logged episodes to train on.
        n_validation_seeds: Seeds per validation variation, for the choice of the strongest model.
        validation_per_task: At most this many validation variations of a task; None takes all.
        n_test_seeds: Seeds per test variation.
        n_ood_seeds: Seeds per held-out variation.
        ood_per_task: At most this many variations of a held-out task; None takes all.
    """

    n_episodes: int
    n_validation_seeds: int
    validation_per_task: int | None
    n_test_seeds: int
    n_ood_seeds: int
    ood_per_task: int | None


QUICK = StudySize(
    n_episodes=600, n_validation_seeds=1, validation_per_task=2, n_test_seeds=2, n_ood_seeds=1, ood_per_task=2
)
"""Fits into a quarter of an hour on two cores with ScienceWorld; a card of faster or slower episodes names other sizes."""


class QuickCard(Frozen):
    """What is an environment's own in the quick study: section `studies.quick` of its card. See `StudySize`."""

    n_episodes: PositiveInt = QUICK.n_episodes
    n_validation_seeds: PositiveInt = QUICK.n_validation_seeds
    validation_per_task: PositiveInt | None = QUICK.validation_per_task
    n_test_seeds: PositiveInt = QUICK.n_test_seeds
    n_ood_seeds: PositiveInt = QUICK.n_ood_seeds
    ood_per_task: PositiveInt | None = QUICK.ood_per_task


def quick_size(card: EnvCard) -> StudySize:
    """Size of the quick study of an environment: `QUICK`, changed by what its card says.

    Raises:
        CardError: If the card names a size that there is not, or one that is not above 0.
    """
    return StudySize(**parse_section(card, "quick", QuickCard).model_dump())


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What `mtrouter-rl study` is asked for.

    Attributes:
        config: Environment.
        out: Folder of the run.
        size: How much.
        seed: Seed of collection, training and bootstrap.
        n_workers: Worker processes.
        agents: Agent cards that are trained from the log.
        encoder: Registered name of the text encoder.
        collects: Collect a log of its own even if one of this environment and pool travels with the cards.
        shows_reference: Run the reference that sees the simulator's hidden state as well; it is no router and not ranked.
    """

    config: EnvConfig
    out: Path
    size: StudySize
    seed: int
    n_workers: Workers
    agents: tuple[str, ...] = _DEFAULT
    encoder: str = DEFAULT_ENCODER
    collects: bool = False
    shows_reference: bool = False

    @property
    def cache(self) -> Path:
        """Folder of the embedding cache."""
        return self.out / CACHE_FOLDER

    def describe(self) -> dict[str, JsonValue]:
        """JSON of what decides the results, for provenance."""
        return {
            "command": "study",
            "seed": self.seed,
            "size": asdict(self.size),
            "agents": list(self.agents),
            "encoder": self.encoder,
            **describe(self.config),
        }

    def router(self, agent: str) -> Path:
        """Folder of the router of an agent card, name or path."""
        return self.out / ROUTERS_FOLDER / load_agent(agent).name


def run_study(request: StudyRequest, *, say: Callable[[str], None], show_progress: bool = True) -> Results:
    """Run the study; steps that are done are skipped, a step that was killed goes on where it stopped.

    Args:
        request: What to run.
        say: Told, in a sentence, what begins and how long it took.
        show_progress: Whether to draw progress bars.

    Returns:
        The results, also in `out/results.json`.
    """
    clock = Clock(say)
    save_config(request.out, request.describe())
    with RolloutPool(request.config, n_workers=request.n_workers) as pool:
        clock.step("1/5 collect: a log of uniform per-turn random routing on the train split")
        collect_log(pool, request, say=say, show_progress=show_progress)
        clock.step("2/5 validate: every single model on the validation split, to find the strongest")
        train_router(_training(request, STRONGEST), pool=pool, show_progress=show_progress)
        clock.step(f"3/5 train: {', '.join(request.agents)}")
        _train_all(request, pool, show_progress=show_progress)
        for split in _splits(request.config):
            clock.step(f"4/5 evaluate on {split}, closed-loop, every router on the same episodes")
            _evaluate(pool, request, split, show_progress=show_progress)
    clock.step("5/5 draw plots, TensorBoard and the report")
    trained = [str(request.router(agent)) for agent in request.agents]
    present(request.out, request.config, routers=trained, cache=request.cache)
    clock.done()
    return Results.load(request.out / RESULTS_FILE)


def collect_log(pool: RolloutPool, request: StudyRequest, *, say: Callable[[str], None], show_progress: bool) -> None:
    """Take the log that travels with the cards if it is of this environment and pool, else collect one."""
    out = request.out / DATASET_FOLDER
    shipped = None if request.collects else shipped_log(request.config)
    is_there = (out / INFO_FILE).is_file()
    if shipped is None or (is_there and read_info(out) != read_info(shipped)):
        log = CollectRequest(policy=LOG_POLICY, n_episodes=request.size.n_episodes, seed=request.seed, out=out)
        collect_dataset(pool, log, show_progress=show_progress)
    elif not is_there:
        say(f"    taking {shipped.name}, which is of this environment and pool already; --collect makes a fresh one")
        with whole(out, overwrite=True) as partial:
            shutil.copytree(shipped, partial)


def shipped_log(config: EnvConfig) -> Path | None:
    """Folder of a log beside the dataset cards that was collected uniformly in just this environment and pool."""
    for path in (path for root in card_roots() for path in sorted((root / "datasets").glob(f"*/{INFO_FILE}"))):
        info = read_info(path.parent)
        is_same = info.created_by.get("cards") == fingerprint_cards(config)
        has_limits = (info.max_turns, info.budget_usd) == (config.limits.max_turns, config.limits.budget_usd)
        if is_same and has_limits and (info.behavior_policy, info.split) == (LOG_POLICY, "train"):
            return path.parent
    return None


def _training(request: StudyRequest, agent: str) -> TrainRequest:
    card = load_agent(agent, request.config.card)
    return TrainRequest(
        agent=card,
        config=request.config,
        seed=request.seed,
        out=request.router(agent),
        dataset=None if agent == STRONGEST else request.out / DATASET_FOLDER,
        encoder=request.encoder,
        cache=request.cache,
        n_validation_seeds=request.size.n_validation_seeds,
        validation_per_task=request.size.validation_per_task,
        validation_folder=request.router(STRONGEST) / VALIDATION_FOLDER,
    )


def _splits(config: EnvConfig) -> tuple[Split, ...]:
    """Splits to evaluate on: "ood" only where the environment holds tasks out."""
    return ("test", "ood") if config.card.ood_tasks else ("test",)


def _evaluate(pool: RolloutPool, request: StudyRequest, split: Split, *, show_progress: bool) -> None:
    """Run the routers on all seeds, and the single models that only draw the hull on one."""
    size, config = request.size, request.config
    n_seeds, per_task = (size.n_test_seeds, None) if split == "test" else (size.n_ood_seeds, size.ood_per_task)
    strongest = Contestant.of(str(request.router(STRONGEST)), config, cache=request.cache)
    both = (strongest, Contestant.of("cheapest", config, cache=None))
    compared = {single_policy(one.first_model) for one in both if one.first_model is not None}
    trained = [str(request.router(agent)) for agent in request.agents]
    references = [reference_policy("hidden")] if request.shows_reference else []
    plan = EvaluateRequest(
        routers=(*sorted(compared), "random", "cheapest", str(request.router(STRONGEST)), *trained, *references),
        split=split,
        n_seeds=n_seeds,
        out=request.out,
        per_task=per_task,
        seed=request.seed,
        cache=request.cache,
    )
    evaluate_routers(pool, plan, show_progress=show_progress)
    others = tuple(single_policy(name) for name in config.pool.model_names if single_policy(name) not in compared)
    if others:
        evaluate_routers(pool, replace(plan, routers=others, n_seeds=1), show_progress=show_progress)


def _train_one(training: TrainRequest, show_progress: bool) -> None:
    import torch

    torch.set_num_threads(1)
    train_router(training, show_progress=show_progress)


def _train_all(request: StudyRequest, pool: RolloutPool, *, show_progress: bool) -> None:
    """Train the agents side by side, after the log was encoded once for all of them.

    Those that validate come first, one after the other: they use the episodes that were run to find the strongest model.
    """
    every = [_training(request, agent) for agent in request.agents]
    of_features = next((training for training in every if load_algorithm(training.agent).needs_features), None)
    if of_features is not None:
        encode_log(of_features, show_progress=show_progress)
    validating = [training for training in every if load_algorithm(training.agent).needs_validation]
    for training in validating:
        train_router(training, pool=pool, show_progress=show_progress)
    trainings = [training for training in every if training not in validating]
    train_side_by_side(trainings, n_workers=request.n_workers, show_progress=show_progress)


def train_side_by_side(trainings: Sequence[TrainRequest], *, n_workers: Workers, show_progress: bool) -> None:
    """Train in several processes, or one after the other in this one.

    Their logs are to be encoded before: each process would encode what it lacks for itself.

    Args:
        trainings: What to train; finished ones are skipped.
        n_workers: Processes; 1 is this one.
        show_progress: Whether to draw progress bars; with several processes, that of the first training alone.
    """
    if n_workers == 1:
        for training in trainings:
            _train_one(training, show_progress)
        return
    with start_executor(n_workers, initializer=end_with_parent) as executor:
        futures = [
            submitted(executor, _train_one, training, show_progress and index == 0)
            for index, training in enumerate(trainings)
        ]
        for future in futures:
            result_of(future)


class Clock:
    """Says what begins, and how long the step before took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Start the clock; `say` is told every sentence."""
        self._say = say
        self._start = self._last = time.monotonic()
        self._is_first = True

    def step(self, text: str) -> None:
        """Say that a step begins."""
        self._tell_last()
        self._say(text)

    def done(self) -> None:
        """Say how long everything took."""
        self._tell_last()
        self._say(f"done in {(time.monotonic() - self._start) / 60:.1f} min")

    def _tell_last(self) -> None:
        now = time.monotonic()
        if not self._is_first:
            self._say(f"    took {now - self._last:.0f} s")
        self._is_first = False
        self._last = now
