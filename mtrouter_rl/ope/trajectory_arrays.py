"""Logged turns as arrays: what estimates from logs start from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError
from mtrouter_rl.records import BoolArray, FloatArray

_SUM_TOLERANCE = 1e-6


def with_return(values: FloatArray, reward: RewardCard) -> npt.NDArray[np.float64]:
    """Append the return to arrays whose last axis is (utility, cost)."""
    returns = np.asarray(reward.reward(values[..., 0], values[..., 1]))
    return np.concatenate([values, returns[..., None]], axis=-1, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TurnLog:
    """Logged turns as arrays, episode after episode.

    Attributes:
        lengths: Turns of every episode, at least 1, shape (E,).
        actions: Model of every turn, shape (N,), N the sum of the lengths.
        propensities: Probability of the logged action under the behaviour policy, in (0, 1], shape (N,); None if nobody
            knows, which leaves the direct method (dm) alone.
        rewards: One column for every quantity that is estimated, shape (N, K).
        clusters: Cluster of every episode for the bootstrap, such as its (task, variation), shape (E,).
        n_models: M.
    """

    lengths: npt.NDArray[np.int64]
    actions: npt.NDArray[np.int64]
    propensities: npt.NDArray[np.float64] | None
    rewards: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]
    n_models: int

    def __post_init__(self) -> None:
        if not len(self.lengths):
            raise InvalidConfigError("the log has no episode; give at least one, such as by another split")
        n = int(self.lengths.sum())
        propensities = np.ones(n) if self.propensities is None else self.propensities
        shapes = (self.actions.shape, propensities.shape, self.rewards.shape[:1], self.clusters.shape)
        if shapes != ((n,), (n,), (n,), (len(self.lengths),)):
            raise InvalidConfigError(
                f"lengths give {n} turns of {len(self.lengths)} episodes, but actions, propensities, rewards and clusters "
                f"have shapes {shapes}; give one entry per turn, and one cluster per episode"
            )
        if (self.lengths < 1).any():
            raise InvalidConfigError("an episode has no turn; leave such episodes out and count them")
        strange = np.flatnonzero((self.actions < 0) | (self.actions >= self.n_models))
        if strange.size:
            raise PoolMismatchError(
                f"turn {strange[0]}: action is {self.actions[strange[0]]}, must be in 0..{self.n_models - 1}: the log is of "
                f"another pool than the one of {self.n_models} models"
            )
        bad = np.flatnonzero(~((propensities > 0) & (propensities <= 1)))
        if bad.size:
            raise InvalidConfigError(
                f"turn {bad[0]}: propensity is {propensities[bad[0]]}, must be in (0, 1]; without propensities only "
                "the direct method (dm) can be had"
            )
        check_finite("rewards", self.rewards)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Index of every episode's first turn, shape (E,)."""
        starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return starts

    @property
    def turns(self) -> npt.NDArray[np.int64]:
        """Turn index, from 0 in every episode, shape (N,)."""
        turns: npt.NDArray[np.int64] = np.arange(len(self.actions)) - np.repeat(self.starts, self.lengths)
        return turns


@dataclass(frozen=True, kw_only=True)
class Values:
    """A model of an evaluation policy's values at the logged states.

    Attributes:
        logged: Value of the logged action, shape (N, K).
        states: Value of the state under the policy, the mean of the action values over its probabilities, shape (N, K).
    """

    logged: npt.NDArray[np.float64]
    states: npt.NDArray[np.float64]

    @classmethod
    def of(cls, q_values: FloatArray, probabilities: FloatArray, actions: npt.NDArray[np.int64]) -> "Values":
        """From action values of shape (N, M, K), probabilities of shape (N, M) and logged actions of shape (N,)."""
        return cls(
            logged=np.asarray(q_values[np.arange(len(actions)), actions], dtype=np.float64),
            states=np.asarray((probabilities[:, :, None] * q_values).sum(axis=1), dtype=np.float64),
        )

    def check(self, log: TurnLog) -> None:
        """Check that there is one finite value for every reward of a log.

        Raises:
            InvalidConfigError: Names the first turn that breaks the rule.
        """
        for name, array in (("values of logged actions", self.logged), ("values of states", self.states)):
            if array.shape != log.rewards.shape:
                raise InvalidConfigError(f"{name} have shape {array.shape}, must be {log.rewards.shape} as the rewards")
            check_finite(name, array)


def check_finite(name: str, rows: FloatArray) -> None:
    """Check numbers of every turn, shape (N, K).

    Raises:
        InvalidConfigError: Names the first turn with a number that is not finite.
    """
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if wrong.size:
        raise InvalidConfigError(f"turn {wrong[0]}: {name} are {rows[wrong[0]]}, must be finite")


def check_probabilities(probabilities: FloatArray, masks: BoolArray, *, name: str = "probabilities") -> None:
    """Check that a policy gives a distribution over the allowed models at every turn.

    Args:
        probabilities: One row per turn, should have the shape of the masks.
        masks: Allowed models, shape (N, M).
        name: What the numbers are called in messages.

    Raises:
        InvalidConfigError: Names the first turn that breaks a rule.
    """
    if probabilities.shape != masks.shape:
        raise InvalidConfigError(
            f"{name} have shape {probabilities.shape}, must be {masks.shape}: one row per turn, one column per model of the "
            "log's pool"
        )
    sums = probabilities.sum(axis=1)
    bad = np.flatnonzero(~(np.abs(sums - 1) <= _SUM_TOLERANCE) | (probabilities < 0).any(axis=1))
    if bad.size:
        raise InvalidConfigError(
            f"turn {bad[0]}: {name} {probabilities[bad[0]]} sum to {sums[bad[0]]}, must be a distribution over the "
            "models"
        )
    forbidden = np.flatnonzero((np.where(masks, 0.0, probabilities) > _SUM_TOLERANCE).any(axis=1))
    if forbidden.size:
        raise InvalidConfigError(
            f"turn {forbidden[0]}: {name} {probabilities[forbidden[0]]} reach masked models, must be 0 where the "
            f"action mask is ({masks[forbidden[0]].astype(int)})"
        )


def importance_ratios(log: TurnLog, probabilities: FloatArray) -> FloatArray:
    """pi_it / b_it of every turn, shape (N,).

    Raises:
        InvalidConfigError: If the log has no propensities.
    """
    if log.propensities is None:
        raise InvalidConfigError(
            "the log has no propensities, and all estimators but dm weigh by them; estimate them, or ask for dm alone"
        )
    ratios: FloatArray = probabilities[np.arange(len(log.actions)), log.actions] / log.propensities
    return ratios


@dataclass(frozen=True, kw_only=True)
class WeightedTurns:
    """Turns laid out by episode and turn; after its end an episode keeps its last weight and has no reward.

    Attributes:
        weights: W_it, the product of the ratios up to turn t, shape (E, T).
        before: W_i,t-1, shape (E, T).
        positions: Row of the (E * T) layout that every logged turn has, shape (N,).
    """

    weights: FloatArray
    before: FloatArray
    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, log: TurnLog, ratios: FloatArray) -> "WeightedTurns":
        """From the ratio of every logged turn, shape (N,)."""
        n_episodes, n_turns = len(log.lengths), int(log.lengths.max())
        positions = np.repeat(np.arange(n_episodes), log.lengths) * n_turns + log.turns
        grid = np.ones(n_episodes * n_turns)
        grid[positions] = ratios
        weights = np.cumprod(grid.reshape(n_episodes, n_turns), axis=1)
        before = np.concatenate([np.ones((n_episodes, 1)), weights[:, :-1]], axis=1)
        return cls(weights=weights, before=before, positions=positions)

    def spread(self, values: FloatArray) -> FloatArray:
        """Numbers of the logged turns, shape (N, K), in the layout (E, T, K), 0 after the end."""
        grid = np.zeros((self.weights.size, values.shape[1]))
        grid[self.positions] = values
        return grid.reshape(*self.weights.shape, values.shape[1])
