from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.query_router import choose_keys
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.reporting.transcripts import MAX_CHARACTERS, shorten, transcript_markdown
from tests.cases.evaluation_cases import MODELS, make_episode, make_turn


def example():
    turns = [
        make_turn("tiny", cost_usd=0.001, gain=0.1),
        replace(make_turn("big", error="unknown_action", end="truncated"), served_model="middle"),
    ]
    return TracedEpisode(
        episode=make_episode(turns, variation=3, seed=8),
        action_probabilities=np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]),
        q_values=np.array([[0.125, 0.5, 0.25], [0.1, 0.2, 0.3]]),
    )


def test_every_turn_shows_model_action_error_cost_and_values():
    text = transcript_markdown(example(), MODELS)
    assert "### boil, variation 3, seed 8" in text
    assert "score **10.0** for **0.101 USD** in 2 turns; stopped by a limit" in text
    first, second = text.splitlines()[-2:]
    assert first.startswith("| 1 tiny | tiny opens &#124; the &#42;door&#42; | The door is &lt;open&gt;.")
    assert first.endswith("| +10.0 for 0.00100 USD | **tiny 0.125 (50%)**, middle 0.500 (25%), big 0.250 (25%) |")
    assert "| 2 big (served by middle) |" in second
    assert "| 0.0 for 0.100 USD; unknown&#95;action |" in second
    assert "**big 0.300 (100%)**" in second


def test_values_may_be_missing():
    text = transcript_markdown(TracedEpisode(episode=example().episode), MODELS)
    assert text.splitlines()[-1].endswith("| tiny, middle, **big** |")
    empty = transcript_markdown(TracedEpisode(episode=make_episode([])), MODELS)
    assert "in 0 turns; stopped before its first call" in empty


def test_many_models_are_listed_in_lines():
    text = transcript_markdown(TracedEpisode(episode=example().episode), ("a", "b", "c", "tiny", "big"))
    assert text.splitlines()[-1].endswith("| a, b, c<br>tiny, **big** |")


def test_wrong_shapes_are_refused():
    with pytest.raises(ResultsError, match=r"action_probabilities have shape \(2, 3\), must be \(2, 2\)"):
        transcript_markdown(example(), MODELS[:2])


def test_long_texts_are_cut():
    assert len(shorten("a" * 1000)) == MAX_CHARACTERS
    assert shorten("two\n  lines") == "two lines"


def test_the_same_episodes_are_chosen_for_all_policies():
    def policy(utilities, failed=()):
        return [
            TracedEpisode(
                episode=make_episode(
                    [make_turn(gain=gain)], seed=seed, status="failed" if seed in failed else "completed"
                )
            )
            for seed, gain in enumerate(utilities)
        ]

    policies = {"a": policy([0.5, 0.1, 0.9, 0.3]), "b": policy([0.5, 0.1, 0.9, 0.3], failed=[2])}
    assert [key[2] for key in choose_keys(policies, n_keys=2)] == [1, 0]
    assert [key[2] for key in choose_keys(policies, n_keys=9)] == [1, 3, 0]
    assert choose_keys({}, n_keys=3) == ()
