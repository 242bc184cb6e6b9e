"""Upper concave hulls of the same points in many bootstrap draws at once: `mtrouter_rl.statistics.hull`, vectorised.

A hull is kept as its height at the cost of every point, since it is linear between them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class Hulls:
    """Hull of K (cost, score) points in each of R draws: what mixtures of two points reach for no more than a cost.

    Attributes:
        costs_usd: Costs of the points, ascending in every draw, shape (R, K).
        heights: Height of the hull at them, ascending in every draw, shape (R, K).
    """

    costs_usd: FloatArray
    heights: FloatArray

    @classmethod
    def of(cls, costs_usd: FloatArray, scores: FloatArray) -> "Hulls":
        """Work out the hulls of points, shapes (R, K) each, K at least 1."""
        order = np.argsort(costs_usd, axis=1)
        costs = np.take_along_axis(costs_usd, order, axis=1)
        # what a cheaper point scores, a dearer limit allows as well
        known = np.maximum.accumulate(np.take_along_axis(scores, order, axis=1), axis=1)
        heights = known.copy()
        for k in range(1, costs.shape[1] - 1):
            left, right = costs[:, :k, None], costs[:, None, k + 1 :]
            low, high = known[:, :k, None], known[:, None, k + 1 :]
            shares = _ratio(costs[:, k, None, None] - left, right - left)
            heights[:, k] = np.maximum(heights[:, k], (low + shares * (high - low)).max(axis=(1, 2)))
        return cls(costs_usd=costs, heights=heights)

    def scores_at(self, at_usd: FloatArray) -> FloatArray:
        """Height at a cost in every draw, shape (R,); flat beyond the best point, -inf below the cheapest.

        Example:
            >>> hulls = Hulls.of(np.tile([1.0, 2.0], (3, 1)), np.tile([0.0, 10.0], (3, 1)))
            >>> hulls.scores_at(np.array([0.5, 1.5, 9.0])).tolist()
            [-inf, 5.0, 10.0]
        """
        n_below = (self.costs_usd <= at_usd[:, None]).sum(axis=1)
        (left, right), (low, high) = _around(self.costs_usd, n_below), _around(self.heights, n_below)
        inside = low + np.clip(_ratio(at_usd - left, right - left), 0.0, 1.0) * (high - low)
        return np.where(n_below > 0, inside, -np.inf)

    def costs_at(self, at_scores: FloatArray) -> FloatArray:
        """Least cost at which the hull reaches a score in every draw, shape (R,); inf above its best.

        Example:
            >>> hulls = Hulls.of(np.tile([1.0, 2.0], (3, 1)), np.tile([0.0, 10.0], (3, 1)))
            >>> hulls.costs_at(np.array([-1.0, 5.0, 11.0])).tolist()
            [1.0, 1.5, inf]
        """
        n_below = (self.heights < at_scores[:, None]).sum(axis=1)
        (left, right), (low, high) = _around(self.costs_usd, n_below), _around(self.heights, n_below)
        inside = left + np.clip(_ratio(at_scores - low, high - low), 0.0, 1.0) * (right - left)
        cheapest = np.where(n_below > 0, inside, self.costs_usd[:, 0])
        return np.where(n_below < self.heights.shape[1], cheapest, np.inf)

    def mean_over_log_cost(self, low_usd: FloatArray, high_usd: FloatArray) -> FloatArray:
        """Mean height between two costs over the logarithm of cost, in every draw: points of score.

        Between its points the hull is linear in cost, f = a + b c, so that its integral over ln c from c1 to c2 is exactly
        a ln(c2 / c1) + b (c2 - c1).

        Args:
            low_usd: Lower limit, above 0, shape (R,).
            high_usd: Upper limit, above the lower one, shape (R,).

        Returns:
            Shape (R,); -inf where the hull is not defined at the lower limit.
        """
        inner = np.clip(self.costs_usd, low_usd[:, None], high_usd[:, None])
        nodes = np.concatenate([low_usd[:, None], inner, high_usd[:, None]], axis=1)
        heights = np.stack([self.scores_at(node) for node in nodes.T], axis=1)
        is_defined = np.isfinite(heights[:, 0])
        heights = np.where(is_defined[:, None], heights, 0.0)
        widths = np.diff(nodes, axis=1)
        slopes = _ratio(np.diff(heights, axis=1), widths)
        levels = heights[:, :-1] - slopes * nodes[:, :-1]
        areas = levels * np.log(nodes[:, 1:] / nodes[:, :-1]) + slopes * widths
        return np.where(is_defined, areas.sum(axis=1) / np.log(high_usd / low_usd), -np.inf)


def _around(values: FloatArray, n_below: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """The values before and after a place in every row, that of the end where there is none; shape (R,) each."""
    rows, last = np.arange(len(values)), values.shape[1] - 1
    return values[rows, np.maximum(n_below - 1, 0)], values[rows, np.minimum(n_below, last)]


def _ratio(dividends: FloatArray, divisors: FloatArray) -> FloatArray:
    """Ratio, 0 where the divisor is 0: there both ends are one point."""
    shape = np.broadcast_shapes(dividends.shape, divisors.shape)
    ratio: FloatArray = np.divide(dividends, divisors, out=np.zeros(shape), where=divisors > 0)
    return ratio
