import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.hull import hull_gain, hull_value, upper_hull

SCIENCEWORLD = [(13.9, 48.4), (2.9, 13.1), (3.2, -0.5), (2.5, 5.2), (0.3, 4.2), (0.5, 26.6)]
HLE = [(61.8, 25.1), (22.4, 15.6), (18.1, 7.8), (12.0, 11.4), (3.0, 5.6), (0.7, 9.7)]


@pytest.mark.parametrize(
    ("points", "cost", "score", "gain", "tolerance"),
    [
        (SCIENCEWORLD, 5.7, 53.8, 18.7, 0.05),
        (SCIENCEWORLD, 3.9, 21.7, -10.0, 0.5),
        (HLE, 35.0, 26.0, 7.4, 0.05),
        (HLE, 16.9, 20.0, 6.0, 0.15),
    ],
    ids=["MTRouter on ScienceWorld", "random on ScienceWorld", "MTRouter on HLE", "random on HLE"],
)
def test_the_papers_gains_come_out(points, cost, score, gain, tolerance):
    assert hull_gain(score, cost, points=points) == pytest.approx(gain, abs=tolerance)


def test_vertices_of_the_papers_hulls():
    assert upper_hull(SCIENCEWORLD).tolist() == [[0.3, 4.2], [0.5, 26.6], [13.9, 48.4]]
    assert upper_hull(HLE).tolist() == [[0.7, 9.7], [22.4, 15.6], [61.8, 25.1]]


def test_values_between_below_and_beyond():
    points = [(1.0, 0.0), (2.0, 10.0), (4.0, 12.0), (9.0, 3.0)]
    assert [hull_value(cost, points) for cost in (0.1, 1.0, 1.5, 3.0, 4.0, 100.0)] == [0, 0, 5, 11, 12, 12]


def test_single_models_are_never_above_their_hull():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(cost), float(score)) for cost, score in rng.uniform(-1, 1, size=(8, 2))]
        assert max(hull_gain(score, cost, points=points) for cost, score in points) <= 1e-12
        vertices = upper_hull(points)
        assert (np.diff(vertices, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("points", "vertices"),
    [
        ([(1.0, 5.0)], [[1.0, 5.0]]),
        ([(1.0, 5.0), (2.0, 4.0), (3.0, 5.0)], [[1.0, 5.0]]),
        ([(1.0, 5.0), (1.0, 7.0), (2.0, 8.0)], [[1.0, 7.0], [2.0, 8.0]]),
        ([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], [[1.0, 1.0], [3.0, 3.0]]),
        ([(1.0, 1.0), (1.0, 1.0)], [[1.0, 1.0]]),
    ],
    ids=["one point", "cheapest is best", "same cost", "on a line", "repeated"],
)
def test_degenerate_hulls(points, vertices):
    assert upper_hull(points).tolist() == vertices


@pytest.mark.parametrize("points", [[], [(float("nan"), 1.0)], [(1.0, float("inf"))]])
def test_bad_points(points):
    with pytest.raises(InvalidConfigError, match="at least one"):
        upper_hull(points)


def test_bad_cost():
    with pytest.raises(InvalidConfigError, match="cost is nan, must be finite"):
        hull_value(float("nan"), HLE)
