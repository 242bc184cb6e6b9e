"""Errors on the graph of turns: first ones, inherited ones, and how often one follows another; by hand and on known truths."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtrouter_rl.evaluation.behavior_errors import first_errors
from mtrouter_rl.evaluation.behavior_spread import error_spread, linked_turns
from tests.cases.behavior_cases import hand_episodes
from tests.cases.evaluation_cases import MODELS, make_episode, make_turn

PAGE = Path(__file__).parents[2] / "docs" / "routing-behavior.md"


def linked(*turns, **rest):
    """An episode of (model, error, parents)."""
    made = [
        replace(make_turn(model, error=error, end="terminated" * (index == len(turns) - 1)), parents=parents)
        for index, (model, error, parents) in enumerate(turns)
    ]
    return make_episode(made, **rest)


def two_sub_agents(**rest):
    """Big asks tiny and middle, who both fail; big fails on their answers, begins anew, and answers."""
    return linked(
        ("big", "", None),
        ("tiny", "idle", (0,)),
        ("middle", "idle", (0,)),
        ("big", "idle", (0, 1, 2)),
        ("tiny", "", (0,)),
        ("big", "", (4,)),
        **rest,
    )


def spread_of(*episodes, seed=0):
    return error_spread(episodes, MODELS, seed=seed, n_resamples=400)


def counts(one):
    return one.n_turns, one.n_errors


def test_errors_beside_each_other_are_both_first_ones():
    found = linked_turns(two_sub_agents())
    assert [one.is_first_error for one in found] == [False, True, True, False, False, False]
    assert found[3].failed_parents == {"tiny", "middle"}
    assert [one.has_failed_ancestor for one in found] == [False, False, False, True, False, False]


def test_an_error_far_above_is_an_ancestor():
    found = linked_turns(linked(("tiny", "idle", ()), ("big", "", (0,)), ("big", "", (1,)), ("big", "idle", (2,))))
    assert [one.is_first_error for one in found] == [True, False, False, False]
    assert not found[3].failed_parents


def test_counts_on_a_graph():
    spread = spread_of(two_sub_agents(), two_sub_agents(variation=1))
    assert (spread.n_linked, spread.n_first_errors, spread.n_inherited_errors) == (10, 4, 2)
    assert counts(spread.after_success) == (8, 4)  # turns 1, 2, 4 and 5; the first turn has no parents
    assert counts(spread.after_error) == (2, 2)
    assert {name: counts(one) for name, one in spread.after_error_of.items()} == {
        "tiny": (2, 2),
        "middle": (2, 2),
        "big": (0, 0),
    }
    assert spread.after_error.difference.value == pytest.approx(0.5)
    assert (spread.after_error.difference.low, spread.after_error.share.low) == (None, None)  # all are errors
    assert (spread.after_error_of["big"].share, spread.after_error_of["big"].difference) == (None, None)


def test_without_parents_turns_are_a_chain():
    spread = spread_of(*hand_episodes())
    assert spread.n_linked == 0
    assert (spread.n_first_errors, spread.n_inherited_errors) == (4, 3)
    assert counts(spread.after_success) == (2, 2)
    assert counts(spread.after_error) == (5, 2)
    assert counts(spread.after_error_of["tiny"]) == (3, 1)


def test_first_errors_of_models_are_those_of_the_graph():
    found = first_errors([two_sub_agents()], MODELS)
    assert {name: one.n_first_errors for name, one in found.items()} == {"tiny": 1, "middle": 1, "big": 0}
    assert {name: one.n_turns_at_risk for name, one in found.items()} == {"tiny": 2, "middle": 1, "big": 2}


def made_up(rng, *, harm):
    """Chains whose turns fail with probability 0.2, and `harm[model]` more after an error of this model."""
    episodes = []
    for variation in range(60):
        turns, before = [], None
        for _ in range(12):
            model = MODELS[rng.integers(3)]
            has_failed = rng.random() < 0.2 + harm.get(before, 0.0)
            turns.append((model, "idle" if has_failed else "", None))
            before = model if has_failed else None
        episodes.append(linked(*turns, variation=variation))
    return episodes


def test_harm_that_was_put_in_is_found_with_its_model():
    spread = spread_of(*made_up(np.random.default_rng(0), harm={"tiny": 0.5}))
    assert spread.after_error_of["tiny"].difference.low > 0.3
    for name in ("middle", "big"):
        assert spread.after_error_of[name].difference.low < 0 < spread.after_error_of[name].difference.high


def test_intervals_hold_the_truth_about_as_often_as_they_promise():
    rng = np.random.default_rng(1)
    held = [spread_of(*made_up(rng, harm={"tiny": 0.3})).after_error_of["tiny"].difference for _ in range(40)]
    assert 35 <= sum(one.low <= 0.3 <= one.high for one in held) <= 40


def test_the_seed_decides_and_nothing_else():
    episodes = made_up(np.random.default_rng(2), harm={})
    assert spread_of(*episodes) == spread_of(*reversed(episodes))
    assert spread_of(*episodes) != spread_of(*episodes, seed=1)


def test_the_example_of_the_page_prints_what_it_says(capsys):
    page = PAGE.read_text(encoding="utf-8")
    ((code, printed),) = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == printed
