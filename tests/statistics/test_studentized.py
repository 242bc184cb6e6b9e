import numpy as np
import pytest
from scipy.stats import norm, t

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.resamples import all_counts
from mtrouter_rl.statistics.studentized import LEAST_ERROR, RatioSum, widening

RNG = np.random.default_rng(0)
SUMS = RatioSum(numerators=RNG.normal(size=(12, 3, 2)), denominators=RNG.uniform(0.5, 2, size=(12, 3)))


def value_of(rows):
    return (SUMS.numerators[rows].sum(axis=0) / SUMS.denominators[rows].sum(axis=0)[:, None]).sum(axis=0)


def test_value_is_a_sum_of_ratios_of_sums_over_episodes():
    clusters = np.repeat([5, 2, 9], 4)
    merged = RatioSum.of_episodes(SUMS.numerators, SUMS.denominators, clusters)
    assert merged.numerators.shape == (3, 3, 2)
    np.testing.assert_allclose(merged.value(), value_of(np.arange(12)))
    np.testing.assert_allclose(SUMS.value(), value_of(np.arange(12)))


def test_draws_are_those_of_the_formula():
    """Every step written out for single resamples: jackknife by leaving out, influences by derivatives."""
    value, n = SUMS.value(), 12
    left_out = np.array([value_of(np.delete(np.arange(n), c)) for c in range(n)])
    error = np.sqrt(((left_out - value) ** 2).sum(axis=0) * (n - 1) / n)
    influences = influences_of(np.arange(n))
    squares = influences**2
    freedom = 2 / ((squares**2).sum(axis=0) / squares.sum(axis=0) ** 2 - 1 / n)
    c = t.ppf(0.975, np.clip(freedom, 2, n - 1)) / norm.ppf(0.975)
    np.testing.assert_allclose(widening(influences), c)
    draws = SUMS.draws(seed=3, n_resamples=5)
    for counts, draw in zip(all_counts(n, seed=3, n_resamples=5), draws, strict=True):
        rows = np.repeat(np.arange(n), counts.astype(int))
        assert len(rows) == n
        own = np.sqrt((influences_of(rows) ** 2).sum(axis=0) * n / (n - 1))
        expected = value - c * error * (value_of(rows) - value) / np.maximum(own, LEAST_ERROR * error)
        np.testing.assert_allclose(draw, expected)


def influences_of(rows):
    numerators, denominators = SUMS.numerators[rows], SUMS.denominators[rows]
    totals = denominators.sum(axis=0)
    ratios = numerators.sum(axis=0) / totals[:, None]
    return ((numerators - denominators[..., None] * ratios) / totals[:, None]).sum(axis=1)


def test_a_mean_has_the_usual_standard_error_and_a_constant_has_none():
    values = np.random.default_rng(1).normal(size=400)
    one = RatioSum(numerators=values[:, None, None], denominators=np.ones((400, 1)))
    low, high = np.quantile(one.draws(seed=0, n_resamples=2000)[:, 0], [0.025, 0.975])
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / 20, rel=0.05)
    constant = RatioSum(numerators=np.full((9, 1, 1), 2.5), denominators=np.ones((9, 1)))
    np.testing.assert_allclose(constant.draws(seed=0, n_resamples=50), 2.5)


def test_terms_without_any_weight_count_as_nothing_and_huge_weights_stay_finite():
    weights = np.stack([np.zeros(6), np.full(6, 1e200), np.append(np.zeros(5), 1e-200)], axis=1)
    one = RatioSum(numerators=weights[..., None] * np.arange(6.0)[:, None, None], denominators=weights)
    assert one.value()[0] == pytest.approx(2.5 + 5)
    assert np.isfinite(one.draws(seed=0, n_resamples=100)).all()


def test_widening_is_that_of_as_many_degrees_of_freedom_as_clusters_less_one_at_most():
    light = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    np.testing.assert_allclose(widening(light), t.ppf(0.975, 3) / norm.ppf(0.975))


def test_one_cluster_has_no_interval():
    with pytest.raises(InvalidConfigError, match=r"has 1 cluster \(task, variation\), must have at least 2"):
        RatioSum(numerators=np.ones((1, 1, 1)), denominators=np.ones((1, 1))).draws(seed=0)
