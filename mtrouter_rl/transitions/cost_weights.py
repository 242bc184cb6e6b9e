"""Cost weights as an input: which ones a training draws, and how a network reads one.

The reward of a turn is utility gained minus the cost weight times its cost. A Q-function that is told the weight can be
trained for a whole range of them from one log, since utility and cost of a logged turn do not depend on it.
"""

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray, Frozen, Positive

_N_BUMPS = 8
N_COLUMNS = 2 + _N_BUMPS
"""Columns that a cost weight takes in the input of a network."""


class CostWeights(Frozen):
    """Which cost weights a training draws: 0 with probability `share_zero`, else log-uniform from `low` to `high`.

    Attributes:
        low: Smallest weight above 0 that is drawn.
        high: Largest weight that is drawn.
        share_zero: Probability of the weight 0, at which money does not count.
    """

    low: Positive = 0.03
    high: Positive = 4.0
    share_zero: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must be below high")
        return self

    @property
    def lowest(self) -> float:
        """The smallest weight that a router may be asked for."""
        return 0.0 if self.share_zero > 0 else self.low

    def sample(self, n: int, generator: np.random.Generator) -> FloatArray:
        """Draw n weights, one from each of n equal parts of the distribution, so that every mini-batch covers all of it.

        Returns:
            Shape (n,), from the smallest part to the largest.
        """
        quantiles = (np.arange(n) + generator.random(n)) / n
        above = np.maximum(quantiles - self.share_zero, 0.0) / (1 - self.share_zero)
        weights: FloatArray = np.where(quantiles < self.share_zero, 0.0, self.low * (self.high / self.low) ** above)
        return weights

    def features(self, cost_weights: FloatArray) -> npt.NDArray[np.float32]:
        """What a network is told of cost weights, every column in [0, 1].

        The first column is w / (1 + w), in which the reward in units of 1 + w is linear; the second the weight on a
        logarithmic scale that 0 is on; the others are bumps along that scale, so that neighbouring weights may be
        treated differently without a deep network.

        Args:
            cost_weights: Shape (B,).

        Returns:
            Shape (B, `N_COLUMNS`).
        """
        weights = np.asarray(cost_weights, dtype=np.float64)
        position = np.log1p(weights / self.low) / np.log1p(self.high / self.low)
        distances = (position[:, None] - np.linspace(0, 1, _N_BUMPS)) * (_N_BUMPS - 1)
        columns = [(weights / (1 + weights))[:, None], position[:, None], np.exp(-0.5 * distances**2)]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def check(self, cost_weight: float, *, what: str) -> None:
        """Refuse a weight that was never trained: nothing is known of what a network does there.

        Args:
            cost_weight: The weight.
            what: Who is asked for it, for the message.

        Raises:
            InvalidConfigError: If it is outside the range.
        """
        if not self.lowest <= cost_weight <= self.high:
            raise InvalidConfigError(
                f"{what}: cost weight is {cost_weight:g}, must be from {self.lowest:g} to {self.high:g}, the range of the "
                "training; choose one inside, or train with another range (parameter 'cost_weights' of the agent card)"
            )

    def grid(self, n: int) -> tuple[float, ...]:
        """At most n + 1 weights to choose from: 0 if it is trained, and n from `low` to `high`, evenly spaced in the logarithm.

        Those between the ends are rounded to two significant digits.

        Example:
            >>> CostWeights(low=0.03, high=3, share_zero=0.1).grid(5)
            (0.0, 0.03, 0.095, 0.3, 0.95, 3.0)
        """
        between = (float(f"{weight:.2g}") for weight in np.geomspace(self.low, self.high, n)[1:-1])
        weights = {self.low, self.high, *(weight for weight in between if self.low < weight < self.high)}
        return tuple(sorted({0.0} | weights if self.share_zero > 0 else weights))
