"""A log whose rewards are worked out anew, for a cost weight of its own, whenever a transition is drawn."""

import dataclasses
import zlib
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q, MiniBatch, Transitions, discounted_returns
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights


@dataclass(frozen=True, kw_only=True)
class FrontierTransitions(Transitions):
    """Transitions for a Q-function that is told the cost weight, in `N_COLUMNS` more columns of the observation.

    `sample` draws a weight for every transition of a mini-batch, writes it into both observations and works out the
    reward: what would have been logged under that weight, since the logging policy knew of none. `batch`, `rewards`,
    `returns` and `observations` are those of one weight, the environment's.

    Rewards are in units of 1 + w: (utility gained - w x cost) / (1 + w), a weighted mean of the two. That leaves the best
    model of every state as it is, and all weights with values of one size; else large weights would drown the others in
    a squared error.

    Source: Abels et al., Dynamic Weights in Multi-Objective Deep Reinforcement Learning (2019), conditioned network.
    Deviations: a log instead of an environment, and independent weights instead of the current and past ones.

    Attributes:
        cost_weights: What is drawn.
        reward: Cost unit; cost weight of everything that is not drawn.
        utility_returns: Discounted utility from this turn on, as logged, float32, shape (N,).
        cost_returns_usd: Discounted cost from this turn on, as logged, USD, float32, shape (N,).
    """

    PER_TRANSITION: ClassVar[tuple[str, ...]] = (*Transitions.PER_TRANSITION, "utility_returns", "cost_returns_usd")

    cost_weights: CostWeights
    reward: RewardCard
    utility_returns: npt.NDArray[np.float32]
    cost_returns_usd: npt.NDArray[np.float32]

    @classmethod
    def of(cls, plain: Transitions, *, cost_weights: CostWeights, reward: RewardCard, gamma: float) -> Self:
        """Take over a log that was laid out with `N_COLUMNS` extra columns, which are filled in.

        Args:
            plain: The log, with the rewards of `reward`; its observations are written to.
            cost_weights: What is to be drawn.
            reward: Cost unit, and the environment's cost weight.
            gamma: Discount of the returns.

        Raises:
            InvalidConfigError: If a return under the largest weight is at or below the value of forbidden models.
        """
        starts = np.flatnonzero(plain.turns == 0)[1:]
        utility_returns = _returns(plain.utility_gains, starts, gamma)
        cost_returns_usd = _returns(plain.costs_usd, starts, gamma)
        unit = 1 + reward.cost_weight
        fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
        made = cls(
            **(fields | {"rewards": plain.rewards / np.float32(unit), "returns": plain.returns / np.float32(unit)}),
            cost_weights=cost_weights,
            reward=reward,
            utility_returns=utility_returns,
            cost_returns_usd=cost_returns_usd,
        )
        made = made.with_extra(cost_weights.features(np.array([reward.cost_weight]))[0])
        made._check_returns()
        return made

    @property
    def value_unit(self) -> float:
        """See `Transitions.value_unit`."""
        return 1 + self.reward.cost_weight

    @property
    def weight_columns(self) -> slice:
        """Columns of the observation that tell the cost weight."""
        stop = self.observations.shape[1] - self.n_models
        return slice(stop - N_COLUMNS, stop)

    def as_return_regression(self) -> Self:
        """The same transitions, with the logged return under the drawn weight as reward and nothing after it."""
        return dataclasses.replace(
            super().as_return_regression(), utility_gains=self.utility_returns, costs_usd=self.cost_returns_usd
        )

    def sample(self, batch_size: int, generator: np.random.Generator) -> MiniBatch:
        """Mini-batch drawn uniformly with replacement, each transition under a cost weight of its own."""
        indices = generator.integers(len(self), size=batch_size)
        return self.batch_at(indices, self.cost_weights.sample(batch_size, generator))

    def batch_at(self, indices: npt.NDArray[np.int64], cost_weights: FloatArray) -> MiniBatch:
        """The transitions of these indices under these cost weights, both of shape (B,)."""
        batch = self.batch(indices, has_next=not self.is_regression)
        columns = self.cost_weights.features(cost_weights)
        for observations in (batch.observations, batch.next_observations):
            observations[:, self.weight_columns] = columns[: len(observations)]
        rewards = self._rewards(self.utility_gains[indices], self.costs_usd[indices], cost_weights)
        return dataclasses.replace(batch, rewards=rewards.astype(np.float32)[:, None])

    def fingerprint(self) -> str:
        """See `Transitions.fingerprint`."""
        checksum = 0
        for array in (self.utility_gains, self.costs_usd, self.utility_returns, self.cost_returns_usd):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return f"{super().fingerprint()}-{checksum:08x}"

    def _rewards(self, utilities: FloatArray, costs_usd: FloatArray, cost_weights: FloatArray) -> FloatArray:
        rewards: FloatArray = (utilities - cost_weights * costs_usd / self.reward.cost_unit_usd) / (1 + cost_weights)
        return rewards

    def _check_returns(self) -> None:
        high = np.array([self.cost_weights.high])
        lowest = float(self._rewards(self.utility_returns, self.cost_returns_usd, high).min())
        if lowest <= FORBIDDEN_Q:
            raise InvalidConfigError(
                f"cost_weights.high {self.cost_weights.high:g} with cost_unit_usd {self.reward.cost_unit_usd} gives a return "
                f"of {lowest:.4g} in units of 1 + weight, must be above {FORBIDDEN_Q}, the value of forbidden models; choose "
                "a larger cost_unit_usd"
            )


def _returns(values: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], gamma: float) -> npt.NDArray[np.float32]:
    """Discounted sum from every turn on; `starts` are the first turns of all episodes but the first."""
    parts = [discounted_returns(part, gamma) for part in np.split(values, starts)]
    return np.concatenate(parts).astype(np.float32)
