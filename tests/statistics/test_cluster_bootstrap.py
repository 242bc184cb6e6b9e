import time

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics import cluster_bootstrap
from mtrouter_rl.statistics.cluster_bootstrap import (
    N_TEST_RESAMPLES,
    RETEST_BELOW,
    bootstrap_means,
    episode_means,
    mean_estimate,
    paired_differences,
)
from mtrouter_rl.statistics.estimate import Estimate, studentized_ends
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value, holm


def drawn(rng, *, n_clusters=40, n_seeds=3, between=1.0, within=0.5, mean=2.0):
    """Values that share a random offset within their cluster, by (task, variation, seed)."""
    offsets = rng.normal(0, between, size=n_clusters)
    return {
        (f"task{cluster % 5}", cluster, seed): mean + offsets[cluster] + rng.normal(0, within)
        for cluster in range(n_clusters)
        for seed in range(n_seeds)
    }


def one_mean(values, *, seed=0, **rest):
    return episode_means([values], seed=seed, **rest).estimate()


def test_equal_seeds_give_equal_intervals():
    values = drawn(np.random.default_rng(0))
    first = one_mean(values, seed=3)
    assert first == one_mean(values, seed=3)
    assert first != one_mean(values, seed=4)
    assert first.value == np.array(list(values.values())).mean()
    assert (first.n_episodes, first.n_clusters) == (120, 40)
    assert first.low < first.value < first.high


def test_the_order_of_episodes_changes_no_digit_of_the_ends():
    rng = np.random.default_rng(0)
    values = drawn(rng, n_clusters=17)
    for _ in range(5):
        keys = [list(values)[place] for place in rng.permutation(len(values))]
        assert one_mean({key: values[key] for key in keys}).ends == one_mean(values).ends


def test_a_quantity_has_the_same_interval_alone_as_among_others():
    rng = np.random.default_rng(1)
    values, more = drawn(rng), [drawn(rng) for _ in range(7)]
    assert episode_means([*more, values], seed=0).estimate(7) == one_mean(values)


def test_quantities_that_hang_together_are_resampled_together():
    """A return is made of a score and a cost, in every draw where the spread allows: here cost is always the same."""
    values = drawn(np.random.default_rng(2))
    score, shifted = episode_means([values, {key: 3 * value - 1 for key, value in values.items()}], seed=0).estimates()
    assert (shifted.low, shifted.high) == pytest.approx((3 * score.low - 1, 3 * score.high - 1))


@pytest.mark.parametrize("n_clusters", [12, 24, 73])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_coverage_is_near_nominal(n_clusters, kind):
    """Standard error of a coverage of 95% over 300 studies: 1.3%. `scripts/bench/interval_coverage.py` looks closer."""
    rng, n_held = np.random.default_rng(n_clusters), 0
    for study in range(300):
        sizes = rng.integers(1, 5, size=n_clusters)
        clusters = np.repeat(np.arange(n_clusters), sizes)
        hidden = rng.normal(size=n_clusters)[clusters] + 0.5 * rng.normal(size=len(clusters))
        values, truth = (hidden, 0.0) if kind == "normal" else (np.exp(0.7 * hidden), np.exp(0.49 * 1.25 / 2))
        low, high = mean_estimate(values, clusters.tolist(), seed=study, n_resamples=1000).ends
        n_held += low <= truth <= high
    assert 0.90 <= n_held / 300 <= 0.985


def test_clustered_is_wider_than_naive_where_seeds_agree():
    values = drawn(np.random.default_rng(0), between=1.0, within=0.1)
    naive = mean_estimate(list(values.values()), list(values), seed=0)
    assert one_mean(values).half_width > 1.4 * naive.half_width


def test_clusters_of_unequal_size_weigh_by_their_episodes():
    values = {("a", 0, seed): 1.0 for seed in range(9)} | {("b", 0, 0): 11.0, ("c", 0, 0): 1.0}
    found = one_mean(values)
    assert found.value == pytest.approx(21 / 11)
    assert found.low < 1 < 21 / 11 < found.high


def test_one_huge_cluster_decides_and_widens():
    rng = np.random.default_rng(0)
    even = {("a", cluster, seed): rng.normal() for cluster in range(20) for seed in range(3)}
    huge = even | {("a", 0, seed): 5.0 + rng.normal() for seed in range(3, 200)}
    assert one_mean(huge).half_width > 5 * one_mean(even).half_width
    assert np.isfinite(one_mean(huge).ends).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3])
def test_equal_values_have_an_interval_without_width(value):
    found = one_mean({("a", cluster, seed): value for cluster in range(7) for seed in range(1 + cluster % 3)})
    assert found.ends == (found.value, found.value)
    assert found.value == pytest.approx(value)


def test_one_cluster_has_no_interval_and_no_p_value():
    values = {("a", 0, 0): 1.0, ("a", 0, 1): 3.0}
    found = episode_means([values], seed=0)
    assert found.estimate() == Estimate(value=2.0, low=None, high=None, n_episodes=2, n_clusters=1)
    assert found.p_value() is None
    assert found.draws.shape == (0, 1)


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_few_clusters_have_wide_finite_intervals_and_large_p_values(n_clusters):
    values = {("a", cluster, 0): 10.0 + cluster for cluster in range(n_clusters)}
    found = episode_means([values], seed=0)
    low, high = found.estimate().ends
    assert low < 10
    assert high > 9 + n_clusters
    assert found.p_value() >= 2.0 ** (1 - n_clusters)


def test_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(5)
    baseline = drawn(rng, between=2.0)
    better = {key: value + 0.3 + rng.normal(0, 0.2) for key, value in baseline.items()}
    found = paired_differences([better], [dict(reversed(baseline.items()))], seed=0)
    paired = found.estimate()
    assert paired.is_above_zero
    assert paired.value == pytest.approx(0.3, abs=0.1)
    assert paired.half_width < 0.2 * one_mean(better).half_width
    assert paired_differences([baseline], [better], seed=0).estimate().is_below_zero
    assert paired.ends == studentized_ends(found.draws[:, 0])
    assert found.p_value() < 0.01


def test_the_same_episodes_differ_by_nothing():
    values = drawn(np.random.default_rng(0))
    found = paired_differences([values], [values], seed=0)
    assert (found.estimate().value, found.estimate().ends, found.p_value()) == (0.0, (0.0, 0.0), 1.0)


def test_p_value_and_interval_agree():
    rng = np.random.default_rng(3)
    for shift in np.linspace(-0.6, 0.6, 25):
        found = episode_means([drawn(rng, mean=shift)], seed=0)
        one = found.estimate()
        if abs(found.p_value() - 0.05) > 0.002:
            assert (found.p_value() < 0.05) == (one.is_above_zero or one.is_below_zero)


def test_p_values_of_no_difference_are_seldom_small():
    rng, n_small = np.random.default_rng(4), 0
    for study in range(300):
        values = drawn(rng, n_clusters=12, mean=0.0)
        n_small += episode_means([values], seed=study, n_resamples=1000).p_value() < 0.05
    assert n_small / 300 <= 0.09


def test_unpaired_keys_are_named():
    values = {("a", 0, 0): 1.0, ("b", 1, 2): 2.0}
    with pytest.raises(InvalidConfigError, match=r"2 \(task.*\('b', 1, 2\), \('c', 0, 0\)"):
        paired_differences([values], [{("a", 0, 0): 1.0, ("c", 0, 0): 1.0}], seed=0)


def test_many_resamples_are_fast():
    values = drawn(np.random.default_rng(0), n_clusters=300)
    started = time.process_time()
    one_mean(values, n_resamples=5000)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("values", "clusters", "settings", "message"),
    [
        ([], [], {}, "at least 1"),
        ([1.0], ["a", "b"], {}, "there are 2 clusters"),
        ([[1.0]], ["a"], {}, r"shape \(1, 1\)"),
        ([1.0, float("nan")], ["a", "b"], {}, r"value 1 \(cluster 'b'\) is nan, must be finite"),
        ([float("inf")], ["a"], {}, "is inf, must be finite"),
        ([1.0], ["a"], {"n_resamples": 10}, "n_resamples is 10, must be at least 100"),
    ],
)
def test_bad_input(values, clusters, settings, message):
    with pytest.raises(InvalidConfigError, match=message):
        bootstrap_means([values], clusters, seed=0, **settings)


def test_a_clear_difference_passes_holms_correction_over_a_thousand_comparisons():
    """With the draws of the interval alone its p-value would be 2 / 4001, which a hundred comparisons raise above 5%."""
    values = drawn(np.random.default_rng(3), mean=2.0)
    p_value = episode_means([values], seed=0).p_value()
    assert p_value == 2 / (N_TEST_RESAMPLES + 1)
    assert holm([p_value, *[1.0] * 2499])[0] < 0.05 < holm([2 / 4001, *[1.0] * 131])[0]


def test_a_small_p_value_is_that_of_more_draws_of_the_same_kind():
    found = episode_means([drawn(np.random.default_rng(5), mean=0.9)], seed=0)
    rough = bootstrap_p_value(found.draws[:, 0])
    assert rough < RETEST_BELOW
    assert 0 < found.p_value() < RETEST_BELOW
    assert found.p_value() != rough
    more = found.more_draws(0)
    assert len(more) == N_TEST_RESAMPLES
    assert (more[: len(found.draws)] == found.draws[:, 0]).all()
    assert found.p_value() == bootstrap_p_value(more)


def test_other_p_values_are_those_of_the_interval(monkeypatch):
    found = episode_means([drawn(np.random.default_rng(6), mean=0.1)], seed=0)
    monkeypatch.setattr(cluster_bootstrap, "_more_draws", None)
    assert found.p_value() == bootstrap_p_value(found.draws[:, 0]) > RETEST_BELOW


def test_no_false_certainty_from_more_draws():
    """Of differences that are none, few have a small p-value: about as many as it says."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=(400, 30))
    p_values = [bootstrap_means([one], range(30), seed=0, n_resamples=400).p_value() for one in values]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.08
    assert np.mean(np.array(p_values) < 0.001) < 0.01
