"""Point estimates do not hang on how intervals are made: they are those that were recorded before the resamples were common."""

import json
from pathlib import Path

from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from tests.cases.evaluation_cases import rows_of
from tests.cases.point_estimates import (
    as_text,
    made_up_episodes,
    made_up_traced,
    numbers_of_frontiers,
    numbers_of_ope,
    numbers_of_rows,
)

RECORDED = json.loads((Path(__file__).parents[1] / "cases" / "point_estimates.json").read_text(encoding="utf-8"))


def test_rows_of_results():
    assert as_text(numbers_of_rows(rows_of(made_up_traced()))) == RECORDED["rows"]


def test_frontiers():
    resamples = Resamples.of(PairedMeans.of(made_up_episodes()), seed=0, n_resamples=200)
    assert as_text(numbers_of_frontiers(resamples)) == RECORDED["frontiers"]


def test_off_policy_evaluation():
    assert as_text(numbers_of_ope()) == RECORDED["ope"]
