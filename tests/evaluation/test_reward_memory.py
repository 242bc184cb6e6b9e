"""Features of the rewards so far, by hand."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.evaluation.reward_memory import HISTORY_NAMES, PAIR_NAMES, RewardMemory, reward_memory
from tests.evaluation.evaluation_cases import MODELS, make_episode, make_turn

EPISODE = make_episode(
    [
        make_turn("tiny", error="unknown_action"),
        make_turn("big"),
        make_turn("tiny", error="unknown_action"),
        make_turn("middle", gain=0.25),
        make_turn("tiny", gain=-0.5, end="terminated"),
    ]
)


def history(memory, turn):
    return dict(zip(HISTORY_NAMES, memory.history[turn].tolist(), strict=True))


def pair(memory, turn, model):
    return dict(zip(PAIR_NAMES, memory.pairs[turn, MODELS.index(model)].tolist(), strict=True))


def test_nothing_has_happened_before_the_first_turn():
    memory = reward_memory([EPISODE], MODELS)
    first = history(memory, 0)
    assert first["turns_left_share"] == 1
    assert all(value == 0 for name, value in first.items() if name != "turns_left_share")
    for model in MODELS:
        shown = pair(memory, 0, model)
        assert (shown["no_call_since_gain"], shown["smoothed_gain_rate"], shown["turns_since_call"]) == (1, 0.25, 1)
        assert sum(shown.values()) == 2.25  # all else is 0


def test_calls_in_vain_are_counted_by_model():
    memory = reward_memory([EPISODE], MODELS)
    before_gain = history(memory, 3)
    assert before_gain["turns_since_gain"] == pytest.approx(0.3)
    assert before_gain["log_turns_since_gain"] == pytest.approx(np.log(4) / 3)
    assert before_gain["most_calls_since_gain"] == pytest.approx(2 / 5)
    assert before_gain["share_of_models_called_since_gain"] == pytest.approx(2 / 3)
    assert before_gain["share_of_models_called_twice_since_gain"] == pytest.approx(1 / 3)
    tiny, middle, big = (pair(memory, 3, model) for model in MODELS)
    assert [one["calls_since_gain"] for one in (tiny, middle, big)] == pytest.approx([2 / 8, 0, 1 / 8])
    assert [one["two_calls_since_gain"] for one in (tiny, middle, big)] == [1, 0, 0]
    assert [one["errors_since_gain"] for one in (tiny, middle, big)] == [1, 0, 0]
    assert [one["is_last_model"] for one in (tiny, middle, big)] == [1, 0, 0]
    assert [one["turns_since_call"] for one in (tiny, middle, big)] == pytest.approx([0, 1, 0.1])
    assert tiny["log_calls"] == pytest.approx(np.log(3) / 3)


def test_a_gain_starts_the_count_anew_and_is_credited_to_its_model():
    memory = reward_memory([EPISODE], MODELS)
    after = history(memory, 4)
    assert (after["utility_so_far"], after["n_gains"], after["turns_since_gain"]) == (0.25, pytest.approx(0.1), 0)
    assert after["turn_share"] == pytest.approx(4 / 50)
    middle = pair(memory, 4, "middle")
    assert (middle["gain_rate"], middle["smoothed_gain_rate"]) == (1, pytest.approx(2 / 5))
    assert pair(memory, 4, "tiny")["no_call_since_gain"] == 1


def test_only_the_past_is_told():
    """What comes at a turn or after it changes nothing of the features before it."""
    changed = [*EPISODE.turns[:2], make_turn("middle", gain=0.9), make_turn("big", error="ambiguous")]
    one, other = (
        reward_memory([dataclasses.replace(EPISODE, turns=tuple(turns))], MODELS) for turns in (EPISODE.turns, changed)
    )
    np.testing.assert_array_equal(one.history[:3], other.history[:3])
    np.testing.assert_array_equal(one.pairs[:3], other.pairs[:3])
    assert (one.pairs[3] != other.pairs[3]).any()


def test_episodes_follow_each_other():
    twice = reward_memory([EPISODE, EPISODE], MODELS)
    assert twice.history.shape == (10, len(HISTORY_NAMES))
    assert twice.pairs.shape == (10, 3, len(PAIR_NAMES))
    np.testing.assert_array_equal(twice.pairs[:5], twice.pairs[5:])
    assert RewardMemory.nothing(4, 3).pairs.shape == (4, 3, 0)
