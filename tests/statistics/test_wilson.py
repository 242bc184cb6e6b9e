import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.wilson import wilson_interval


def test_wilson_interval_of_published_and_extreme_shares():
    """15 of 148 is the worked example (method 3) of Newcombe, Two-sided Confidence Intervals (1998): 0.0624 to 0.1605."""
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    low, high = wilson_interval(0, 10)
    assert (low, high) == (0, pytest.approx(0.2775, abs=5e-5))
    assert wilson_interval(10, 10) == pytest.approx((1 - high, 1))
    assert wilson_interval(0, 0) is None
    with pytest.raises(InvalidConfigError, match="n_events is 3 and n_trials 2"):
        wilson_interval(3, 2)
