import numpy as np
import pytest
from routing_toy import REWARD, StateFeatures, make_dataset, make_episode, make_turn

from mtrouter_rl.agents.transitions import discounted_returns, make_transitions
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError


def turn(**changes):
    return make_turn(changes.pop("model", 0), **({"state": 0, "next_state": 1, "gain": 0.0, "cost": 0.0} | changes))


def three_episodes():
    both = make_episode(
        [turn(gain=0.1, cost=0.2), turn(model=2, next_state=2, gain=0.5, cost=0.1, terminated=True, truncated=True)]
    )
    truncated = make_episode([turn(model=1, gain=0.7, cost=0.3, truncated=True)], index=1)
    terminated = make_episode(
        [turn(cost=0.1), turn(cost=0.1, mask=(True, False, True)), turn(gain=1.0, cost=0.1, terminated=True)], index=2
    )
    return make_dataset([both, truncated, terminated])


def transitions(dataset, **options):
    return make_transitions(dataset, StateFeatures(), **({"reward": REWARD, "gamma": 1.0} | options))


def test_hand_worked_returns_of_unequal_episodes():
    made = transitions(three_episodes(), gamma=0.5)
    assert made.rewards == pytest.approx([-0.1, 0.4, 0.4, -0.1, -0.1, 0.9])
    assert made.returns == pytest.approx([-0.1 + 0.2, 0.4, 0.4, -0.1 - 0.05 + 0.225, -0.1 + 0.45, 0.9])
    assert discounted_returns(np.array([]), 0.9).shape == (0,)


def test_rows_keep_the_last_transition_of_a_truncated_episode():
    made = transitions(three_episodes())
    assert made.rows.tolist() == [0, 1, 3, 5, 6, 7]
    assert made.observations.shape == (9, 8 + 3)
    assert made.episodes.tolist() == [0, 0, 1, 2, 2, 2]
    assert made.turns.tolist() == [0, 1, 0, 0, 1, 2]
    assert made.actions.tolist() == [0, 2, 1, 0, 0, 0]
    assert made.start_rows.tolist() == [0, 3, 5]


def test_masks_are_those_of_the_logged_turn_and_zero_after_the_last():
    bits = transitions(three_episodes()).observations[:, 8:]
    assert bits[[2, 4, 8]].tolist() == [[0, 0, 0]] * 3
    assert bits[6].tolist() == [1, 0, 1]


@pytest.mark.parametrize(("bootstrap", "ends"), [(False, [0, 1, 1, 0, 0, 1]), (True, [0, 1, 0, 0, 0, 1])])
def test_truncation_ends_the_value_unless_bootstrapped_and_termination_always_does(bootstrap, ends):
    made = transitions(three_episodes(), bootstrap_after_truncation=bootstrap)
    assert made.terminals.tolist() == ends


def test_batch_is_the_logged_transition():
    made = transitions(three_episodes())
    batch = made.batch(np.array([2, 4]))
    assert batch.observations[:, :4].argmax(axis=1).tolist() == [0, 1]
    assert batch.next_observations[:, :4].argmax(axis=1).tolist() == [1, 1]
    assert batch.rewards.ravel() == pytest.approx([0.4, -0.1])
    assert batch.terminals.ravel().tolist() == [1, 0]
    assert len(made.sample(7, np.random.default_rng(0))) == 7


def test_an_empty_log_and_returns_below_the_forbidden_value_are_refused():
    with pytest.raises(InvalidConfigError, match=r"'toy-v1' has no completed episode with a turn"):
        transitions(make_dataset([make_episode([])]))
    with pytest.raises(
        InvalidConfigError, match=r"cost_weight 1000\.0 .* gives a return of -299\.4, must be above -100"
    ):
        transitions(three_episodes(), reward=RewardCard(cost_weight=1000.0, cost_unit_usd=1.0))


def test_fingerprint_tells_logs_apart():
    one, other = three_episodes(), make_dataset(three_episodes().episodes[:2])
    assert transitions(one).fingerprint() == transitions(one).fingerprint() != transitions(other).fingerprint()
