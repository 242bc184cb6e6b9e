"""Upper concave hulls of (cost, score) points: what mixing policies blindly, by episode, could reach.

Drawing one of two policies per episode reaches, on average, any point on the line between theirs. A router is
worth something where it scores above the hull of the single models at its own cost.

`Hulls` works out the hulls of the same points in many bootstrap draws at once; the functions below it are those of one draw.

Source: the MTRouter paper's comparison with "the upper hull of the single-model points at the same cost"; its figures
(+18.7 on ScienceWorld, +7.4 on Humanity's Last Exam) come out of this definition. Vertices are those of Andrew's monotone chain
(1979), upper half.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import BoolArray, FloatArray, IntArray

CostScore = tuple[float, float]
"""(cost, score) of one policy; any unit of cost, as long as all share it."""


@dataclass(frozen=True, kw_only=True)
class Hulls:
    """Hull of K (cost, score) points in each of R draws: what mixtures of two points reach for no more than a cost.

    Attributes:
        costs_usd: Costs of the vertices, strictly ascending, then inf where a draw has fewer than another; shape (R, V).
        heights: Scores of the vertices, strictly ascending, then the best one again, shape (R, V).
    """

    costs_usd: FloatArray
    heights: FloatArray

    @classmethod
    def of(cls, costs_usd: FloatArray, scores: FloatArray) -> "Hulls":
        """Work out the hulls of points, shapes (R, K) each, K at least 1."""
        order = np.lexsort((-scores, costs_usd), axis=1)  # where two points cost the same, the better comes first
        costs, ordered = np.take_along_axis(costs_usd, order, axis=1), np.take_along_axis(scores, order, axis=1)
        is_vertex = _is_vertex(costs, ordered)
        first = np.argsort(~is_vertex, axis=1, kind="stable")[:, : is_vertex.sum(axis=1).max()]
        is_kept = np.take_along_axis(is_vertex, first, axis=1)
        best = ordered.max(axis=1, keepdims=True)
        return cls(
            costs_usd=np.where(is_kept, np.take_along_axis(costs, first, axis=1), np.inf),
            heights=np.where(is_kept, np.take_along_axis(ordered, first, axis=1), best),
        )

    def vertices(self, draw: int = 0) -> FloatArray:
        """Vertices of a draw, from the cheapest point to the one with the best score, shape (V, 2)."""
        is_known = np.isfinite(self.costs_usd[draw])
        return np.stack([self.costs_usd[draw][is_known], self.heights[draw][is_known]], axis=1)

    def scores_at(self, at_usd: FloatArray) -> FloatArray:
        """Height at a cost in every draw, shape (R,); flat beyond the best point, -inf below the cheapest.

        Example:
            >>> hulls = Hulls.of(np.tile([1.0, 2.0], (3, 1)), np.tile([0.0, 10.0], (3, 1)))
            >>> hulls.scores_at(np.array([0.5, 1.5, 9.0])).tolist()
            [-inf, 5.0, 10.0]
        """
        n_below = (self.costs_usd <= at_usd[:, None]).sum(axis=1)
        (left, right), (low, high) = _around(self.costs_usd, n_below), _around(self.heights, n_below)
        inside = low + _ratio(high - low, right - left) * np.maximum(at_usd - left, 0.0)
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
        with np.errstate(invalid="ignore"):  # inf - inf above the best score, where the answer is inf anyway
            inside = left + np.clip(_ratio(at_scores - low, high - low), 0.0, 1.0) * (right - left)
        cheapest = np.where(n_below > 0, inside, self.costs_usd[:, 0])
        return np.where(n_below < self.heights.shape[1], cheapest, np.inf)

    def mean_over_log_cost(self, low_usd: FloatArray, high_usd: FloatArray) -> FloatArray:
        """Mean height between two costs over the logarithm of cost, in every draw: points of score.

        Between its vertices the hull is linear in cost, f = a + b c, so that its integral over ln c from c1 to c2 is exactly
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


def upper_hull(points: Iterable[CostScore]) -> FloatArray:
    """Vertices of the upper concave hull, from the cheapest point to the one with the best score.

    Args:
        points: (cost, score) of every single model, at least one.

    Returns:
        Vertices, shape (V, 2): cost and score strictly rise, slopes strictly fall. Where two points cost the same, the
        better counts. V is 1 if the cheapest is also the best.

    Raises:
        InvalidConfigError: If there is no point or one is not finite.

    Example:
        >>> upper_hull([(1.0, 0.0), (2.0, 10.0), (3.0, 9.0), (4.0, 12.0)]).tolist()
        [[1.0, 0.0], [2.0, 10.0], [4.0, 12.0]]
    """
    return _hull(points).vertices()


def hull_value(cost: float, points: Iterable[CostScore]) -> float:
    """Score on the hull at a cost.

    Linear between vertices and flat beyond the best one. Below the cheapest model's cost no mixture exists; the value
    there is the cheapest model's score, which is what a policy that spends even less is held to.

    Raises:
        InvalidConfigError: If `cost` is not finite, or as `upper_hull`.
    """
    if not np.isfinite(cost):
        raise InvalidConfigError(f"cost is {cost}, must be finite")
    hull = _hull(points)
    return float(hull.scores_at(np.maximum(cost, hull.costs_usd[:, 0]))[0])


def hull_gain(score: float, cost: float, *, points: Iterable[CostScore]) -> float:
    """Score above the single models' hull at the same cost; negative below it.

    Example:
        >>> hull_gain(8.0, 1.5, points=[(1.0, 0.0), (2.0, 10.0)])
        3.0

    Raises:
        InvalidConfigError: As `hull_value`.
    """
    return score - hull_value(cost, points)


def _hull(points: Iterable[CostScore]) -> Hulls:
    """The hull of one draw."""
    given = np.array([(float(cost), float(score)) for cost, score in points]).reshape(-1, 2)
    if not len(given) or not np.isfinite(given).all():
        raise InvalidConfigError(
            f"hull points are {given.tolist()}; give at least one (cost, score), all of them finite"
        )
    return Hulls.of(given[None, :, 0], given[None, :, 1])


def _is_vertex(costs: FloatArray, scores: FloatArray) -> BoolArray:
    """Which points are vertices, shape (R, K); ordered by rising cost, then falling score.

    A vertex scores more than all that is cheaper, and no dearer point is reached as steeply from a cheaper one.
    """
    best = np.maximum.accumulate(scores, axis=1)
    is_vertex = np.concatenate([np.ones((len(costs), 1), dtype=bool), best[:, 1:] > best[:, :-1]], axis=1)
    is_better = is_vertex.copy()
    for k in range(1, costs.shape[1] - 1):
        left, low = costs[:, :k, None], best[:, :k, None]
        to_here = _ratio(best[:, k, None, None] - low, costs[:, k, None, None] - left)
        beyond = _ratio(best[:, None, k + 1 :] - low, costs[:, None, k + 1 :] - left)
        is_above = (to_here > beyond) | ~is_better[:, None, k + 1 :]
        is_vertex[:, k] &= is_above.all(axis=(1, 2))
    return is_vertex


def _around(values: FloatArray, n_below: IntArray) -> tuple[FloatArray, FloatArray]:
    """The values before and after a place in every row, that of the end where there is none; shape (R,) each."""
    rows, last = np.arange(len(values)), values.shape[1] - 1
    return values[rows, np.maximum(n_below - 1, 0)], values[rows, np.minimum(n_below, last)]


def _ratio(dividends: FloatArray, divisors: FloatArray) -> FloatArray:
    """Ratio, 0 where the divisor is 0: there both ends are one point."""
    shape = np.broadcast_shapes(dividends.shape, divisors.shape)
    ratio: FloatArray = np.divide(dividends, divisors, out=np.zeros(shape), where=divisors > 0)
    return ratio
