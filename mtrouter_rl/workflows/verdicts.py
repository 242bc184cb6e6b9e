"""Trains an agent and says whether it is better than the best single model of its log; on wish it hands out a safe router."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtrouter_rl import __version__
from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.agents.resolve import load_algorithm, make_features
from mtrouter_rl.agents.rules.heuristics import single_router
from mtrouter_rl.agents.safe import CAUTION, MARGIN, Advantage, SafeRouter, SafeSettings, member_folders
from mtrouter_rl.agents.saving import digest
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.folds import Folds, LeftOut, check_fits_memory
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.cross_fitting import Comparison, compare
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.inputs import OpeLog, OpeRequest, prepare_log
from mtrouter_rl.ope.logged_turns import WorldTurns, turns_of_log
from mtrouter_rl.ope.record import Estimated
from mtrouter_rl.ope.verdict import VERDICT_FILE, Verdict, cannot_tell, load_verdict, verdict_of_folds
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.records import FloatArray, JsonValue, Observation
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows.log_advice import needs_of
from mtrouter_rl.workflows.training import (
    TrainRequest,
    is_done,
    save_trained,
    train_router,
    training_seconds,
)

_BATCH = 512
N_FOLDS = 3
"""Default number of folds: each training sees two thirds of the log, and all of the log judges."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class VerdictRequest:
    """What `mtrouter-rl train --verdict` is asked for.

    Attributes:
        train: The training; its `out` is the folder of the router that is handed out.
        n_folds: Parts of the log; the agent is trained once more without each.
        is_safe: Whether a `SafeRouter` is handed out instead of the learned one.
        caution: See `SafeSettings`.
        fqe: Fitted values of the estimates; one repeat for every fold is as much as three for the log.
        n_resamples: Bootstrap resamples.
    """

    train: TrainRequest
    n_folds: int = N_FOLDS
    is_safe: bool = False
    caution: float = CAUTION
    fqe: FqeParameters = field(default_factory=lambda: FqeParameters(n_repeats=1))
    n_resamples: int = OpeRequest.n_resamples

    @property
    def folds(self) -> Folds:
        """How the log is cut."""
        return Folds(n_folds=self.n_folds, seed=self.train.seed)

    @property
    def learned(self) -> TrainRequest:
        """The training on the whole log."""
        return dataclasses.replace(self.train, out=self._places[0])

    @property
    def repeats(self) -> tuple[TrainRequest, ...]:
        """The trainings without a fold, each with a seed of its own, so that luck of the training shows as well."""
        return tuple(
            dataclasses.replace(
                self.train,
                out=place,
                seed=self.train.seed + 1 + fold,
                left_out=LeftOut(fold=fold, **self.folds.model_dump()),
                evaluate_every=None,
            )
            for fold, place in enumerate(self._places[1:])
        )

    @property
    def _places(self) -> list[Path]:
        places = member_folders(self.train.out, self.n_folds)
        return places if self.is_safe else [self.train.out, *places[1:]]

    @property
    def name(self) -> str:
        """Name of the router that is handed out."""
        return f"{self.train.agent.name}-safe" if self.is_safe else self.train.agent.name


def train_with_verdict(
    request: VerdictRequest, *, say: Say, pool: RolloutPool | None = None, show_progress: bool = True
) -> Verdict:
    """Train an agent, compare it with the best single model of its log, and save router and verdict.

    What is done is not done again: a killed run goes on where it stopped, and ends with the same files.

    Args:
        request: What to train, and how to judge.
        say: Told, in a sentence, what happens.
        pool: As in `train_router`.
        show_progress: Likewise.

    Raises:
        InvalidConfigError: If a safe router is asked for and there can be none: the agent has no action values, or the log does
            not say which single model is the best. Otherwise as `train_router`.
        RouterError: If the folder holds another router.
    """
    _check(request)
    why_not = _why_no_verdict(request)
    if why_not is not None:
        if request.is_safe:
            raise InvalidConfigError(f"--safe: {why_not}")
        train_router(request.learned, pool=pool, show_progress=show_progress)
        return _saved(request, cannot_tell(why_not, policy=request.name, design="folds"))
    known = _known(request)
    if known is not None:
        return known
    train_router(request.learned, pool=pool, show_progress=show_progress)
    _train_repeats(request, pool=pool, say=say, show_progress=show_progress)
    with one_thread():
        return _judged(request, say=say, show_progress=show_progress)


def _check(request: VerdictRequest) -> None:
    if request.n_folds < 2:
        raise InvalidConfigError(f"folds is {request.n_folds}, must be at least 2")
    if not 0 <= request.caution < float("inf"):
        raise InvalidConfigError(f"caution is {request.caution}, must be a number of 0 or more")
    if request.is_safe:
        is_done(request.train, more=_safe_identity(request))
        if getattr(load_algorithm(request.train.agent), "gamma", None) is None:
            raise InvalidConfigError(
                f"--safe: agent '{request.train.agent.name}' has no action values of its turns, so nothing says where it is "
                "better than a single model; give one that has, such as fitted-q or factored-q-recurrent"
            )


def _safe_identity(request: VerdictRequest) -> dict[str, JsonValue]:
    return {"safe": {"n_folds": request.n_folds, "caution": request.caution}}


def _why_no_verdict(request: VerdictRequest) -> str | None:
    """Why nothing can be said before anything is trained; None if there may be a verdict."""
    agent, logs, algorithm = request.train.agent.name, request.train.logs, load_algorithm(request.train.agent)
    if not algorithm.needs_dataset:
        return (
            f"agent '{agent}' learns nothing from a log; 'mtrouter-rl evaluate' or 'ope' compares it with single models"
        )
    if algorithm.needs_validation:
        return (
            f"agent '{agent}' is trained with runs of every model, and would need them again for every part; "
            "'mtrouter-rl evaluate' compares it with single models"
        )
    if len(logs) != 1:
        return f"{agent} learns from {len(logs)} logs, and is compared on one alone; run 'mtrouter-rl ope' on each"
    dataset = Dataset.load(logs[0].dataset)
    try:
        check_fits_memory(dataset)
    except InvalidConfigError as error:
        return str(error)
    models = {model for episode in dataset.completed for model in episode.models}
    if len(models) < 2:
        return f"one model played all of it ({', '.join(models)}), so nothing says what another would have earned"
    n_instances = len({(one.task, one.variation) for one in dataset.completed if one.turns})
    if n_instances < 2 * request.n_folds:
        return f"it has {n_instances} (task, variation), must have {2 * request.n_folds} for {request.n_folds} folds"
    return None


def _known(request: VerdictRequest) -> Verdict | None:
    """The verdict of an earlier run on this very router, with as many folds."""
    if request.train.overwrite or not is_done(request.train, more=_safe_identity(request) if request.is_safe else {}):
        return None
    found = load_verdict(request.train.out, digest(request.train.out))
    return found if found is not None and found.n_folds == request.n_folds else None


def _train_repeats(request: VerdictRequest, *, pool: RolloutPool | None, say: Say, show_progress: bool) -> None:
    seconds, n = training_seconds(request.learned.out), request.n_folds
    took = "" if seconds is None else f"; this one took {seconds:.0f} s of processor time"
    say(
        f"verdict: {n} more trainings, each on {100 * (n - 1) / n:.0f}% of the log{took}, then fitted values of the part "
        "that each has not seen"
    )
    for number, repeat in enumerate(request.repeats, start=1):
        say(f"training {number} of {n}, without part {number} of the log")
        started = time.monotonic()
        train_router(repeat, pool=pool, show_progress=show_progress)
        say(f"training {number} of {n} is done ({time.monotonic() - started:.0f} s)")


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """The routers of a request, what they would do at every logged turn, and the parts of the log.

    Attributes:
        request: What was asked for.
        learned: The router of the whole log.
        repeats: The routers without a fold.
        run: The log, with the probabilities of the repeats and of single models.
        folds: Fold of every episode, shape (E,).
        singles: Model -> policy that calls it throughout.
        turns: The log as models of its world are made of it; None if it does not allow any.
    """

    request: VerdictRequest
    learned: Router
    repeats: tuple[Router, ...]
    run: OpeLog
    folds: npt.NDArray[np.int64]
    singles: Mapping[str, str]
    turns: WorldTurns | None

    @property
    def of_turn(self) -> npt.NDArray[np.int64]:
        """Fold of every turn, shape (N,)."""
        return self.folds[self.run.transitions.episodes]

    def compared(
        self,
        probabilities: FloatArray,
        *,
        chosen: Sequence[str] | None = None,
        say: Say,
        show_progress: bool,
    ) -> Comparison:
        """A cross-fitted policy, given by its probabilities, against the best single model."""
        models = list(self.singles) if chosen is None else list(dict.fromkeys(chosen))
        singles = {model: self.singles[model] for model in models}
        name = self.request.name
        policies = {name: probabilities} | {single: self.run.probabilities[single] for single in singles.values()}
        run = dataclasses.replace(self.run, probabilities=policies, notes=[], turned_away={})
        return compare(
            run,
            self.folds,
            policy=name,
            singles=singles,
            chosen=chosen,
            turns=self.turns,
            say=say,
            show_progress=show_progress,
        )

    def verdict(self, found: Comparison, policy: str) -> Verdict:
        """What a comparison comes to."""
        made = verdict_of_folds(
            found,
            policy=policy,
            n_episodes=len(self.run.episodes),
            n_clusters=int(self.run.clusters.max()) + 1,
        )
        if made.word in ("better", "worse"):
            return made
        return made.model_copy(update={"needs": tuple(dict.fromkeys((*made.needs, *needs_of(self.run.dataset))))})


def _judged(request: VerdictRequest, *, say: Say, show_progress: bool) -> Verdict:
    """Compare, make the router that is handed out, and save it with its verdict."""
    trained = _trained(request, say=say, show_progress=show_progress)
    cross_fitted = np.stack([trained.run.probabilities[_repeat(fold)][row] for row, fold in enumerate(trained.of_turn)])
    agent = request.train.agent.name
    try:
        found = trained.compared(cross_fitted, say=say, show_progress=show_progress)
    except InvalidConfigError as error:
        if request.is_safe:
            raise InvalidConfigError(f"--safe: the log does not say which single model is the best: {error}") from error
        return _saved(
            request, cannot_tell(str(error), policy=agent, design="folds", needs=needs_of(trained.run.dataset))
        )
    learned = trained.verdict(found, agent)
    if not request.is_safe:
        return _saved(request, learned)
    return _safe(trained, found, learned, say=say, show_progress=show_progress)


def _trained(request: VerdictRequest, *, say: Say, show_progress: bool) -> _Trained:
    train = request.train
    assert train.dataset is not None
    dataset = Dataset.load(train.dataset)
    card, cache = train.config.pool, train.cache
    learned, *repeats = (
        load_router(one.out, pool=card, make_features=lambda config: make_features(config, card, cache))
        for one in (request.learned, *request.repeats)
    )
    singles = {name: single_policy(name) for name in card.model_names}
    routers: dict[str, Router] = {_repeat(fold): router for fold, router in enumerate(repeats)}
    routers |= {policy: single_router(name, card) for name, policy in singles.items()}
    asked = OpeRequest(
        routers=tuple(routers),
        dataset=train.dataset,
        pool=card,
        reward=train.config.reward,
        seed=train.seed,
        encoder=train.encoder,
        cache=cache,
        fqe=request.fqe,
        n_resamples=request.n_resamples,
    )
    quiet: Say = lambda _: None  # noqa: E731
    say(f"ask the {request.n_folds} routers what they would do at the turns of the log")
    run = prepare_log(
        asked, dataset, routers, texts={name: name for name in routers}, say=quiet, show_progress=show_progress
    )
    return _Trained(
        request=request,
        learned=learned,
        repeats=tuple(repeats),
        run=run,
        folds=request.folds.of_episodes(dataset.episodes, run.episodes),
        singles=singles,
        turns=_turns(run, say=say, show_progress=show_progress),
    )


def _turns(run: OpeLog, *, say: Say, show_progress: bool) -> WorldTurns | None:
    try:
        return turns_of_log(run, say=say, show_progress=show_progress)
    except InvalidConfigError as error:
        say(f"no roll-outs in a model of the log: {error}")
        return None


def _repeat(fold: int) -> str:
    return f"fold {fold}"


def _safe(trained: _Trained, found: Comparison, learned: Verdict, *, say: Say, show_progress: bool) -> Verdict:
    """Make the safe router, judge it in its turn where it is another one than the learned, and save it."""
    request, names = trained.request, trained.request.train.config.pool.model_names
    if _is_followed(learned):
        settings = SafeSettings(baseline=found.best, caution=request.caution, typical_error=0.0, is_whole=True)
        return _saved(request, _whole(learned, request), router=_safe_router(trained, settings))
    values = _values(trained)
    baseline = names.index(found.best)
    chosen = values[0].argmax(axis=1)
    typical = Advantage.of(values[0], values[1:], chosen, baseline).typical_error(baseline)
    probabilities = _safe_probabilities(trained, values[1:], found.chosen, typical_error=typical)
    best = np.stack(
        [
            trained.run.probabilities[trained.singles[found.chosen[fold]]][row]
            for row, fold in enumerate(trained.of_turn)
        ]
    )
    if np.array_equal(probabilities, best):
        verdict = _same(trained, found)
    else:
        say("estimate the safe router as well")
        again = trained.compared(probabilities, chosen=found.chosen, say=say, show_progress=show_progress)
        verdict = trained.verdict(again, request.name)
    settings = SafeSettings(
        baseline=found.best, caution=request.caution, typical_error=typical, is_held=verdict.word == "worse"
    )
    if settings.is_held:
        verdict = _held(verdict, found.best)
    return _saved(request, verdict.model_copy(update={"learned": learned}), router=_safe_router(trained, settings))


def _safe_router(trained: _Trained, settings: SafeSettings) -> SafeRouter:
    return SafeRouter(
        name=trained.request.name,
        settings=settings,
        policy=_valued(trained.learned),
        repeats=[_valued(one) for one in trained.repeats],
        provenance=getattr(trained.learned, "provenance", None),
    )


def _is_followed(learned: Verdict) -> bool:
    """Whether the learned policy as a whole does better as far as is known, and loses no more than the margin at 95%."""
    known = learned.difference
    return known is not None and known.value > 0 and known.low > -MARGIN


def _whole(learned: Verdict, request: VerdictRequest) -> Verdict:
    """The verdict on a safe router that is the learned one."""
    text = learned.text.replace(learned.policy, request.name, 1)
    told = f"{text}; the learned policy as a whole loses no more than {MARGIN:g} at 95%, so it is followed throughout"
    return learned.model_copy(update={"policy": request.name, "text": told})


def _safe_probabilities(
    trained: _Trained, repeats: FloatArray, baselines: Sequence[str], *, typical_error: float
) -> FloatArray:
    """The safe rule on every turn, with the advantage that the router without the turn's fold sees, shape (N, M).

    The error alone is of all repeats, those that saw the fold among them: it has no sign, so it cannot tell which model is
    the better one there.
    """
    names, of_turn = trained.request.train.config.pool.model_names, trained.of_turn
    actions = np.zeros(len(of_turn), dtype=np.int64)
    for fold, name in enumerate(baselines):
        rows, baseline = np.flatnonzero(of_turn == fold), names.index(name)
        chosen = trained.run.probabilities[_repeat(fold)][rows].argmax(axis=1)
        seen = Advantage.of(repeats[fold, rows], repeats[:, rows], chosen, baseline)
        actions[rows] = seen.actions(
            baseline, trained.run.masks[rows], caution=trained.request.caution, typical_error=typical_error
        )
    masks = trained.run.masks
    assert masks[np.arange(len(actions)), actions].all()
    probabilities = np.zeros(masks.shape)
    probabilities[np.arange(len(actions)), actions] = 1.0
    return probabilities


def _values(trained: _Trained) -> FloatArray:
    """Action values of the learned router and of its repeats at every turn, shape (1 + K, N, M)."""
    routers = [_valued(one) for one in (trained.learned, *trained.repeats)]
    parts: list[list[FloatArray]] = [[] for _ in routers]
    observations = _observations(trained.run)
    while batch := list(islice(observations, _BATCH)):
        for part, router in zip(parts, routers, strict=True):
            part.append(router.q_values(batch))
    return np.stack([np.concatenate(part) for part in parts])


def _observations(run: OpeLog) -> Iterator[Observation]:
    return (one for episode in run.episodes for one in observations_of(episode, run.request.pool))


def _valued(router: Router) -> ValueRouter:
    if not isinstance(router, ValueRouter):
        raise InvalidConfigError(
            f"--safe: router '{router.name}' has no action values, so nothing says where it is better than a single model"
        )
    return router


def _same(trained: _Trained, found: Comparison) -> Verdict:
    """The verdict on a router that does what the best single model does."""
    name, baseline = trained.request.name, single_policy(found.best)
    return Verdict(
        word="not distinguishable",
        text=f"{name} calls {baseline}, the best single model, at every turn of the log: nowhere is the advantage of the "
        f"learned policy above {trained.request.caution:g} of its errors",
        policy=name,
        baseline=baseline,
        design="folds",
        difference=Estimated(value=0.0, low=0.0, high=0.0),
        n_episodes=len(trained.run.episodes),
        n_clusters=int(trained.run.clusters.max()) + 1,
        n_folds=len(found.chosen),
        chosen=found.chosen,
        needs=needs_of(trained.run.dataset),
    )


def _held(verdict: Verdict, best: str) -> Verdict:
    told = f"{verdict.text}; so it calls {single_policy(best)} throughout"
    return verdict.model_copy(update={"text": told})


def _saved(request: VerdictRequest, verdict: Verdict, *, router: SafeRouter | None = None) -> Verdict:
    """Write the router that is handed out, if it is not there yet, and the verdict on it."""
    out = request.train.out
    if router is not None:
        assert request.train.dataset is not None
        save_trained(router, request.train, Dataset.load(request.train.dataset), more=_safe_identity(request))
    verdict = verdict.model_copy(update={"router": digest(out), "package_version": __version__})
    verdict.write(out / VERDICT_FILE)
    return verdict
