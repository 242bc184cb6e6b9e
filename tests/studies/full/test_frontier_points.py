"""Points of the frontier, chosen on validation within limits of cost."""

import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.studies.full.frontier_points import MARGIN, MAX_COST_SHARES, POINTS_FILE, FrontierPoints, choose_points
from tests.cases.evaluation_cases import make_validation_row

STRONGEST_USD = 1.0


def chosen(points, strongest_score=50.0):
    rows = [make_validation_row(f"frontier@{weight:g}", score, usd, weight) for weight, (score, usd) in points.items()]
    return choose_points(rows, make_validation_row("strongest", strongest_score, STRONGEST_USD))


def test_the_best_score_within_each_limit():
    found = chosen(
        {0.0: (70.0, 0.40), 0.1: (65.0, 0.36), 0.4: (62.0, 0.30), 1.0: (55.0, 0.2), 2.0: (51.0, 0.1), 4.0: (40.0, 0.05)}
    )
    assert found.policy("beat") == "frontier@0.1"  # 0.40 is within the limit of 0.413, but not within the margin
    assert found.policy("beat-ood") == "frontier@0.4"
    assert found.policy("keep") == "frontier@1"  # not the cheapest whose score is above 50
    assert all(point.is_met for point in found.points)
    assert [one.cost_usd_mean for one in found.grid] == [0.05, 0.1, 0.2, 0.30, 0.36, 0.40]


def test_costs_on_the_very_limit_are_within_it():
    at_limit = MARGIN * MAX_COST_SHARES["beat"] * STRONGEST_USD
    assert chosen({0.1: (60.0, at_limit), 1.0: (55.0, 0.1)}).policy("beat") == "frontier@0.1"


def test_the_best_score_within_the_limit_is_taken_even_where_it_is_below_the_strongest_one_s():
    assert chosen({0.1: (60.0, 0.5), 1.0: (45.0, 0.2), 3.0: (30.0, 0.1)}).policy("keep") == "frontier@1"


def test_where_no_point_is_cheap_enough_the_cheapest_is_taken_and_said_to_miss():
    found = chosen({0.1: (90.0, 2.0), 1.0: (80.0, 1.5)})
    assert found.policies == ("frontier@1",)
    assert not any(point.is_met for point in found.points)


def test_the_file_holds_the_choice_and_a_broken_one_is_refused(tmp_path):
    found = chosen({0.1: (60.0, 0.3), 1.0: (55.0, 0.1)})
    found.save(tmp_path)
    assert FrontierPoints.load(tmp_path / POINTS_FILE) == found
    (tmp_path / POINTS_FILE).write_text('{"split": "test"}')
    with pytest.raises(ResultsError, match=r"(?s)frontier_points\.json breaks the schema.*delete it"):
        FrontierPoints.load(tmp_path / POINTS_FILE)
