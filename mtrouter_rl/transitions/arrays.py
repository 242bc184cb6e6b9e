"""A log laid out as arrays, and mini-batches of it for d3rlpy.

Every episode of T turns gives T transitions and T + 1 rows of observations: the state before each turn, and the one
after the last. The next observation of a transition is the next row, so nothing is stored twice and the last
transition of an episode, with its reward, is kept however the episode ended.
"""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Episode, FloatArray
from mtrouter_rl.transitions.mapped import (
    TURNS_PER_CHUNK,
    MappedObservations,
    bits_of,
    chunks_of,
    count_rows,
    features_on_disk,
    nothing_to_learn,
    with_turns,
)

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures


LogShares = Literal["equal", "by-turns"]
"""How much of a mini-batch is of each environment, where a router learns from logs of several.

"equal": the same share of each, to within one transition. How many turns a log holds says how long somebody collected and
how long its tasks take (hundreds of episodes of thirty turns here, thousands of nine there), not how much the environment
matters to the router; and with squared errors, a log of ten times the turns would decide ten times as much about every
weight that the environments share. The price: a short log is seen more often, so it is sooner learned by heart.
"by-turns": every logged turn counts the same, as if all logs were one.
"""


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """A log that a router learns from.

    Attributes:
        dataset: The logged episodes.
        reward: Cost weight and unit of its environment.
        features: History and model features, of the pool of its environment.
    """

    dataset: "Dataset"
    reward: RewardCard
    features: "HistoryFeatures"


FORBIDDEN_Q = -100.0
"""Q-value of a forbidden model: below every return, and small enough to stay exact in float32 (-1e9 breaks d3rlpy's
discrete BCQ)."""


NOT_IMITATED = -100
"""In the place of an action that is not to be imitated: what torch leaves out of a classifier's loss."""

_LOG = logging.getLogger(__name__)


def discounted_returns(rewards: FloatArray, gamma: float) -> FloatArray:
    """Return-to-go of every turn of one episode.

    Args:
        rewards: Reward per turn, shape (T,).
        gamma: Discount factor, in [0, 1].

    Returns:
        Discounted sum of rewards from each turn to the last, float64, shape (T,).

    Example:
        >>> discounted_returns(np.array([1.0, 0.0, 2.0]), 0.5)
        array([1.5, 1. , 2. ])

    Source: Sutton and Barto, Reinforcement Learning (2018), section 3.3.
    """
    returns = np.zeros(len(rewards))
    following = 0.0
    for turn in range(len(rewards) - 1, -1, -1):
        following = float(rewards[turn]) + gamma * following
        returns[turn] = following
    return returns


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """B transitions, as a training step takes them; all float32.

    Attributes:
        observations: Shape (B, D); (B, T, D) of B whole episodes.
        actions: Shape (B, 1); (B, T) of whole episodes.
        rewards: Shape (B, 1).
        next_observations: Shape (B, D); a single row, (1, D), where nothing follows any of them.
        terminals: 1 where nothing follows, shape (B, 1).
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    next_observations: npt.NDArray[np.float32]
    terminals: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """B."""
        return len(self.actions)

    def part(self, rows: slice) -> "MiniBatch":
        """Some of the transitions."""
        following = self.next_observations
        return MiniBatch(
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            next_observations=following[rows] if len(following) == len(self) else following,
            terminals=self.terminals[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """N transitions of E episodes over R = N + E observation rows.

    Attributes:
        observations: [history features (D), allowed bits (M)], float32, shape (R, D + M); read from disk by row where the log
            is too large for memory. The bits of the row after the last turn are all 0, which the Q-function reads as "no mask".
        rows: Row of the state before the transition, shape (N,); the next state is row + 1.
        actions: Model chosen, shape (N,).
        rewards: Utility gained minus weighted cost, float32, shape (N,).
        terminals: 1 where the value ends with this transition, float32, shape (N,).
        utility_gains: Shape (N,).
        costs_usd: USD, shape (N,).
        episodes: Index of the episode among those that were given, shape (N,).
        turns: Turn index, shape (N,).
        returns: Discounted return from this turn on, as logged, float32, shape (N,).
        n_models: M.
        groups: Which group (environment) each transition is of, where a mini-batch takes the same share of every group,
            shape (N,); None draws from all transitions alike.
        PER_TRANSITION: Names of the fields of shape (N,).
    """

    PER_TRANSITION: ClassVar[tuple[str, ...]] = (
        *("rows", "actions", "rewards", "terminals", "utility_gains", "costs_usd", "episodes", "turns", "returns"),
    )

    observations: npt.NDArray[np.float32] | MappedObservations
    rows: npt.NDArray[np.int64]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    terminals: npt.NDArray[np.float32]
    utility_gains: npt.NDArray[np.float32]
    costs_usd: npt.NDArray[np.float32]
    episodes: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    returns: npt.NDArray[np.float32]
    n_models: int
    groups: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def value_unit(self) -> float:
        """What a value that is learned from these rewards is multiplied with to give a return."""
        return 1.0

    @property
    def start_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the first states of the episodes, shape (E,)."""
        rows: npt.NDArray[np.int64] = self.rows[self.turns == 0]
        return rows

    @cached_property
    def is_regression(self) -> bool:
        """Whether the value ends with every transition, so that nothing is bootstrapped from what follows."""
        return bool((self.terminals == 1).all())

    def without_next(self) -> Self:
        """The same transitions and rewards, with nothing after them."""
        return dataclasses.replace(self, terminals=np.ones_like(self.terminals))

    def as_return_regression(self) -> Self:
        """The same transitions, with the logged return as reward and nothing after it."""
        return dataclasses.replace(self.without_next(), rewards=self.returns)

    def of_episodes(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """Transitions of some episodes; `chosen` has one flag for every episode that was given."""
        return self.where(chosen[self.episodes])

    def where(self, keep: npt.NDArray[np.bool_]) -> Self:
        """Some of the transitions; `keep` has shape (N,). Observations stay, as the next ones are found by their rows."""
        groups = None if self.groups is None else self.groups[keep]
        fields = {name: getattr(self, name)[keep] for name in self.PER_TRANSITION}
        return dataclasses.replace(self, groups=groups, **fields)

    def batch(self, indices: npt.NDArray[np.int64], *, has_next: bool = True) -> MiniBatch:
        """The transitions of these indices, shape (B,); without `has_next` a single row stands for what follows them."""
        rows = self.rows[indices]
        if has_next and isinstance(self.observations, MappedObservations):  # row and next row lie side by side on disk
            pairs = self.observations[np.stack([rows, rows + 1], axis=1).ravel()]
            now, following = pairs[0::2], pairs[1::2]
        else:
            now, following = self.observations[rows], self.observations[rows + 1 if has_next else rows[:1] + 1]
        return MiniBatch(
            observations=now,
            actions=self.actions[indices, None].astype(np.float32),
            rewards=self.rewards[indices, None],
            next_observations=following,
            terminals=self.terminals[indices, None],
        )

    def sample(self, batch_size: int, generator: np.random.Generator) -> MiniBatch:
        """Mini-batch drawn uniformly with replacement; with groups, as many of each (to within one), uniform within it.

        Where nothing follows any transition, what follows counts 0 times: one row of it gives the same weights at less work.
        """
        has_next = not self.is_regression
        if self.groups is None:
            return self.batch(generator.integers(len(self), size=batch_size), has_next=has_next)
        order, starts, sizes = self._by_group
        drawn = (np.arange(batch_size) + generator.integers(len(sizes))) % len(sizes)
        return self.batch(order[starts[drawn] + generator.integers(sizes[drawn])], has_next=has_next)

    @property
    def n_episodes(self) -> int:
        """How many episodes the transitions are of."""
        return len(self._episode_starts)

    def episodes_of(self, n_turns: int) -> int:
        """How many episodes hold about so many turns, at least 1."""
        return max(1, round(n_turns * self.n_episodes / len(self)))

    def sample_episodes(self, n_episodes: int, generator: np.random.Generator) -> MiniBatch:
        """Whole episodes of one log, drawn uniformly with replacement: an axis for the turns follows that of the episodes.

        Turns after the end of an episode have rows of zeros, and `NOT_IMITATED` for an action. Rewards and all that follows are
        of no meaning.
        """
        assert self.groups is None
        starts = self._episode_starts
        drawn = generator.integers(len(starts), size=n_episodes)
        first, sizes = starts[drawn], np.diff(np.append(starts, len(self)))[drawn]
        there = np.arange(sizes.max()) < sizes[:, None]
        indices = (first[:, None] + np.arange(sizes.max()))[there]
        observations = np.zeros((*there.shape, self.observations.shape[1]), dtype=np.float32)
        observations[there] = self.observations[self.rows[indices]]
        actions = np.full(there.shape, NOT_IMITATED, dtype=np.float32)
        actions[there] = self.actions[indices]
        nothing = np.zeros((n_episodes, 1), dtype=np.float32)
        return MiniBatch(
            observations=observations,
            actions=actions,
            rewards=nothing,
            next_observations=observations[:1, 0],
            terminals=nothing,
        )

    @cached_property
    def _episode_starts(self) -> npt.NDArray[np.int64]:
        """Index of the first transition of every episode."""
        return np.flatnonzero(np.diff(self.episodes, prepend=-1))

    @cached_property
    def _by_group(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Transitions in the order of their groups, where each group starts in it, and how many it has."""
        assert self.groups is not None
        _, starts, sizes = np.unique(np.sort(self.groups), return_index=True, return_counts=True)
        return np.argsort(self.groups, kind="stable"), starts, sizes

    @property
    def allowed_bits(self) -> npt.NDArray[np.bool_]:
        """Which models are allowed in every row, shape (R, M); none in the row after the last turn."""
        if isinstance(self.observations, MappedObservations):
            return self.observations.allowed > 0
        return self.observations[:, -self.n_models :] > 0

    def with_extra(self, columns: npt.NDArray[np.float32]) -> Self:
        """The same with values in the extra columns of every row, shape (n_extra,); an array is written to."""
        if isinstance(self.observations, MappedObservations):
            return dataclasses.replace(self, observations=self.observations.with_extra(columns))
        stop = self.observations.shape[1] - self.n_models
        self.observations[:, stop - len(columns) : stop] = columns
        return self

    def with_allowed(self, bits: npt.NDArray[np.uint8]) -> Self:
        """The same with other allowed bits, shape (R, M); the logged actions stay."""
        if isinstance(self.observations, MappedObservations):
            return dataclasses.replace(self, observations=self.observations.with_allowed(bits))
        observations = self.observations.copy()
        observations[:, -self.n_models :] = bits
        return dataclasses.replace(self, observations=observations)

    def fingerprint(self) -> str:
        """Checksum of everything that a training reads."""
        is_mapped = isinstance(self.observations, MappedObservations)
        checksum = self.observations.fingerprint() if isinstance(self.observations, MappedObservations) else 0
        arrays = (self.rows, self.actions, self.rewards, self.terminals)
        for array in arrays if is_mapped else (self.observations, *arrays):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return f"{len(self)}-{checksum:08x}"


def make_transitions(
    dataset: "Dataset",
    features: "HistoryFeatures",
    *,
    reward: RewardCard,
    gamma: float,
    bootstrap_after_truncation: bool = False,
    n_extra: int = 0,
    show_progress: bool = False,
) -> Transitions:
    """Lay out the completed episodes of a dataset.

    Args:
        dataset: The log.
        features: Encodes it.
        reward: Cost weight and unit.
        gamma: Discount of `Transitions.returns`.
        bootstrap_after_truncation: False: a truncated episode has no value after its last turn, as a terminated one.
            The state holds the turns and the budget that are left, so the limit is part of the task that is learned
            (the "time-aware" agents of Pardo et al., Time Limits in Reinforcement Learning, 2018). True: the value of
            the state after the last turn is bootstrapped, as if the episode went on ("partial-episode bootstrapping").
        n_extra: Columns of zeros between history features and mask, for the caller to fill in.
        show_progress: Whether to draw a progress bar while encoding.

    Raises:
        InvalidConfigError: If no completed episode has a turn, or a return is at or below the value of forbidden
            models.
    """
    return join_transitions(
        [TrainingLog(dataset=dataset, reward=reward, features=features)],
        gamma=gamma,
        log_shares="by-turns",
        bootstrap_after_truncation=bootstrap_after_truncation,
        n_extra=n_extra,
        show_progress=show_progress,
    )


def join_transitions(
    logs: Sequence[TrainingLog],
    *,
    gamma: float,
    log_shares: LogShares,
    bootstrap_after_truncation: bool = False,
    n_extra: int = 0,
    show_progress: bool = False,
) -> Transitions:
    """Lay out the completed episodes of one or several logs of the same models, one log after the other.

    The rewards of each log are those of its own environment.

    Args:
        logs: At least one.
        gamma: See `make_transitions`, as for the last three.
        log_shares: Whether a mini-batch takes as much of every environment, or of every turn.
        bootstrap_after_truncation: Likewise.
        n_extra: Likewise.
        show_progress: Likewise.

    Raises:
        InvalidConfigError: As `make_transitions`, for any of the logs.
    """
    envs = [log.dataset.info.env for log in logs]
    is_drawn_by_group = log_shares == "equal" and len(set(envs)) > 1
    groups = [envs.index(env) for env in envs] if is_drawn_by_group else None
    lay_out = partial(_lay_out, gamma=gamma, bootstrap_after_truncation=bootstrap_after_truncation)
    if any(isinstance(log.dataset.episodes, StreamedEpisodes) for log in logs):
        return _join_from_disk(logs, lay_out, n_extra=n_extra, groups=groups)
    episodes = [_learnable(log.dataset) for log in logs]
    ends = np.cumsum([count_rows(some) for some in episodes])
    model_names = tuple(logs[0].dataset.info.model_names)
    # The one large array is made once: laying logs out one by one and joining them would hold it twice.
    observations = np.zeros((ends[-1], logs[0].features.dim + n_extra + len(model_names)), dtype=np.float32)
    parts = []
    for log, some, rows in zip(logs, episodes, np.split(observations, ends[:-1]), strict=True):
        log.features.encode_log(some, show_progress=show_progress)
        _fill_observations(rows, some, log.features)
        part = lay_out(some, observations=rows, model_names=model_names, reward=log.reward)
        _check_returns(part, log.reward)
        parts.append(part)
    return _joined(parts, observations, groups=groups)


def _join_from_disk(
    logs: Sequence[TrainingLog], lay_out: Callable[..., Transitions], *, n_extra: int, groups: Sequence[int] | None
) -> Transitions:
    """Lay out logs that memory does not hold: their features are on disk, their episodes are gone through once."""
    model_names = tuple(logs[0].dataset.info.model_names)
    files, allowed, parts, part_groups = [], [], list[Transitions](), list[int]()
    for number, log in enumerate(logs):
        files.append(features_on_disk(log.dataset, log.features))
        for some in chunks_of(with_turns(log.dataset), n_turns=TURNS_PER_CHUNK):
            bits = bits_of(some)
            part = lay_out(some, observations=bits, model_names=model_names, reward=log.reward)
            _check_returns(part, log.reward)
            parts.append(part)
            allowed.append(bits.astype(np.uint8))
            part_groups.append(0 if groups is None else groups[number])
    observations = MappedObservations(files, np.concatenate(allowed), np.zeros(n_extra, dtype=np.float32))
    return _joined(parts, observations, groups=None if groups is None else part_groups)


def _joined(
    parts: Sequence[Transitions],
    observations: npt.NDArray[np.float32] | MappedObservations,
    *,
    groups: Sequence[int] | None,
) -> Transitions:
    """Parts whose observations lie one after the other in one array; `groups` has the group of every part."""
    n_rows = np.cumsum([0, *(len(part.observations) for part in parts)])
    n_episodes = np.cumsum([0, *(part.episodes[-1] + 1 for part in parts)])
    names = ("actions", "rewards", "terminals", "utility_gains", "costs_usd", "turns", "returns")
    return Transitions(
        observations=observations,
        rows=np.concatenate([part.rows + offset for part, offset in zip(parts, n_rows, strict=False)]),
        episodes=np.concatenate([part.episodes + offset for part, offset in zip(parts, n_episodes, strict=False)]),
        n_models=parts[0].n_models,
        groups=None if groups is None else np.repeat(groups, [len(part) for part in parts]),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def _learnable(dataset: "Dataset") -> list[Episode]:
    """Completed episodes with a turn, of which there must be one."""
    episodes = [episode for episode in dataset.completed if episode.turns]
    skipped = len(dataset.completed) - len(episodes)
    if skipped:
        _LOG.warning("%d completed episodes without a turn give no transition", skipped)
    if not episodes:
        raise nothing_to_learn(dataset)
    return episodes


def _fill_observations(rows: npt.NDArray[np.float32], episodes: Sequence[Episode], features: "HistoryFeatures") -> None:
    """Write features and masks; the columns between them, if there are any, stay 0."""
    bits = bits_of(episodes)
    rows[:, -bits.shape[1] :] = bits
    start = 0
    for episode in episodes:
        n_rows = len(episode.turns) + 1
        rows[start : start + n_rows, : features.dim] = features.of_episode(episode)
        start += n_rows


def _lay_out(
    episodes: Sequence[Episode],
    *,
    observations: npt.NDArray[np.float32],
    model_names: tuple[str, ...],
    reward: RewardCard,
    gamma: float,
    bootstrap_after_truncation: bool,
) -> Transitions:
    turns = [turn for episode in episodes for turn in episode.turns]
    lengths = np.array([len(episode.turns) for episode in episodes])
    episode_index = np.repeat(np.arange(len(episodes)), lengths)
    turn_index = np.concatenate([np.arange(length) for length in lengths])
    utility_gains = np.array([turn.utility_gain for turn in turns])
    costs_usd = np.array([turn.cost_usd for turn in turns])
    rewards = reward.reward(utility_gains, costs_usd)
    parts = np.split(rewards, np.cumsum(lengths)[:-1])
    terminated = np.array([turn.terminated for turn in turns])
    truncated = np.array([turn.truncated for turn in turns])
    ends = terminated if bootstrap_after_truncation else terminated | truncated
    return Transitions(
        observations=observations,
        rows=np.arange(len(turns)) + episode_index,
        actions=np.array([model_names.index(turn.model) for turn in turns]),
        rewards=rewards.astype(np.float32),
        terminals=ends.astype(np.float32),
        utility_gains=utility_gains.astype(np.float32),
        costs_usd=costs_usd.astype(np.float32),
        episodes=episode_index,
        turns=turn_index,
        returns=np.concatenate([discounted_returns(part, gamma) for part in parts]).astype(np.float32),
        n_models=len(model_names),
    )


def _check_returns(transitions: Transitions, reward: RewardCard) -> None:
    lowest = float(transitions.returns.min())
    if lowest <= FORBIDDEN_Q:
        raise InvalidConfigError(
            f"reward.cost_weight {reward.cost_weight} with cost_unit_usd {reward.cost_unit_usd} gives a return of "
            f"{lowest:.4g}, must be above {FORBIDDEN_Q}, the value of forbidden models; choose a larger cost_unit_usd"
        )
