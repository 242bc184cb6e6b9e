import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.hull import Hulls, hull_gain, hull_value, upper_hull

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


def chain_of(points):
    """Andrew's monotone chain (1979), upper half: one point after the other."""
    chain = []
    for point in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if chain and point[1] <= chain[-1][1]:
            continue
        while len(chain) >= 2 and slope(chain[-2], chain[-1]) <= slope(chain[-2], point):
            chain.pop()
        chain.append(point)
    return np.array(chain)


def slope(start, end):
    return (end[1] - start[1]) / (end[0] - start[0])


@pytest.mark.parametrize("n_points", [1, 2, 3, 8, 20])
def test_vertices_and_heights_are_those_of_the_monotone_chain_to_the_last_digit(n_points):
    rng = np.random.default_rng([7, n_points])
    for _ in range(200):
        points = [
            (float(cost), float(score))
            for cost, score in zip(rng.lognormal(-3, 1, n_points), rng.normal(30, 20, n_points), strict=True)
        ]
        chain = chain_of(points)
        assert upper_hull(points).tolist() == chain.tolist()
        for cost in (*rng.lognormal(-3, 1, 5), *chain[:, 0]):
            assert hull_value(float(cost), points) == np.interp(cost, chain[:, 0], chain[:, 1])


def drawn_hulls(n_points, *, n_draws=40, seed=0):
    """Points on a coarse grid, so that costs and scores are often equal."""
    rng = np.random.default_rng([seed, n_points])
    costs, scores = rng.integers(1, 7, (n_draws, n_points)) / 2, rng.integers(-3, 8, (n_draws, n_points)) * 1.0
    return costs, scores, Hulls.of(costs, scores)


@pytest.mark.parametrize("n_points", [1, 2, 3, 5, 9])
def test_heights_are_those_of_the_hull_of_one_draw(n_points):
    costs, scores, hulls = drawn_hulls(n_points)
    for at in (0.5, 1.0, 1.3, 2.0, 2.9, 3.0, 50.0):
        found = hulls.scores_at(np.full(len(costs), at))
        for row, height in enumerate(found):
            points = list(zip(costs[row], scores[row], strict=True))
            expected = -np.inf if at < costs[row].min() else hull_value(at, points)
            assert height == pytest.approx(expected), points


@pytest.mark.parametrize("n_points", [1, 2, 3, 5, 9])
def test_the_cost_of_a_score_is_the_inverse(n_points):
    costs, scores, hulls = drawn_hulls(n_points, seed=1)
    rng = np.random.default_rng(2)
    wanted = rng.uniform(scores.min(axis=1), scores.max(axis=1))
    least = hulls.costs_at(wanted)
    assert (hulls.scores_at(least + 1e-9) >= wanted - 1e-6).all()
    cheaper = hulls.scores_at(least - 1e-3)
    assert (cheaper < wanted).all()
    assert np.isinf(hulls.costs_at(scores.max(axis=1) + 0.1)).all()
    assert hulls.costs_at(np.full(len(costs), -99.0)).tolist() == costs.min(axis=1).tolist()


def test_mean_over_log_cost_by_hand_and_by_a_sum():
    """f = 10 (c - 1) from 1 to 2, then 10: over ln c from 1 to 4, (10 - 10 ln 2 + 10 ln 2) / ln 4."""
    hulls = Hulls.of(np.array([[2.0, 1.0, 3.0]]), np.array([[10.0, 0.0, -5.0]]))
    found = hulls.mean_over_log_cost(np.array([1.0]), np.array([4.0]))
    assert found == pytest.approx([10 / np.log(4)])
    costs = np.geomspace(1, 4, 4001)
    assert found == pytest.approx([np.trapezoid(hulls_at(hulls, costs), np.log(costs)) / np.log(4)], abs=1e-4)


def test_mean_over_log_cost_with_points_outside_the_range_and_without_a_value_there():
    costs, _, hulls = drawn_hulls(5, n_draws=12, seed=3)
    low, high = np.full(len(costs), 1.7), np.full(len(costs), 2.6)
    grid = np.geomspace(1.7, 2.6, 501)
    for row, found in enumerate(hulls.mean_over_log_cost(low, high)):
        one = Hulls(costs_usd=hulls.costs_usd[row : row + 1], heights=hulls.heights[row : row + 1])
        is_defined = costs[row].min() <= 1.7
        expected = np.trapezoid(hulls_at(one, grid), np.log(grid)) / np.log(2.6 / 1.7) if is_defined else -np.inf
        assert found == pytest.approx(expected, abs=1e-3)


def hulls_at(hulls, costs):
    return [float(hulls.scores_at(np.array([cost]))[0]) for cost in costs]
