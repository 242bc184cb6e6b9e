import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.studies.pool_calibration.agreement import agreement_with_best, typical_odds_ratio


def outcomes(text):
    return {str(task): letter == "1" for task, letter in enumerate(text)}


def test_shares_and_odds_ratio_by_hand():
    best, share, (row,) = agreement_with_best({"b": outcomes("1101100000"), "a": outcomes("1111101000")})
    assert (best, share, row.model, row.n_tasks) == ("a", 0.6, "b", 10)
    # of the six that a solves b solves four; of the four that it fails, none
    assert row.solved == pytest.approx(0.4)
    assert row.of_solved == pytest.approx(4 / 6)
    assert row.of_failed == 0.0
    assert row.odds_ratio == pytest.approx((4.5 / 2.5) * (4.5 / 0.5))


def test_models_that_fail_independently_have_an_odds_ratio_of_about_1():
    one, other = outcomes("1110" * 40), outcomes("1100" * 20 + "0011" * 20)
    rows = agreement_with_best({"one": one, "other": other})[2]
    assert rows[0].odds_ratio == pytest.approx(1.0, abs=0.6)
    assert typical_odds_ratio(rows) == pytest.approx(rows[0].odds_ratio)


def test_the_better_of_the_others_comes_first_and_the_typical_ratio_is_a_geometric_mean():
    solved = {"best": outcomes("11111000"), "poor": outcomes("11000000"), "fair": outcomes("11110000")}
    rows = agreement_with_best(solved)[2]
    assert [row.model for row in rows] == ["fair", "poor"]
    assert typical_odds_ratio(rows) == pytest.approx((rows[0].odds_ratio * rows[1].odds_ratio) ** 0.5)


def test_a_model_that_solves_all_leaves_a_share_out():
    _, _, (row,) = agreement_with_best({"all": outcomes("111"), "some": outcomes("110")})
    assert (row.of_solved, row.of_failed) == (pytest.approx(2 / 3), None)


@pytest.mark.parametrize(
    ("solved", "message"),
    [
        ({"one": outcomes("10")}, r"outcomes of 1 model\(s\), must be of at least 2"),
        ({"one": {"a": True}, "other": {"b": False}}, "model 'other' and the best one share no task"),
    ],
)
def test_too_little_to_compare(solved, message):
    with pytest.raises(InvalidConfigError, match=message):
        agreement_with_best(solved)
