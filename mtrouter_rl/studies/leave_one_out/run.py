"""A model leaves the pool or joins it: every model in turn is held out of the training of a router, which is then run.

For every held-out model four routers run the same episodes: trained without the model and run without it; the same network
asked for the whole pool, so that the model is judged by its card alone; trained with few episodes of it; trained on all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtrouter_rl.agents.q.extension import extend_router
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.agents.saving import read_record
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.datasets.logged import LOG_ONLY
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.closed_loop import Contestant, EvaluationPlan, run_policies
from mtrouter_rl.evaluation.result_rows import Comparison, build_rows
from mtrouter_rl.evaluation.results import PolicyRoles, ResultRow, header
from mtrouter_rl.files import slug
from mtrouter_rl.pools.subset import pool_without
from mtrouter_rl.records import Episode, JsonValue, Split
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.reporting.tables import format_percent
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.leave_one_out.record import ARMS, FEW, FULL, METADATA, WITHOUT, Arm, HeldOutModel, LeaveOneOut
from mtrouter_rl.transitions.hold_out import HeldOutHistory, HoldOut
from mtrouter_rl.workers.executors import Workers
from mtrouter_rl.workflows import EPISODES_FOLDER, TrainRequest, describe, save_config, train_router

N_FEW_EPISODES = 20
ROUTERS_FOLDER = "routers"
_RANDOM = "random"
_SMALLEST_POOL = 3

Episodes = dict[str, tuple[Episode, ...]]
"""Policy -> its episodes."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutRequest:
    """What `mtrouter-rl lab leave-one-out` is asked for.

    Attributes:
        agent: Agent card; of an algorithm that can learn without a model.
        dataset: Folder of the log, of the whole pool.
        out: Folder of routers, episodes and results.
        models: Models to hold out, one at a time; empty takes all of the pool.
        n_few_episodes: Logged episodes in which "few episodes" learns from the held-out model's turns.
        history: What becomes of turns that follow a held-out model's.
        split: Split whose variations are run.
        n_seeds: Seeds per variation.
        per_task: At most this many variations of a task; None takes all.
        seed: Seed of trainings, of the draw of the few episodes, and of the bootstrap.
        encoder: Registered name of the text encoder.
        overwrite: Whether routers and episodes of another setting in `out` are replaced.
    """

    agent: AgentCard
    dataset: Path
    out: Path
    models: tuple[str, ...] = ()
    n_few_episodes: int = N_FEW_EPISODES
    history: HeldOutHistory = "keep"
    split: Split = "test"
    n_seeds: int = 1
    per_task: int | None = None
    seed: int = 0
    encoder: str = DEFAULT_ENCODER
    overwrite: bool = False

    def held_out(self, model: str, arm: Arm) -> HoldOut | None:
        """What an arm's training leaves out."""
        if arm == FULL:
            return None
        n_episodes = self.n_few_episodes if arm == FEW else 0
        return HoldOut(model=model, n_episodes=n_episodes, seed=self.seed, history=self.history)


def run_leave_one_out(
    pool: RolloutPool, request: LeaveOneOutRequest, *, n_workers: Workers, show_progress: bool = True
) -> LeaveOneOut:
    """Train and run every arm for every held-out model; what is already in `out` is neither trained nor run again.

    Args:
        pool: Workers of the whole pool.
        request: What is asked for.
        n_workers: Workers of every pool without a model, which are started one after the other.
        show_progress: Whether to draw progress bars.

    Raises:
        UnknownNameError: If a model is not in the pool.
        InvalidConfigError: If a number is out of range, the environment cannot be run, or the agent cannot learn without a
            model.
        PoolMismatchError: If the log is of another pool.
        RouterError, DatasetError: If `out` holds routers or episodes of another setting.
    """
    config = pool.config
    models = _checked_models(config, request)
    run = _Run(config=config, request=request, show_progress=show_progress)
    full = run.train(None, FULL)
    routers = {model: {FULL: full} | {arm: run.train(model, arm) for arm in (METADATA, FEW)} for model in models}
    without = {model: run.leave(model, routers[model][METADATA]) for model in models}
    in_whole = dict.fromkeys(str(folder) for folders in routers.values() for folder in folders.values())
    texts = (*in_whole, _RANDOM, *(single_policy(name) for name in config.pool.model_names))
    episodes = run.play(pool, texts, folder=EPISODES_FOLDER)
    for model in models:
        smaller = replace(config, pool=pool_without(config.pool, model))
        with RolloutPool(smaller, n_workers=n_workers) as rest:
            episodes |= run.play(rest, (str(without[model]),), folder=f"{EPISODES_FOLDER}-without-{slug(model)}")
    found = run.compare(models, episodes)
    save_config(request.out, run.resolved())
    found.save(request.out)
    return found


def _checked_models(config: EnvConfig, request: LeaveOneOutRequest) -> tuple[str, ...]:
    """The models to hold out; everything that can be refused before a training is refused here."""
    for name, value in (("few_episodes", request.n_few_episodes), ("seeds", request.n_seeds)):
        if value < 1:
            raise InvalidConfigError(f"{name} is {value}, must be at least 1")
    if config.card.family == LOG_ONLY:
        raise InvalidConfigError(
            f"environment '{config.card.name}' is a log that cannot be run, and leave-one-out runs routers; give one that can"
        )
    if len(config.pool.models) < _SMALLEST_POOL:
        raise InvalidConfigError(
            f"pool '{config.pool.name}' has {len(config.pool.models)} models, must have at least {_SMALLEST_POOL}: with one "
            "model left there is nothing to route; take a larger pool"
        )
    if not getattr(load_algorithm(request.agent), "takes_held_out_model", False):
        raise InvalidConfigError(
            f"agent '{request.agent.name}' cannot learn without a model of its log; give fitted-q, myopic, or a card of theirs"
        )
    models = request.models or config.pool.model_names
    if len(set(models)) < len(models):
        raise InvalidConfigError(f"models are {list(models)}; name each once")
    for model in models:
        config.pool.index(model)
    return models


def _name(model: str | None, arm: Arm) -> str:
    """Name of an arm's router; "full" is one for all models."""
    return FULL if model is None or arm == FULL else f"{arm}: {model}"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run's environment and request, with the steps that it is made of."""

    config: EnvConfig
    request: LeaveOneOutRequest
    show_progress: bool

    @property
    def cache(self) -> Path:
        return self.request.out / "embeddings"

    def resolved(self) -> dict[str, JsonValue]:
        """The resolved configuration."""
        request = self.request
        card: JsonValue = request.agent.model_dump(mode="json")
        size: dict[str, JsonValue] = {"few_episodes": request.n_few_episodes, "history": request.history}
        return {
            **describe(self.config),
            **size,
            "agent": card,
            "encoder": request.encoder,
            "per_task": request.per_task,
        }

    def folder(self, model: str | None, arm: Arm) -> Path:
        return self.request.out / ROUTERS_FOLDER / slug(_name(model, arm))

    def train(self, model: str | None, arm: Arm) -> Path:
        """Train the router of an arm, or take the one that is there."""
        training = TrainRequest(
            agent=self.request.agent.model_copy(update={"name": _name(model, arm)}),
            config=self.config,
            seed=self.request.seed,
            out=self.folder(model, arm),
            dataset=self.request.dataset,
            encoder=self.request.encoder,
            cache=self.cache,
            overwrite=self.request.overwrite,
            held_out=None if model is None else self.request.held_out(model, arm),
        )
        return train_router(training, show_progress=self.show_progress)

    def leave(self, model: str, router: Path) -> Path:
        """The router that never learned from a model, for the pool without it. Made anew each time: it takes no training."""
        out = self.folder(model, WITHOUT)
        smaller = pool_without(self.config.pool, model)
        return extend_router(router, smaller, out=out, name=_name(model, WITHOUT), overwrite=True).folder

    def play(self, pool: RolloutPool, routers: Sequence[str], *, folder: str) -> Episodes:
        request, card = self.request, self.config.card
        plan = EvaluationPlan(
            split=request.split,
            specs=evaluation_specs(card, request.split, request.n_seeds, per_task=request.per_task),
            seed=request.seed,
            folder=request.out / folder,
            overwrite=request.overwrite,
        )
        contestants = [Contestant.of(text, pool.config, cache=self.cache) for text in routers]
        return run_policies(pool, contestants, plan, show_progress=self.show_progress)

    def compare(self, models: Sequence[str], episodes: Episodes) -> LeaveOneOut:
        """Everything that the episodes tell."""
        config, request = self.config, self.request
        names = config.pool.model_names
        shown = {name: episodes[name] for name in (_RANDOM, *(single_policy(model) for model in names))}
        references = build_rows(shown, self._comparison(PolicyRoles()), seed=request.seed)
        log = Dataset.load(request.dataset)
        return LeaveOneOut(
            **header(config),
            model_names=names,
            is_simulated=config.pool.backend.kind == "simulated",
            agent=request.agent.name,
            dataset_id=log.info.dataset_id,
            split=request.split,
            n_seeds=request.n_seeds,
            n_few_episodes=request.n_few_episodes,
            history=request.history,
            cost_weight=config.cost_weight,
            cost_unit_usd=config.reward.cost_unit_usd,
            seed=request.seed,
            config=self.resolved(),
            notes=self._notes(),
            references=references,
            models=tuple(self._held_out(model, episodes, references=references, log=log) for model in models),
        )

    def _comparison(self, roles: PolicyRoles) -> Comparison:
        return Comparison(
            split=self.request.split,
            reward=self.config.reward,
            model_names=self.config.pool.model_names,
            roles=roles,
        )

    def _held_out(
        self, model: str, episodes: Episodes, *, references: Sequence[ResultRow], log: Dataset
    ) -> HeldOutModel:
        singles = [row for row in references if row.policy != _RANDOM]
        best = max(singles, key=lambda row: row.return_mean).policy
        shown = {arm: episodes[_name(model, arm)] for arm in ARMS} | {name: episodes[name] for name in (_RANDOM, best)}
        roles = PolicyRoles(learned=ARMS, baselines=(*ARMS, _RANDOM, best))
        compared = build_rows(shown, self._comparison(roles), seed=self.request.seed)
        rows = {row.policy: row for row in compared if row.policy in ARMS}
        provenance = read_record(self.folder(model, METADATA)).provenance
        assert provenance is not None  # a training writes it
        (extrapolation,) = provenance.extrapolated
        shares: dict[Arm, float] = {arm: rows[arm].model_share.get(model, 0.0) for arm in ARMS}
        logged = [episode for episode in log.completed if episode.turns]
        few = self.request.held_out(model, FEW)
        assert few is not None
        opened = [episode for episode, is_open in zip(logged, few.opened(len(logged)), strict=True) if is_open]
        return HeldOutModel(
            model=model,
            is_best_single=best == single_policy(model),
            is_strongest=max(singles, key=lambda row: row.score_mean).policy == single_policy(model),
            n_turns_logged=_count_turns(logged, model),
            n_turns_few=_count_turns(opened, model),
            extrapolation=extrapolation,
            share_of_turns=shares,
            notes=(
                f"{METADATA}, {format_percent(shares[METADATA])} of its turns to '{model}': {extrapolation.sentence}",
            ),
            rows=tuple(rows[arm] for arm in ARMS),
        )

    def _notes(self) -> tuple[str, ...]:
        """What holds for every held-out model."""
        notes = [
            "every arm was trained once: another seed would change it, and no interval here holds that.",
            "'best single' of the paired differences has the best return on these very episodes, which flatters it a little.",
        ]
        n_warm_start = getattr(getattr(load_algorithm(self.request.agent), "parameters", None), "n_warm_start", 0)
        if n_warm_start:
            notes.append(
                f"warm start of {n_warm_start} iteration(s) on logged returns, to which the held-out model contributed later "
                "in its episodes; the iterations after that plan without it."
            )
        if self.request.history == "keep":
            notes.append(
                "states that follow a turn of the held-out model were learned from, so their histories tell of it (prices, "
                "errors); --history cut leaves them out."
            )
        if self.config.pool.backend.kind == "simulated":
            notes.append(
                "the models are simulated: how much a card tells of a model's strength was set by whoever wrote the pool card, "
                "so what 'metadata alone' reaches says nothing of real models."
            )
        return tuple(notes)


def _count_turns(episodes: Sequence[Episode], model: str) -> int:
    return sum(turn.model == model for episode in episodes for turn in episode.turns)
