"""Point estimates do not hang on how intervals are made: they are those that were recorded before the resamples were common.

Processors add up in different orders, so the last bits of a sum are not compared.
"""

import json
from pathlib import Path

import pytest

from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from tests.cases.evaluation_cases import rows_of
from tests.cases.point_estimates import (
    made_up_episodes,
    made_up_traced,
    numbers_of_frontiers,
    numbers_of_ope,
    numbers_of_rows,
)

RECORDED = json.loads((Path(__file__).parents[1] / "cases" / "point_estimates.json").read_text(encoding="utf-8"))


def recorded(kind):
    """Recorded numbers, which are written with all their bits."""
    numbers = {name: None if text is None else float.fromhex(text) for name, text in RECORDED[kind].items()}
    return pytest.approx(numbers, rel=1e-13, abs=1e-15)


def test_rows_of_results():
    assert numbers_of_rows(rows_of(made_up_traced())) == recorded("rows")


def test_frontiers():
    resamples = Resamples.of(PairedMeans.of(made_up_episodes()), seed=0, n_resamples=200)
    assert numbers_of_frontiers(resamples) == recorded("frontiers")


def test_off_policy_evaluation():
    assert numbers_of_ope() == recorded("ope")
