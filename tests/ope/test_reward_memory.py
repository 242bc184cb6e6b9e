"""Features of the rewards so far, by hand."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.ope import reward_memory as reward_memory_module
from mtrouter_rl.ope.reward_memory import (
    HISTORY_NAMES,
    PAIR_NAMES,
    RewardMemory,
    reward_memory,
)
from mtrouter_rl.transitions.usefulness import turn_facts, turn_kinds, usefulness
from tests.cases.evaluation_cases import MODELS, make_episode, make_turn

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
        assert sum(shown.values()) == 2.25  # all else is 0, as nobody was called


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


def acting(action, *, gain=0.0, error="", shows="new"):
    return dataclasses.replace(make_turn(gain=gain, error=error), action_text=action, observation_text=shows)


def test_kinds_of_turns_by_hand():
    turns = [
        acting("open door", shows="a"),
        acting("open door", shows="a"),
        acting("go", error="unknown_action", shows="You are in a kitchen."),
        acting("", shows="b"),
    ]
    (kinds,) = turn_kinds(turn_facts([make_episode(turns)]))
    assert kinds == [
        ("open", False, False, False),
        ("open", False, True, True),
        ("go", True, True, False),
        ("",) + (False,) * 3,
    ]


def test_rare_first_words_are_one_kind():
    turns = [acting(f"word{number // 2} it") for number in range(80)]
    words = {kind[0] for kind in turn_kinds(turn_facts([make_episode(turns)]))[0]}
    assert len(words) == 31
    assert "" in words


def test_usefulness_is_the_gain_that_follows_above_the_usual_one():
    """Half the episodes open a door and gain a turn later; the others look around and gain nothing."""
    good = [acting("open door"), acting("step", gain=0.5)]
    poor = [acting("look", gain=-0.3), acting("step")]
    episodes = [make_episode(good if number % 2 else poor, seed=number) for number in range(200)]
    facts = turn_facts(episodes)
    useful = usefulness(facts, turn_kinds(facts))
    opened, looked = useful[1][0], useful[0][0]
    assert opened == pytest.approx(-looked)  # 0.5 and 0 around 0.25, losses left out, both shrunk by 100 / 150
    assert useful[1][1] == useful[0][1] == pytest.approx(0)  # a step is as usual on average
    assert np.std([value for one in useful for value in one]) == pytest.approx(1)


def test_usefulness_of_a_log_without_gains_is_nothing():
    episodes = [make_episode([acting("look")], seed=number) for number in range(3)]
    facts = turn_facts(episodes)
    assert usefulness(facts, turn_kinds(facts)) == [[0.0]] * 3


def test_calls_are_remembered_by_how_useful_they_were():
    memory = reward_memory([EPISODE, EPISODE], MODELS)
    facts = turn_facts([EPISODE])
    useful = usefulness(facts, turn_kinds(facts))[0]
    last = history(memory, 3)
    assert last["usefulness_of_last_turn"] == pytest.approx(useful[2], rel=0.5)
    tiny, middle, big = (pair(memory, 3, model) for model in MODELS)
    assert (tiny["last_call_was_error"], big["last_call_was_error"], middle["last_call_was_error"]) == (1, 0, 0)
    assert (tiny["last_call_showed_old"], tiny["last_call_repeated"]) == (1, 1)
    assert tiny["usefulness_since_call"] == 0  # it was the last to be called
    assert big["usefulness_since_call"] == pytest.approx(max(last["usefulness_of_last_turn"], 0))
    assert big["usefulness_of_last_call"] == pytest.approx(last["usefulness_of_turn_before"])


def test_only_the_past_is_told():
    """But for how useful a kind of action is, what comes at a turn or after it changes nothing of the features before it."""
    changed = [*EPISODE.turns[:2], make_turn("middle", gain=0.9), make_turn("big", error="ambiguous")]
    one, other = (
        reward_memory([dataclasses.replace(EPISODE, turns=tuple(turns))], MODELS) for turns in (EPISODE.turns, changed)
    )
    columns = [number for number, name in enumerate(HISTORY_NAMES) if not name.startswith("usefulness")]
    np.testing.assert_array_equal(one.history[:3, columns], other.history[:3, columns])
    columns = [number for number, name in enumerate(PAIR_NAMES) if not name.startswith("usefulness")]
    np.testing.assert_array_equal(one.pairs[:3][..., columns], other.pairs[:3][..., columns])
    assert (one.pairs[3] != other.pairs[3]).any()


def test_episodes_of_unequal_length_are_each_what_they_are_alone(monkeypatch):
    others = [
        make_episode([make_turn("big", gain=0.5, end="terminated")]),
        EPISODE,
        dataclasses.replace(make_episode([make_turn("middle"), make_turn("big")] * 2), max_turns=7),
        dataclasses.replace(make_episode([make_turn("tiny", gain=0.1), make_turn("tiny")]), max_turns=9),
    ]
    alone = [reward_memory([one], MODELS) for one in others]
    for at_once in (4096, 3):
        monkeypatch.setattr(reward_memory_module, "_EPISODES_AT_ONCE", at_once)
        together = reward_memory(others, MODELS)
        for names, part in ((HISTORY_NAMES, "history"), (PAIR_NAMES, "pairs")):
            columns = [number for number, name in enumerate(names) if not name.startswith("usefulness")]
            expected = np.concatenate([getattr(one, part) for one in alone])
            np.testing.assert_array_equal(getattr(together, part)[..., columns], expected[..., columns])


def test_episodes_follow_each_other():
    twice = reward_memory([EPISODE, EPISODE], MODELS)
    assert twice.history.shape == (10, len(HISTORY_NAMES))
    assert twice.pairs.shape == (10, 3, len(PAIR_NAMES))
    np.testing.assert_array_equal(twice.pairs[:5], twice.pairs[5:])
    assert RewardMemory.nothing(4, 3).pairs.shape == (4, 3, 0)


def test_a_log_is_gone_through_once():
    episodes = iter([EPISODE, EPISODE])
    np.testing.assert_array_equal(
        reward_memory(episodes, MODELS).pairs, reward_memory([EPISODE, EPISODE], MODELS).pairs
    )
