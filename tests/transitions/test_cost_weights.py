import numpy as np
import pytest
from pydantic import ValidationError

from mtrouter_rl.cards.policy import name_at
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights

WEIGHTS = CostWeights(low=0.1, high=10.0, share_zero=0.2)


def test_draws_are_zero_or_log_uniform_and_every_batch_covers_the_range():
    drawn = WEIGHTS.sample(1000, np.random.default_rng(0))
    assert (drawn == 0).mean() == pytest.approx(0.2, abs=1e-3)
    above = drawn[drawn > 0]
    assert above.min() >= 0.1
    assert above.max() <= 10.0
    assert (above < 1.0).mean() == pytest.approx(0.5, abs=2e-3)  # half of the logarithm lies below the middle of it


def test_one_draw_at_a_time_has_the_same_distribution():
    generator = np.random.default_rng(0)
    drawn = np.concatenate([WEIGHTS.sample(1, generator) for _ in range(4000)])
    assert (drawn == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (drawn[drawn > 0] < 1.0).mean() == pytest.approx(0.5, abs=0.03)


def test_without_a_share_of_zero_none_is_drawn_and_none_is_taken():
    weights = CostWeights(low=0.1, high=1.0, share_zero=0.0)
    assert weights.sample(1000, np.random.default_rng(0)).min() >= 0.1
    assert weights.grid(3) == (0.1, 0.32, 1.0)
    with pytest.raises(
        InvalidConfigError, match=r"router 'r': cost weight is 0, must be from 0\.1 to 1, .*cost_weights"
    ):
        weights.check(0.0, what="router 'r'")


def test_columns_are_between_0_and_1_and_tell_weights_apart():
    columns = WEIGHTS.features(np.array([0.0, 0.1, 1.0, 10.0]))
    assert columns.shape == (4, N_COLUMNS)
    assert columns.dtype == np.float32
    assert ((columns >= 0) & (columns <= 1)).all()
    assert columns[:, 0] == pytest.approx([0, 0.1 / 1.1, 0.5, 10 / 11])
    assert columns[[0, 3], 1] == pytest.approx([0, 1])
    assert min(np.abs(one - other).max() for i, one in enumerate(columns) for other in columns[:i]) > 0.1


@pytest.mark.parametrize("weight", [-0.1, 10.1, float("nan")])
def test_weights_outside_the_range_are_refused(weight):
    with pytest.raises(
        InvalidConfigError, match=r"must be from 0 to 10, the range of the training; choose one inside, or"
    ):
        WEIGHTS.check(weight, what="router 'r'")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 2.0, "high": 1.0}, r"low is 2\.0 and high 1\.0; low must be below high"),
        ({"low": 0.0}, r"low\n.*greater than 0"),
        ({"share_zero": 1.0}, r"share_zero\n.*less than 1"),
        ({"middle": 1.0}, r"middle\n.*Extra inputs"),
    ],
)
def test_bad_ranges(fields, message):
    with pytest.raises(ValidationError, match=message):
        CostWeights(**fields)


def test_weights_that_differ_little_have_names_of_their_own():
    assert name_at("r", 0.1234567) != name_at("r", 0.1234568)
    assert name_at("r", 0) == name_at("r", 0.0) == "r@0"
