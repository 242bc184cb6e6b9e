import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from mtrouter_rl.evaluation.results import PairedDifference, Results
from mtrouter_rl.statistics.estimate import (
    COST_RANGE,
    RETURN_RANGE,
    SCORE_RANGE,
    Estimate,
    percentile_ends,
    studentized_ends,
    within,
)
from mtrouter_rl.studies.ablations.record import Ablations
from mtrouter_rl.studies.full.claims import Claims
from mtrouter_rl.studies.headroom.run import Headroom

SAVED = Path(__file__).parents[2] / "docs" / "results"


def estimate(low, high, *, value=1.0):
    return Estimate(value=value, low=low, high=high, n_episodes=8, n_clusters=4)


def test_ends_and_signs():
    one = estimate(0.5, 2.5)
    assert (one.ends, one.bounds, one.half_width) == ((0.5, 2.5), (0.5, 2.5), 1.0)
    assert one.is_above_zero
    assert not one.is_below_zero
    assert estimate(-3.0, -1.0).is_below_zero
    assert not estimate(0.0, 1.0).is_above_zero


def test_no_interval_is_unbounded_and_tells_no_sign():
    one = estimate(None, None)
    assert one.ends is None
    assert one.bounds == (-np.inf, np.inf)
    assert one.half_width == np.inf
    assert not one.is_above_zero
    assert not one.is_below_zero


def test_files_call_the_value_mean():
    adapter = TypeAdapter(Estimate)
    saved = {"mean": 1.0, "low": 0.5, "high": 2.5, "n_episodes": 8, "n_clusters": 4}
    assert adapter.validate_python(saved) == estimate(0.5, 2.5)
    assert adapter.dump_python(estimate(0.5, 2.5), by_alias=True) == saved


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("full-results.json", Results),
        ("full-ablations.json", Ablations),
        ("full-claims.json", Claims),
        ("full-headroom.json", Headroom),
    ],
)
def test_saved_files_load_and_keep_the_names_of_their_fields(name, record):
    text = (SAVED / name).read_text(encoding="utf-8")
    loaded = record.model_validate_json(text, strict=True)
    assert json.loads(loaded.model_dump_json(by_alias=True)) == json.loads(text)


def test_in_a_record_unknown_keys_and_infinite_numbers_are_errors():
    saved = {"mean": 1.0, "low": 0.5, "high": 2.5, "n_episodes": 8, "n_clusters": 4}
    rest = {"score": saved, "cost_usd": saved, "p_value": None, "p_value_holm": None}
    assert PairedDifference.model_validate(rest | {"return": saved}).return_ == estimate(0.5, 2.5)
    with pytest.raises(ValidationError, match="finite"):
        PairedDifference.model_validate(rest | {"return": saved | {"low": -np.inf}})
    with pytest.raises(ValidationError, match="half_width"):
        PairedDifference.model_validate(rest | {"return": saved | {"half_width": 1.0}})


def test_studentised_ends_are_quantiles():
    assert studentized_ends(np.linspace(0, 1, 41)) == pytest.approx((0.025, 0.975))


def test_draws_that_are_not_defined_widen_both_ends():
    draws = np.linspace(0.0, 1.0, 200)
    few, many = draws.copy(), draws.copy()
    few[:3] = np.nan  # 1.5% of the draws: less than either tail
    many[:10] = np.nan
    assert np.isfinite(percentile_ends(0.5, few)).all()
    assert percentile_ends(0.5, many) == (-np.inf, np.inf)


def test_a_percentile_interval_reaches_farther_against_the_bias_of_its_resamples():
    """Resamples from 1 to 3 around a value of 1.5: their median, 2, is 0.5 too high, so the lower end falls by 1."""
    draws = np.linspace(1, 3, 201)
    assert percentile_ends(1.5, draws) == pytest.approx((1.05 - 1, 2.95))
    assert percentile_ends(2.5, draws) == pytest.approx((1.05, 2.95 + 1))
    assert percentile_ends(2.0, draws) == pytest.approx((1.05, 2.95))


def test_an_interval_holds_nothing_that_the_number_cannot_be():
    assert within((-658.6, 658.6), SCORE_RANGE) == (-100.0, 100.0)
    assert within((0.1, 0.2), COST_RANGE) == (0.1, 0.2)
    assert within((0.4, 1.014), RETURN_RANGE) == (0.4, 1.0)
    assert within((100.0, 100.0), SCORE_RANGE) == (100.0, 100.0)
    assert within(None, SCORE_RANGE) is None
