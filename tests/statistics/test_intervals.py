import time

import numpy as np
import pytest
from mtrouter_rl.statistics.intervals import (
    Interval,
    clustered_mean_interval,
    mean_interval,
    paired_difference,
    wilson_interval,
)

from mtrouter_rl.errors import InvalidConfigError


def drawn(rng, *, n_clusters=40, n_seeds=3, between=1.0, within=0.5, mean=2.0):
    """Values that share a random offset within their cluster, by (task, variation, seed)."""
    offsets = rng.normal(0, between, size=n_clusters)
    return {
        (f"task{cluster % 5}", cluster, seed): mean + offsets[cluster] + rng.normal(0, within)
        for cluster in range(n_clusters)
        for seed in range(n_seeds)
    }


def test_the_same_generator_state_gives_the_same_interval():
    values = drawn(np.random.default_rng(0))
    first = mean_interval(values, rng=np.random.default_rng(3))
    assert first == mean_interval(values, rng=np.random.default_rng(3))
    assert first != mean_interval(values, rng=np.random.default_rng(4))
    assert first.mean == pytest.approx(np.mean(list(values.values())))
    assert (first.n_episodes, first.n_clusters) == (120, 40)
    assert first.low < first.mean < first.high


def test_coverage_on_correlated_data_is_near_nominal():
    n_repeats = 300
    rng = np.random.default_rng(11)
    intervals = [mean_interval(drawn(rng), rng=rng, n_resamples=400) for _ in range(n_repeats)]
    covered = np.mean([one.low <= 2.0 <= one.high for one in intervals])
    # Standard error of a coverage of 0.95 over 300 repeats is 0.013; the percentile bootstrap is slightly narrow.
    assert 0.90 <= covered <= 0.98


def test_clustered_is_wider_than_naive_where_seeds_agree():
    values = drawn(np.random.default_rng(0), between=1.0, within=0.1)
    clustered = mean_interval(values, rng=np.random.default_rng(0))
    naive = clustered_mean_interval(list(values.values()), list(values), rng=np.random.default_rng(0))
    assert clustered.high - clustered.low > 1.4 * (naive.high - naive.low)


def test_clusters_of_unequal_size_weigh_by_their_episodes():
    values = {("a", 0, seed): 1.0 for seed in range(9)} | {("b", 0, 0): 11.0}
    interval = mean_interval(values, rng=np.random.default_rng(0))
    assert interval.mean == pytest.approx(2.0)
    assert (interval.low, interval.high) == (1.0, 11.0)


def test_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(5)
    baseline = drawn(rng, between=2.0)
    better = {key: value + 0.3 + rng.normal(0, 0.2) for key, value in baseline.items()}
    found = paired_difference(better, dict(reversed(baseline.items())), rng=rng)
    paired = found.interval
    alone = mean_interval(better, rng=rng)
    assert paired.is_above_zero
    assert not paired.is_below_zero
    assert paired.mean == pytest.approx(0.3, abs=0.1)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert paired_difference(baseline, better, rng=rng).interval.is_below_zero
    assert (paired.low, paired.high) == tuple(np.quantile(found.draws, [0.025, 0.975]))


def test_unpaired_keys_are_named():
    values = {("a", 0, 0): 1.0, ("b", 1, 2): 2.0}
    with pytest.raises(InvalidConfigError, match=r"2 \(task.*\('b', 1, 2\), \('c', 0, 0\)"):
        paired_difference(values, {("a", 0, 0): 1.0, ("c", 0, 0): 1.0}, rng=np.random.default_rng(0))


def test_one_cluster_has_no_interval():
    values = {("a", 0, 0): 1.0, ("a", 0, 1): 3.0}
    interval = mean_interval(values, rng=np.random.default_rng(0))
    assert not paired_difference(values, values, rng=np.random.default_rng(0)).draws.size
    assert interval == Interval(mean=2.0, low=None, high=None, n_episodes=2, n_clusters=1)
    assert interval.ends is None
    assert not interval.is_above_zero
    assert not interval.is_below_zero


def test_blocks_do_not_change_the_draws(monkeypatch):
    values = drawn(np.random.default_rng(0))
    whole = mean_interval(values, rng=np.random.default_rng(3))
    monkeypatch.setattr("mtrouter_rl.statistics.intervals._MAX_CELLS", 1000)
    assert mean_interval(values, rng=np.random.default_rng(3)) == whole


def test_many_resamples_are_fast():
    values = drawn(np.random.default_rng(0), n_clusters=300)
    started = time.process_time()
    mean_interval(values, rng=np.random.default_rng(0), n_resamples=5000)
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
        ([1.0], ["a"], {"confidence": 95.0}, r"confidence is 95.0, must be in \(0, 1\)"),
    ],
)
def test_bad_input(values, clusters, settings, message):
    with pytest.raises(InvalidConfigError, match=message):
        clustered_mean_interval(values, clusters, rng=np.random.default_rng(0), **settings)


def test_wilson_interval_of_published_and_extreme_shares():
    """15 of 148 is the worked example (method 3) of Newcombe, Two-sided Confidence Intervals (1998): 0.0624 to 0.1605."""
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    low, high = wilson_interval(0, 10)
    assert (low, high) == (0, pytest.approx(0.2775, abs=5e-5))
    assert wilson_interval(10, 10) == pytest.approx((1 - high, 1))
    assert wilson_interval(0, 0) is None
    with pytest.raises(InvalidConfigError, match="n_events is 3 and n_trials 2"):
        wilson_interval(3, 2)
