import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value, holm, selection_quality

TRUTH = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 4.0}


def test_a_perfect_ranking_has_no_regret_however_far_off_the_numbers_are():
    quality = selection_quality({name: 10 * value for name, value in TRUTH.items()}, TRUTH)
    assert quality.rank_correlation == pytest.approx(1)
    assert (quality.regret_at_1, quality.regret_at_3, quality.coverage) == (0, 0, None)
    assert quality.error_mean == pytest.approx(9 * 7 / 4)


def test_regret_and_coverage_by_hand():
    estimates = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0, "not run": 9.0}
    intervals = {"a": (-1.0, 4.0), "b": (0.0, 1.0), "c": (2.5, 3.0), "d": (0.0, 0.0), "not run": (8.0, 9.0)}
    quality = selection_quality(estimates, TRUTH, intervals=intervals)
    assert quality.n_policies == 4
    assert quality.rank_correlation == pytest.approx(-1)
    assert (quality.regret_at_1, quality.regret_at_3) == (4, 2)
    assert (quality.regret_share_at_1, quality.regret_share_at_3) == (1, 0.5)
    assert quality.coverage == 0.5


@pytest.mark.parametrize("truth", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 2.0}])
def test_no_rank_correlation_where_it_says_nothing(truth):
    assert selection_quality({"a": 1.0, "b": 2.0, "c": 3.0}, truth).rank_correlation is None


def test_estimates_of_other_policies_cannot_be_compared():
    with pytest.raises(
        InvalidConfigError, match=r"no policy has both an estimate \(x\) and a true value \(a, b, c, d\)"
    ):
        selection_quality({"x": 1.0}, TRUTH)


def test_holm_keeps_the_order_and_stays_at_or_below_one():
    assert holm([0.5, 0.001, 0.9, 0.02]) == pytest.approx((1.0, 0.004, 1.0, 0.06))
    assert holm([]) == ()


def test_holm_makes_few_false_findings():
    rng = np.random.default_rng(0)
    false = [min(holm(rng.random(10).tolist())) < 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(false) < 0.07


def test_bootstrap_p_value():
    assert bootstrap_p_value(np.linspace(1, 2, 99)) == pytest.approx(0.02)
    assert bootstrap_p_value(np.linspace(-1, 1, 100)) == 1.0
    assert bootstrap_p_value(np.zeros(50)) == 1.0


@pytest.mark.parametrize(
    ("estimates", "truth", "message"),
    [
        ({"a": float("nan")}, TRUTH, r"policy 'a': its estimate is nan, must be finite"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": float("inf")}, r"policy 'b': its true value is inf, must be finite"),
        ({}, {}, r"no policy has both an estimate \(\) and a true value \(\)"),
    ],
)
def test_nothing_is_selected_by_numbers_that_are_none(estimates, truth, message):
    with pytest.raises(InvalidConfigError, match=message):
        selection_quality(estimates, truth)


def test_p_values_that_are_none():
    with pytest.raises(InvalidConfigError, match=r"p-value 1 is nan, must be in \[0, 1\]"):
        holm([0.1, float("nan")])
    with pytest.raises(InvalidConfigError, match=r"1 of 2 draws are not finite"):
        bootstrap_p_value(np.array([0.1, np.nan]))
    with pytest.raises(InvalidConfigError, match=r"0 of 0 draws"):
        bootstrap_p_value(np.zeros(0))
