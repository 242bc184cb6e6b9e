import json

import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.cost_weight_choice import ChoiceRule, CostWeightChoice, CostWeightChoices
from tests.cases.evaluation_cases import make_validation_row

# weight -> (score, USD): the score is not monotone in the weight, as in a small validation split.
GRID = {1.0: (60.0, 0.2), 0.0: (80.0, 1.0), 0.1: (70.0, 0.8), 0.5: (75.0, 0.4)}


ROWS = [make_validation_row(f"frontier@{weight:g}", score, usd, weight) for weight, (score, usd) in GRID.items()]


@pytest.mark.parametrize(
    ("reference", "tolerance", "weight"),
    [(75.0, None, 0.5), (75.1, None, 0.0), (72.0, None, 0.5), (65.0, 5.0, 1.0), (60.0, None, 1.0), (80.0, 0.0, 0.0)],
)
def test_the_largest_weight_that_keeps_the_score(reference, tolerance, weight):
    rule = ChoiceRule(match_score_of="strongest", score_tolerance=tolerance)
    assert rule.choose(ROWS, make_validation_row("strongest", reference, 2.0)).cost_weight == weight


@pytest.mark.parametrize(("target", "weight"), [(1.0, 0.0), (0.9, 0.1), (0.4, 0.5), (0.39, 1.0)])
def test_the_smallest_weight_that_keeps_the_cost(target, weight):
    assert ChoiceRule(target_cost_usd=target).choose(ROWS, None).cost_weight == weight


def test_where_no_weight_does_it_the_nearest_is_named():
    message = (
        r"'frontier': at no cost weight .* at least 85\.00 \(that of 'strongest', 86\.00, .* is 80\.00 at 0\. .* 6\.00"
    )
    with pytest.raises(InvalidConfigError, match=message):
        ChoiceRule(match_score_of="strongest", score_tolerance=1.0).choose(
            ROWS, make_validation_row("strongest", 86.0, 2.0)
        )
    with pytest.raises(
        InvalidConfigError, match=r"at most 0\.1 USD; the least is 0\.2 USD at 1\. Give a higher --target"
    ):
        ChoiceRule(target_cost_usd=0.1).choose(ROWS, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"give one of --match-score-of and --target-cost-usd"),
        ({"match_score_of": "strongest", "target_cost_usd": 1.0}, r"not both"),
        (
            {"match_score_of": "strongest", "score_tolerance": -1.0},
            r"--score-tolerance is -1\.0, must be a finite number",
        ),
        (
            {"target_cost_usd": 1.0, "score_tolerance": 1.0},
            r"--score-tolerance is 1\.0, must be .*beside --match-score-of",
        ),
        ({"target_cost_usd": 0.0}, r"--target-cost-usd is 0\.0, must be a finite number above 0"),
        ({"target_cost_usd": float("nan")}, r"--target-cost-usd is nan"),
    ],
)
def test_what_is_no_rule_is_refused(fields, message):
    with pytest.raises(InvalidConfigError, match=message):
        ChoiceRule(**fields)


def test_a_choice_tells_its_rule_and_every_number_behind_it(tmp_path):
    rule = ChoiceRule(match_score_of="strongest", score_tolerance=2.0)
    choice = CostWeightChoice.of(rule, ROWS, make_validation_row("strongest", 77.0, 2.0))
    assert str(choice) == (
        "'frontier': cost weight 0.5, chosen on validation from 4 weights as the largest weight whose score is at least that "
        "of 'strongest', 77.00 minus 2 points; there it scores 75.00 for 0.4 USD an episode (4 episodes)"
    )
    path = CostWeightChoices(env="e", pool="p", package_version="0", choices=(choice,)).save(tmp_path)
    read = json.loads(path.read_text())
    assert read["split"] == "validation"
    (one,) = read["choices"]
    assert (one["router"], one["cost_weight"], one["score_tolerance"]) == ("frontier", 0.5, 2.0)
    assert [(o["cost_weight"], o["score_mean"], o["cost_usd_mean"]) for o in one["grid"]] == [
        (weight, *GRID[weight]) for weight in sorted(GRID)
    ]
    assert (one["reference"]["policy"], one["reference"]["score_mean"]) == ("strongest", 77.0)
    assert CostWeightChoices.model_validate_json(path.read_text()).choices == (choice,)
