"""The paper's estimator: what it regresses, with and without its penalties for errors."""

from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.agents.q.error_penalties import expected_turns, penalties_to_go
from mtrouter_rl.agents.q.monte_carlo_q import MonteCarloQ
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import CardError
from tests.cases.routing_toy import make_card, make_context


def by_hand(errors, **rest):
    return penalties_to_go(
        errors, {"bad": "high", "odd": "medium", "*": "low"}, **({"n_expected": 10, "gamma": 1.0} | rest)
    )


def test_penalties_worked_by_hand():
    """At turn 0 of 10 an error weighs 0.3; at turn 5 half way from 0.3 to 1; from turn 7 on 1."""
    assert by_hand(["bad"]) == pytest.approx([0.03])
    assert by_hand([""] * 5 + ["bad"])[5] == pytest.approx(0.065)
    assert by_hand([""] * 8 + ["odd"])[8] == pytest.approx(0.08)
    assert by_hand([""] * 12 + ["bad"])[12] == pytest.approx(0.1)


def test_no_error_costs_less_than_a_fifth_of_a_turn():
    assert by_hand(["other"]) == pytest.approx([0.02])
    assert by_hand(["odd"]) == pytest.approx([0.024])
    assert penalties_to_go(["other"], {"bad": "high"}, n_expected=10, gamma=1.0).tolist() == [0.0]


def test_penalties_are_those_from_the_turn_on():
    assert by_hand(["bad", "", "other", ""]) == pytest.approx([0.05, 0.02, 0.02, 0.0])
    assert by_hand(["bad", "", "other", ""], gamma=0.5) == pytest.approx([0.03 + 0.25 * 0.02, 0.01, 0.02, 0.0])


def laid_out(context, **parameters):
    algorithm = load_algorithm(make_card("monte_carlo_q", **parameters))
    assert isinstance(algorithm, MonteCarloQ)
    return algorithm.lay_out(context)


@pytest.fixture
def context(small_log):
    """A log in which every third turn of an episode is an error."""
    episodes = [
        replace(one, turns=tuple(replace(turn, error="idle" if n % 3 == 1 else "") for n, turn in enumerate(one.turns)))
        for one in small_log.episodes
    ]
    return make_context(Dataset(info=small_log.info, episodes=tuple(episodes)))


def test_the_target_is_the_return_minus_the_penalties(context):
    plain, less = laid_out(context), laid_out(context, error_severities={"*": "medium"})
    episodes = [one for one in context.dataset.completed if one.turns]
    n_expected = expected_turns(episodes)
    assert n_expected == np.mean([len(one.turns) for one in episodes])
    wanted = np.concatenate(
        [
            penalties_to_go([turn.error for turn in one.turns], {"*": "medium"}, n_expected=n_expected, gamma=1.0)
            for one in episodes
        ]
    )
    assert wanted.max() > 0
    assert plain.rewards - less.rewards == pytest.approx(wanted, abs=1e-6)
    assert (less.terminals == 1).all()


def test_no_severities_change_nothing(context):
    assert (laid_out(context).rewards == laid_out(context, error_severities={}).rewards).all()
    assert (laid_out(context).rewards == laid_out(context, error_severities={"no-such": "high"}).rewards).all()


def test_an_unknown_severity_is_refused():
    with pytest.raises(CardError, match="error_severities"):
        load_algorithm(make_card("monte_carlo_q", error_severities={"*": "grave"}))
