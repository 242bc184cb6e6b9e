"""Upper concave hull of the single models' (cost, score) points: what mixing them blindly, by episode, could reach.

Drawing one of two single models per episode reaches, on average, any point on the line between theirs. A router is
worth something where it scores above that hull at its own cost.

Source: the MTRouter paper's comparison with "the upper hull of the single-model points at the same cost"; its figures
(+18.7 on ScienceWorld, +7.4 on Humanity's Last Exam) come out of this definition.
"""

from collections.abc import Iterable

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray

CostScore = tuple[float, float]
"""(cost, score) of one policy; any unit of cost, as long as all share it."""


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

    Source: Andrew's monotone chain (1979), upper half.
    """
    ordered = sorted({(float(cost), float(score)) for cost, score in points}, key=lambda point: (point[0], -point[1]))
    if not ordered or not np.isfinite(ordered).all():
        raise InvalidConfigError(f"hull points are {ordered}; give at least one (cost, score), all of them finite")
    chain: list[CostScore] = []
    for point in ordered:
        if chain and point[1] <= chain[-1][1]:
            continue  # No cheaper than the last vertex and no better: it cannot lie on the rising hull.
        while len(chain) >= 2 and _slope(chain[-2], chain[-1]) <= _slope(chain[-2], point):
            chain.pop()
        chain.append(point)
    return np.array(chain)


def hull_value(cost: float, points: Iterable[CostScore]) -> float:
    """Score on the hull at a cost.

    Linear between vertices and flat beyond the best one. Below the cheapest model's cost no mixture exists; the value
    there is the cheapest model's score, which is what a policy that spends even less is held to.

    Raises:
        InvalidConfigError: If `cost` is not finite, or as `upper_hull`.
    """
    if not np.isfinite(cost):
        raise InvalidConfigError(f"cost is {cost}, must be finite")
    vertices = upper_hull(points)
    return float(np.interp(cost, vertices[:, 0], vertices[:, 1]))


def hull_gain(score: float, cost: float, *, points: Iterable[CostScore]) -> float:
    """Score above the single models' hull at the same cost; negative below it.

    Example:
        >>> hull_gain(8.0, 1.5, points=[(1.0, 0.0), (2.0, 10.0)])
        3.0

    Raises:
        InvalidConfigError: As `hull_value`.
    """
    return score - hull_value(cost, points)


def _slope(start: CostScore, end: CostScore) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])
