import numpy as np
import pytest
from mtrouter_rl.statistics.hulls import Hulls

from mtrouter_rl.statistics.hull import hull_value


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
