import pytest

from mtrouter_rl.evaluation.behavior_errors import bad_ends, error_behavior, first_errors
from mtrouter_rl.statistics.wilson import wilson_interval
from tests.cases.behavior_cases import flawless_episode, hand_episodes
from tests.cases.evaluation_cases import MODELS, make_episode, make_turn


def test_errors_worked_by_hand():
    errors = error_behavior(hand_episodes())
    assert (errors.n_errors, errors.share_of_turns) == (7, pytest.approx(7 / 11))
    assert (errors.n_transient, errors.stay_after_transient, errors.recovery_after_transient) == (4, 0.75, 0.5)
    assert (errors.n_persistent, errors.stay_after_persistent, errors.recovery_after_persistent) == (1, 0.0, 1.0)
    assert (errors.n_runs, errors.n_recovered, errors.recovered_share) == (5, 3, 0.6)
    assert errors.turns_to_recovery_mean == pytest.approx(4 / 3)
    assert (errors.n_stays, errors.recovery_by_staying) == (3, pytest.approx(2 / 3))
    assert (errors.n_switches, errors.recovery_by_switching) == (2, 0.5)
    assert errors.stay_after_transient_ci95 == wilson_interval(3, 4)
    assert errors.recovery_by_switching_ci95 == wilson_interval(1, 2)


def test_only_the_past_decides_whether_an_error_is_transient():
    """The same three turns with another continuation: their errors are sorted alike."""
    turns = [make_turn("tiny", error="idle"), make_turn("tiny", error="idle"), make_turn("big", error="idle")]
    for further in ([], [make_turn("big", error="idle")], [make_turn("tiny")]):
        errors = error_behavior([make_episode([*turns, *further, make_turn("big")])])
        assert (errors.n_transient, errors.stay_after_transient) == (1, 1.0)
    assert errors.n_persistent == 2


def test_an_error_in_the_last_turn_is_no_chance_to_stay():
    errors = error_behavior([make_episode([make_turn(), make_turn(error="idle", end="truncated")])])
    assert (errors.n_errors, errors.n_transient, errors.n_runs, errors.n_recovered) == (1, 0, 1, 0)
    assert errors.stay_after_transient is None
    assert errors.stay_after_transient_ci95 is None
    assert errors.recovered_share == 0
    assert errors.turns_to_recovery_mean is None


def test_first_errors_worked_by_hand():
    found = first_errors(hand_episodes(), MODELS)
    assert list(found) == list(MODELS)
    assert {name: one.n_first_errors for name, one in found.items()} == {"tiny": 2, "middle": 1, "big": 1}
    assert {name: one.n_turns_at_risk for name, one in found.items()} == {"tiny": 2, "middle": 2, "big": 1}
    assert {name: one.failed_after_share for name, one in found.items()} == {"tiny": 0.5, "middle": 0.0, "big": 1.0}
    lifts = {name: one.lift for name, one in found.items()}
    assert lifts == pytest.approx({"tiny": 0.5 / 0.4, "middle": 0.25 / 0.4, "big": 0.25 / 0.2})


def test_episodes_without_an_error_are_turns_at_risk():
    found = first_errors([*hand_episodes(), flawless_episode()], MODELS)
    assert {name: one.n_turns_at_risk for name, one in found.items()} == {"tiny": 3, "middle": 2, "big": 2}
    assert found["big"].lift == pytest.approx(0.25 / (2 / 7))


def test_first_errors_of_nothing():
    found = first_errors([flawless_episode()], MODELS)
    assert found["tiny"].share_of_first_errors is None
    assert (found["tiny"].lift, found["tiny"].failed_after_share, found["middle"].n_turns_at_risk) == (None, None, 0)


def test_a_success_that_only_rounding_separates_from_one_is_no_failure():
    gains = [0.1] * 10
    assert sum(gains) != 1.0
    turns = [make_turn(error="idle", gain=gains[0]), *(make_turn(gain=gain) for gain in gains[1:])]
    assert first_errors([make_episode(turns)], MODELS)["tiny"].failed_after_share == 0


def test_bad_ends_are_terminated_by_a_loss():
    ends = bad_ends(hand_episodes(), MODELS)
    assert {name: (end.n, end.share) for name, end in ends.items()} == {"tiny": (0, 0), "middle": (0, 0), "big": (1, 1)}
    assert bad_ends([flawless_episode()], MODELS)["big"].share is None
