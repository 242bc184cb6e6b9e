import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.cost_weight_range import FrontierTransitions
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights
from tests.cases.routing_toy import StateFeatures, make_dataset, make_episode, make_turn

WEIGHTS = CostWeights(low=0.5, high=3.0, share_zero=0.25)
REWARD = RewardCard(cost_weight=1.0, cost_unit_usd=0.5)


def turn(gain, cost, **changes):
    return make_turn(0, state=0, next_state=1, gain=gain, cost=cost, **changes)


def episodes():
    both = make_episode([turn(0.1, 0.2), turn(0.5, 0.1, terminated=True, truncated=True)])
    truncated = make_episode([turn(0.7, 0.3, truncated=True)], index=1)
    return make_dataset([both, truncated])


def transitions(gamma=0.5, weights=WEIGHTS, reward=REWARD):
    plain = make_transitions(episodes(), StateFeatures(), reward=reward, gamma=gamma, n_extra=N_COLUMNS)
    return FrontierTransitions.of(plain, cost_weights=weights, reward=reward, gamma=gamma)


def test_hand_worked_rewards_of_a_batch_under_weights_of_its_own():
    batch = transitions().batch_at(np.array([0, 1, 2]), np.array([0.0, 0.5, 3.0]))
    # In units of 1 + w, and a cost unit of 0.5 USD: (gain - w * cost / 0.5) / (1 + w).
    assert batch.rewards.ravel() == pytest.approx([0.1, (0.5 - 0.5 * 0.2) / 1.5, (0.7 - 3 * 0.6) / 4])
    assert batch.terminals.ravel().tolist() == [0, 1, 1]


def test_hand_worked_returns_under_weights_of_their_own():
    regression = transitions().as_return_regression()
    batch = regression.batch_at(np.array([0, 1]), np.array([3.0, 0.0]))
    utility, cost = 0.1 + 0.5 * 0.5, 0.2 + 0.5 * 0.1  # discounted by 0.5
    assert batch.rewards.ravel() == pytest.approx([(utility - 3 * cost / 0.5) / 4, 0.5])
    assert batch.terminals.ravel().tolist() == [1, 1]


def test_the_weight_is_told_in_both_observations_and_nothing_else_changes():
    made = transitions()
    weights = np.array([0.5, 2.0])
    batch, plain = made.batch_at(np.array([0, 2]), weights), made.batch(np.array([0, 2]))
    columns = made.weight_columns
    assert (columns.start, columns.stop) == (StateFeatures.dim, StateFeatures.dim + N_COLUMNS)
    for observations, others in (
        (batch.observations, plain.observations),
        (batch.next_observations, plain.next_observations),
    ):
        assert observations[:, columns].tolist() == WEIGHTS.features(weights).tolist()
        rest = np.r_[0 : columns.start, columns.stop : observations.shape[1]]
        assert observations[:, rest].tolist() == others[:, rest].tolist()
    assert (
        made.observations[:, columns].tolist() == WEIGHTS.features(np.ones(5)).tolist()
    )  # the log itself is untouched


def test_what_is_not_drawn_is_at_the_weight_of_the_environment():
    made = transitions()
    assert made.value_unit == 2
    assert 2 * made.rewards == pytest.approx([0.1 - 0.4, 0.5 - 0.2, 0.7 - 0.6])
    assert 2 * made.returns == pytest.approx([0.1 - 0.4 + 0.5 * 0.3, 0.3, 0.1])
    assert made.rewards.tolist() == pytest.approx(made.batch_at(np.arange(3), np.ones(3)).rewards.ravel().tolist())


def test_equal_generators_draw_equal_batches_and_all_weights_of_the_range():
    made = transitions()
    one, other = (made.sample(64, np.random.default_rng(5)) for _ in range(2))
    assert (one.observations == other.observations).all()
    assert (one.rewards == other.rewards).all()
    shares = one.observations[:, made.weight_columns.start]  # w / (1 + w)
    assert (shares == 0).sum() == 16
    assert shares.max() == pytest.approx(0.75, abs=0.02)


def test_a_part_of_the_episodes_is_a_part_of_everything():
    part = transitions().of_episodes(np.array([False, True]))
    assert part.utility_returns == pytest.approx([0.7])
    assert part.cost_returns_usd == pytest.approx([0.3])
    assert part.batch_at(np.array([0]), np.array([0.0])).rewards.ravel() == pytest.approx([0.7])


def test_fingerprint_tells_logs_of_one_environment_reward_apart():
    """Utility and cost that give the same rewards under one weight are different logs here."""
    made = transitions()
    shifted = make_transitions(episodes(), StateFeatures(), reward=REWARD, gamma=0.5, n_extra=N_COLUMNS)
    shifted.utility_gains[:] += 0.1
    shifted.costs_usd[:] += 0.05
    other = FrontierTransitions.of(shifted, cost_weights=WEIGHTS, reward=REWARD, gamma=0.5)
    assert other.rewards == pytest.approx(made.rewards)
    assert made.fingerprint() == transitions().fingerprint() != other.fingerprint()


def test_returns_below_the_forbidden_value_are_refused():
    with pytest.raises(
        InvalidConfigError, match=r"cost_weights\.high 1e\+09 .* must be above -100\.0, .*larger cost_unit"
    ):
        transitions(weights=CostWeights(low=1e-3, high=1e9), reward=RewardCard(cost_weight=0.001, cost_unit_usd=1e-3))
