"""What single-turn routers and routers per turn learn from, by hand."""

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.outcomes import TaskLog, outcomes_to_go, resolve_learns_from, turn_log
from tests.cases.routing_toy import (
    REWARD,
    StateFeatures,
    TaskFeatures,
    make_dataset,
    make_episode,
    make_turn,
    single_model_log,
)


def turn(model, gain, cost, **changes):
    return make_turn(model, **({"state": 0, "next_state": 1, "gain": gain, "cost": cost} | changes))


def two_episodes():
    """Lengths 3 and 1; the first ends by both, the second by a limit."""
    long = [turn(0, 0.1, 1.0), turn(1, 0.2, 2.0), turn(0, 0.4, 4.0, terminated=True, truncated=True)]
    short = [turn(2, 0.5, 3.0, truncated=True)]
    return make_dataset([make_episode(long, task="long"), make_episode(short, index=1, start=1, task="short")])


def test_discounted_utility_and_cost_to_go():
    transitions = make_transitions(two_episodes(), StateFeatures(), reward=REWARD, gamma=1.0)
    expected = [[0.1 + 0.5 * (0.2 + 0.5 * 0.4), 1 + 0.5 * (2 + 0.5 * 4)], [0.4, 4.0], [0.4, 4.0], [0.5, 3.0]]
    np.testing.assert_allclose(outcomes_to_go(transitions, gamma=0.5), expected, rtol=1e-6)


def test_one_row_per_turn_with_the_history_before_it():
    log = turn_log(
        two_episodes(), make_transitions(two_episodes(), StateFeatures(), reward=REWARD, gamma=1.0), gamma=1.0
    )
    assert log.models.tolist() == [0, 1, 0, 2]
    np.testing.assert_allclose(log.outcomes, [[0.7, 7.0], [0.6, 6.0], [0.4, 4.0], [0.5, 3.0]], rtol=1e-6)
    assert log.vectors[:, :4].argmax(axis=1).tolist() == [0, 1, 1, 1]
    assert log.weights.tolist() == [1, 1, 1, 1]


def test_single_turn_rows_from_turns():
    """b = (0.6, 5), (0.6, 6), (0.4, 4) at the turns 0, 1, 2; a row is the mean of G_t - b_t + b_0 of an episode's model."""
    log = TaskLog.of_dataset(two_episodes(), TaskFeatures(), reward=REWARD, learns_from="turns")
    assert log.texts == ("long", "long", "short")
    assert log.models.tolist() == [0, 1, 2]
    assert log.weights.tolist() == [2, 1, 1]
    of_model_0 = np.mean([[0.7, 7.0], [0.4 - 0.4 + 0.6, 4.0 - 4.0 + 5.0]], axis=0)
    np.testing.assert_allclose(log.outcomes, [of_model_0, [0.6, 5.0], [0.5, 3.0]], rtol=1e-6)
    assert log.vectors.argmax(axis=1).tolist() == [0, 0, 1]


def test_means_by_hand_with_a_prior():
    log = TaskLog.of_dataset(two_episodes(), TaskFeatures(), reward=REWARD, learns_from="turns")
    first_two = np.array([True, True, False])
    prior = np.array([[1.0, 1.0]] * 3)
    means = log.means(first_two, prior=prior, prior_weight=2.0)
    np.testing.assert_allclose(means, [[(2 * 0.65 + 2) / 4, (2 * 6.0 + 2) / 4], [(0.6 + 2) / 3, 7 / 3], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("n_single", "n_mixed", "chosen"),
    [(0, 0, "episodes"), (6, 0, "episodes"), (6, 5, "episodes"), (6, 6, "turns"), (0, 1, "turns")],
)
def test_auto_goes_by_what_most_longer_episodes_are(n_single, n_mixed, chosen):
    single = [make_episode([turn(1, 0, 1), turn(1, 0, 1)], index=200 + index) for index in range(n_single)]
    mixed = [make_episode([turn(0, 0, 1), turn(1, 0, 1)], index=100 + index) for index in range(n_mixed)]
    log = make_dataset([*single_model_log(12).episodes, *single, *mixed])
    assert {len(episode.turns) for episode in single_model_log(12).episodes} == {1}
    assert resolve_learns_from(log, "auto") == chosen
    assert resolve_learns_from(log, "turns") == "turns"


def test_a_model_that_was_never_called_is_named():
    log = make_dataset([make_episode([turn(0, 0, 1), turn(2, 1, 1, terminated=True)])])
    with pytest.raises(InvalidConfigError, match=r"dataset 'toy-v1' has no completed turn of middle; .*log them"):
        TaskLog.of_dataset(log, TaskFeatures(), reward=REWARD, learns_from="turns")
    with pytest.raises(InvalidConfigError, match=r"no completed turn of middle"):
        turn_log(log, make_transitions(log, StateFeatures(), reward=REWARD, gamma=1.0), gamma=1.0)
