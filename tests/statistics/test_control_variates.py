"""Luck that is known is taken off; means stay where they are."""

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.control_variates import without_luck


def drawn(rng, *, n=60, share=0.8):
    """Outcomes of mean 1, `share` of whose variance is luck; two episodes a cluster."""
    luck = rng.standard_normal((n, 2))
    outcomes = 1 + np.sqrt(share) * luck[:, 0] + np.sqrt(1 - share) * rng.standard_normal(n)
    return outcomes, luck, [index // 2 for index in range(n)]


def test_means_stay_and_spread_less():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(300):
        outcomes, luck, clusters = drawn(rng)
        pairs.append((outcomes.mean(), without_luck(outcomes, luck, clusters).mean()))
    plain, cleaned = np.array(pairs).T
    assert abs(cleaned.mean() - 1) < 3 * cleaned.std() / np.sqrt(300)
    assert cleaned.std() < 0.6 * plain.std()  # sqrt(0.2) is 0.45, and multiples are estimated


def test_luck_that_explains_nothing_costs_next_to_nothing():
    rng = np.random.default_rng(1)
    spreads = []
    for _ in range(100):
        outcomes, luck, clusters = drawn(rng, share=0.0)
        spreads.append((outcomes.var(), without_luck(outcomes, luck, clusters).var()))
    plain, cleaned = np.mean(spreads, axis=0)
    assert cleaned < 1.15 * plain


def test_luck_that_never_varied_and_a_single_cluster_take_nothing_off():
    outcomes = np.array([1.0, 2.0, 4.0])
    np.testing.assert_array_equal(without_luck(outcomes, np.full((3, 1), 0.2), ["a", "b", "c"]), outcomes)
    np.testing.assert_array_equal(without_luck(outcomes, np.eye(3), ["a"] * 3), outcomes)
    assert len(without_luck(np.zeros(0), np.zeros((0, 2)), [])) == 0


def test_lengths_and_folds_are_checked():
    with pytest.raises(InvalidConfigError, match="3 outcomes, luck of 2"):
        without_luck(np.zeros(3), np.zeros((2, 1)), [1, 2, 3])
    with pytest.raises(InvalidConfigError, match="n_folds is 1"):
        without_luck(np.zeros(3), np.zeros((3, 1)), [1, 2, 3], n_folds=1)
