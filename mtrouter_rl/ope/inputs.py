"""What off-policy evaluation starts from: a log, its behaviour policy, and what every router would do at its turns."""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import RewardCard, check_card_name
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.info import INFO_FILE, read_info
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError
from mtrouter_rl.ope.behavior_model import BehaviorModel, estimate_propensities
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.record import Propensities
from mtrouter_rl.ope.sequential import ALL_ESTIMATORS, APPROXIMATE_MODEL, Estimator, TurnLog, check_probabilities
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import BoolArray, Episode, FloatArray, Observation
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.statistics.resamples import N_RESAMPLES, enough_resamples
from mtrouter_rl.transitions.arrays import Transitions, make_transitions

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

_BATCH = 512
_BEHAVIOR = "behaviour policy of the log"
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class OpeRequest:
    """What `mtrouter-rl ope` is asked for.

    Attributes:
        routers: Policies, as `mtrouter_rl.agents.resolve.resolve_router` takes them.
        dataset: Folder of the log.
        pool: Pool of the log.
        reward: Cost weight and unit of the return.
        seed: Seed of halves, training and bootstrap.
        encoder: Registered name of the text encoder of the fitted values.
        estimators: Which.
        cache: Folder of the embedding cache.
        fqe: Network and training of the fitted values.
        truth: A results.json with closed-loop rows of the same policies; None if there is none.
        truth_split: Which split of it.
        n_resamples: Bootstrap resamples, at least; see `OpeLog.n_resamples`.
        n_threads: Networks of the fitted values that are trained side by side; the numbers are the same with any.
    """

    routers: tuple[str, ...]
    dataset: Path
    pool: PoolCard
    reward: RewardCard
    seed: int = 0
    encoder: str = DEFAULT_ENCODER
    estimators: tuple[Estimator, ...] = ALL_ESTIMATORS
    cache: Path | None = None
    fqe: FqeParameters = field(default_factory=FqeParameters)
    truth: Path | None = None
    truth_split: str = "test"
    n_resamples: int = N_RESAMPLES
    n_threads: int = 1


@dataclass(kw_only=True)
class OpeLog:
    """What the steps share. Arrays are over the N logged turns, in order.

    `logged` has what the log itself says of them, `recreated` what its behaviour policy would do, where its name tells that.

    The episodes are gone through again where they are needed, so that a log need not fit into memory.
    """

    request: OpeRequest
    dataset: Dataset
    episodes: Sequence[Episode]
    transitions: Transitions
    features: "HistoryFeatures"
    routers: dict[str, Router]
    texts: dict[str, str]
    masks: BoolArray
    first_observations: list[Observation]
    probabilities: dict[str, FloatArray]
    clusters: npt.NDArray[np.int64]
    strata: npt.NDArray[np.int64]
    logged: "_LoggedTurns"
    recreated: FloatArray | None = None
    turned_away: dict[str, str] = field(default_factory=dict)
    log: TurnLog | None = None
    kind: Propensities = "unknown"
    behavior: FloatArray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Policies that are estimated."""
        return tuple(name for name in self.probabilities if name not in self.turned_away)

    @property
    def n_resamples(self) -> int:
        """Bootstrap resamples: more than were asked for, where so many differences could not pass Holm's correction else."""
        return enough_resamples(math.comb(len(self.names), 2), at_least=self.request.n_resamples)


def log_setting(
    dataset: Path,
    *,
    env: str | None = None,
    pool: str | None = None,
    cost_weight: float | None = None,
    cost_unit_usd: float | None = None,
) -> tuple[PoolCard, RewardCard]:
    """Pool and reward of a log: of its environment card; of an imported log, which has none, what the log itself says.

    Args:
        dataset: Folder of the log.
        env: Environment card; None takes that of the log.
        pool: Pool card; None takes the one that the environment names.
        cost_weight: Overrides the card's; needed for an imported log.
        cost_unit_usd: For imported logs, which have no card that says it.

    Raises:
        DatasetError: If the folder is no dataset.
        CardError, UnknownNameError: If a card cannot be read.
        InvalidConfigError: If a number is missing, out of range, or given where a card says it.
    """
    info = read_info(dataset)
    if info.origin == "imported" and env is None:
        if cost_weight is None or cost_unit_usd is None:
            raise InvalidConfigError(
                f"log '{info.dataset_id}' was imported, so no card says what money is worth: give --cost-weight and "
                "--cost-unit-usd (such as 0.4 and what the strongest model spends on an episode)"
            )
        logged = logged_env(info, cost_weight=cost_weight, cost_unit_usd=cost_unit_usd)
        return logged.pool, logged.reward
    if cost_unit_usd is not None:
        raise InvalidConfigError("--cost-unit-usd is for imported logs; this environment's card has its own")
    if env is None:
        check_card_name("envs", info.env, where=f"{dataset / INFO_FILE}, field env")
    config = resolve_env(env or info.env, pool, cost_weight=cost_weight)
    return config.pool, config.reward


def prepare(request: OpeRequest, *, say: Callable[[str], None], show_progress: bool) -> OpeLog:
    """Read the log, encode it, and ask every router what it would do at its turns. Raises as `ope_run.run_ope`."""
    make_encoder(request.encoder, request.cache)  # a missing extra is told before minutes of reading
    dataset = Dataset.load(request.dataset)
    routers, texts = _routers(request)
    return prepare_log(request, dataset, routers, texts=texts, say=say, show_progress=show_progress)


def prepare_log(
    request: OpeRequest,
    dataset: Dataset,
    routers: Mapping[str, Router],
    *,
    texts: Mapping[str, str],
    say: Callable[[str], None],
    show_progress: bool,
) -> OpeLog:
    """The same for a log that is loaded, and routers that are made; `texts` has what the user wrote for each."""
    from mtrouter_rl.embeddings.history import HistoryFeatures

    encoder = make_encoder(request.encoder, request.cache)
    dataset.info.check_pool(request.pool)
    episodes = _with_turns(dataset)
    _check_log(dataset, episodes)
    features = HistoryFeatures(encoder=encoder, pool=request.pool)
    say(f"encode {len(episodes)} episodes")
    transitions = make_transitions(dataset, features, reward=request.reward, gamma=1.0, show_progress=show_progress)
    for name in routers:
        say(f"ask {name} what it would do at {len(transitions)} turns")
    behavior = _named_behavior(dataset.info.behavior_policy, request.pool)
    logged = _LoggedTurns()
    asked = _ask_all(
        {**routers, **({} if behavior is None else {_BEHAVIOR: behavior})}, logged.pass_on(episodes), request.pool
    )
    recreated = asked.probabilities.pop(_BEHAVIOR, None)
    return OpeLog(
        request=request,
        dataset=dataset,
        episodes=episodes,
        transitions=transitions,
        features=features,
        routers=dict(routers),
        texts=dict(texts),
        masks=asked.masks,
        first_observations=asked.first_observations,
        probabilities=asked.probabilities,
        clusters=_numbers(logged.pairs),
        strata=_numbers([task for task, _ in logged.pairs]),
        logged=logged,
        recreated=recreated,
    )


def _with_turns(dataset: Dataset) -> Sequence[Episode]:
    """Completed episodes with a turn; in memory where the log is."""
    if isinstance(dataset.episodes, StreamedEpisodes):
        return dataset.episodes.completed(with_turns=True)
    return tuple(episode for episode in dataset.completed if episode.turns)


def _check_log(dataset: Dataset, episodes: Sequence[Episode]) -> None:
    name = dataset.info.dataset_id
    if not episodes:
        raise InvalidConfigError(
            f"dataset '{name}' has no completed episode with a turn; there is nothing to estimate from"
        )
    models = _some_models(episodes)
    if len(models) < 2:
        raise InvalidConfigError(
            f"dataset '{name}' was played by one model only ({', '.join(models)}), so it cannot tell what any other choice "
            "would have earned; log with several models, such as with 'mtrouter-rl collect --policy uniform'"
        )


def _some_models(episodes: Iterable[Episode]) -> set[str]:
    """Two models that were called, or the one."""
    found: set[str] = set()
    for episode in episodes:
        found.update(episode.models)
        if len(found) > 1:
            break
    return found


def _routers(request: OpeRequest) -> tuple[dict[str, Router], dict[str, str]]:
    if not request.routers:
        raise InvalidConfigError("there is no router to estimate; give at least one")
    routers: dict[str, Router] = {}
    texts: dict[str, str] = {}
    for text in request.routers:
        router = resolve_router(text, request.pool, cache=request.cache)
        if router.model_names != request.pool.model_names:
            raise PoolMismatchError(
                f"router '{router.name}' is for the models {', '.join(router.model_names)}, but the log has "
                f"{', '.join(request.pool.model_names)}; estimate it on a log of its own pool"
            )
        if router.name in routers:
            raise InvalidConfigError(
                f"routers '{texts[router.name]}' and '{text}' are both called '{router.name}'; train one again under an "
                "agent card of another name"
            )
        routers[router.name], texts[router.name] = router, text
    return routers, texts


class _Asked(NamedTuple):
    """Allowed models at every logged state, and every router's probabilities there, all of shape (N, M)."""

    masks: BoolArray
    first_observations: list[Observation]
    probabilities: dict[str, FloatArray]


def _ask_all(routers: Mapping[str, Router], episodes: Iterable[Episode], pool: PoolCard) -> _Asked:
    """Ask routers what they would do at every logged state; the states are made as they are needed."""
    from mtrouter_rl.embeddings.history_sources import observations_of

    observations = (one for episode in episodes for one in observations_of(episode, pool))
    masks, firsts = list[BoolArray](), list[Observation]()
    parts: dict[str, list[FloatArray]] = {name: [] for name in routers}
    while batch := list(islice(observations, _BATCH)):
        masks.append(np.array([one["action_mask"] for one in batch], dtype=bool))
        firsts += [one for one in batch if one["turn"] == 0]
        for name, router in routers.items():
            parts[name].append(router.action_probabilities(batch))
    allowed, probabilities = np.concatenate(masks), {name: np.concatenate(found) for name, found in parts.items()}
    for name, found in probabilities.items():
        try:
            check_probabilities(found, allowed)
        except InvalidConfigError as error:
            raise InvalidConfigError(f"router '{name}': {error}") from error
    return _Asked(allowed, firsts, probabilities)


def _numbers(labels: Sequence[object]) -> npt.NDArray[np.int64]:
    index = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([index[label] for label in labels], dtype=np.int64)


def turn_away_switching(run: OpeLog) -> None:
    """Refuse routers that would change the model within an episode, if the log never does."""
    if any(len(set(episode.models)) > 1 for episode in run.episodes):
        return
    for name, probabilities in run.probabilities.items():
        share = switch_share(probabilities, run.transitions.actions, run.transitions.turns)
        if share > _TINY:
            run.turned_away[name] = (
                "no episode of the log ever changes the model, and this router does (after its own choices, with "
                f"probability {share:.3f} a turn); such a log holds nothing about what happens then"
            )


def switch_share(probabilities: FloatArray, actions: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> float:
    """Mean probability that a policy changes the model, over turns that its own choices could have led to.

    Args:
        probabilities: Shape (N, M).
        actions: Logged models, shape (N,).
        turns: Turn index, shape (N,).

    Example:
        >>> stays = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
        >>> switch_share(stays, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        0.0
        >>> switch_share(stays[[0, 3]], np.array([0, 0]), np.array([0, 1]))
        1.0
    """
    taken = probabilities[np.arange(len(actions)), actions] > 0
    total, n, is_own = 0.0, 0, True
    for i, turn in enumerate(turns):
        if turn > 0 and is_own:
            total, n = total + 1 - float(probabilities[i, actions[i - 1]]), n + 1
        is_own = bool(taken[i]) and (turn == 0 or is_own)
    return total / n if n else 0.0


def find_behavior(run: OpeLog, *, say: Callable[[str], None]) -> None:
    """Propensities of the logged models, and the whole behaviour distribution if it can be had."""
    turns = run.logged
    known = None if turns.lacks_propensities else np.array(turns.propensities)
    run.kind = "unknown" if known is None else ("exact" if run.dataset.info.propensities == "exact" else "estimated")
    run.behavior = None if known is None else _recreated(run, known)
    needs = bool(set(run.request.estimators) - {"dm", APPROXIMATE_MODEL})
    if known is None and needs:
        say("the log has no propensities: estimate them")
        model = _estimated_behavior(run)
        known, run.kind, run.behavior = model.propensities, "estimated", model.probabilities
        run.notes.append(_describe(model))
    elif run.behavior is None:
        try:
            run.behavior = _estimated_behavior(run).probabilities
            run.notes.append("support: which models the behaviour policy would call where is estimated by a classifier")
        except InvalidConfigError as error:  # nothing that was asked for needs it
            run.notes.append(f"support: whether the log calls what the routers choose was not checked: {error}")
    if run.kind == "estimated":
        run.notes.append(
            "propensities are ESTIMATED: every weighting estimate rests on a model of the behaviour policy"
        )
    reward = run.request.reward
    utilities, costs = np.array(turns.utilities), np.array(turns.costs_usd)
    run.log = TurnLog(
        lengths=np.bincount(run.transitions.episodes),
        actions=run.transitions.actions,
        propensities=known,
        rewards=np.stack([utilities, costs, reward.reward(utilities, costs)], axis=1),
        clusters=run.clusters,
        n_models=run.transitions.n_models,
    )


class _LoggedTurns:
    """Task and variation of every episode, and numbers of every logged turn, in order, of the episodes that went through."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, int]] = []
        self.utilities, self.costs_usd, self.propensities = array("d"), array("d"), array("d")
        self.lacks_propensities = False

    def pass_on(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        """The same episodes; what they hold is noted, so that a log is gone through once for both."""
        for episode in episodes:
            self.pairs.append((episode.task, episode.variation))
            for turn in episode.turns:
                self.utilities.append(turn.utility_gain)
                self.costs_usd.append(turn.cost_usd)
                self.lacks_propensities |= turn.propensity is None
                self.propensities.append(1.0 if turn.propensity is None else turn.propensity)
            yield episode


def _named_behavior(name: str, pool: PoolCard) -> Router | None:
    """The behaviour policy, if it can be made from its name."""
    is_known = name.partition(":")[0] in ("uniform", "sticky", "random")
    return resolve_router(name, pool, cache=None) if is_known else None


def _recreated(run: OpeLog, known: FloatArray) -> FloatArray | None:
    """Distribution of a behaviour policy that was made from its name, if it agrees with what was logged."""
    if run.recreated is None:
        return None
    again = run.recreated[np.arange(len(known)), run.transitions.actions]
    return run.recreated if np.allclose(again, known, atol=1e-6) else None


def _estimated_behavior(run: OpeLog) -> BehaviorModel:
    features = run.transitions.observations[run.transitions.rows, : run.features.dim]
    cluster_of_turn = run.clusters[run.transitions.episodes]
    return estimate_propensities(
        features,
        run.transitions.actions,
        run.masks,
        cluster_of_turn,
        seed=run.request.seed,
        model_names=run.request.pool.model_names,
    )


def _describe(model: BehaviorModel) -> str:
    return (
        f"estimated propensities: log-loss {model.log_loss:.3f} nats out of sample (shares of the models alone: "
        f"{model.log_loss_of_shares:.3f}), calibration error {model.calibration_error:.3f}, {model.n_raised} turns raised to "
        "the floor"
    )
