import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.arrays import (
    NOT_IMITATED,
    TrainingLog,
    discounted_returns,
    join_transitions,
    make_transitions,
)
from tests.cases.routing_toy import REWARD, StateFeatures, make_dataset, make_episode, make_turn


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


def test_whole_episodes_are_drawn_with_nothing_to_imitate_after_their_end():
    made = transitions(three_episodes())
    assert [made.episodes_of(n) for n in (1, 3, 4, 6, 600)] == [1, 2, 2, 3, 300]
    batch = made.sample_episodes(40, np.random.default_rng(0))
    assert len(batch) == 40
    assert batch.observations.shape == (40, 3, 11)
    episodes = [[0, 2], [1], [0, 0, 0]]  # models of the turns
    found = set()
    for rows, actions in zip(batch.observations, batch.actions, strict=True):
        told = [int(action) for action in actions if action != NOT_IMITATED]
        number = episodes.index(told)
        found.add(number)
        first = made.start_rows[number]
        np.testing.assert_array_equal(rows[: len(told)], made.observations[first : first + len(told)])
        assert not rows[len(told) :].any()
        assert (actions[len(told) :] == NOT_IMITATED).all()
    assert found == {0, 1, 2}
    part = batch.part(slice(3, 5))
    np.testing.assert_array_equal(part.observations, batch.observations[3:5])
    longest = made.of_episodes(np.array([False, False, True]))
    assert longest.sample_episodes(2, np.random.default_rng(0)).actions.tolist() == [[0, 0, 0]] * 2
    outer = made.of_episodes(np.array([True, False, True]))
    assert outer.n_episodes == 2
    drawn = outer.sample_episodes(20, np.random.default_rng(0))
    assert {tuple(row) for row in drawn.actions.tolist()} == {(0, 2, NOT_IMITATED), (0, 0, 0)}
    np.testing.assert_array_equal(
        np.unique(drawn.observations[:, 0], axis=0), np.unique(made.observations[[0, 5]], axis=0)
    )


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


CHEAP = RewardCard(cost_weight=0.5, cost_unit_usd=2.0)


def of_env(env, episodes, reward=REWARD):
    made = make_dataset(episodes)
    info = made.info.model_copy(update={"env": env, "dataset_id": f"{env}-v1"})
    return TrainingLog(dataset=Dataset(info=info, episodes=made.episodes), reward=reward, features=StateFeatures())


def two_logs():
    """Six turns of the one environment and one of the other, where money is worth a quarter."""
    return [of_env("a", three_episodes().episodes), of_env("b", [make_episode([turn(gain=0.7, cost=0.4)])], CHEAP)]


def test_joined_logs_keep_their_own_rewards_rows_and_episodes():
    joined = join_transitions(two_logs(), gamma=1.0, log_shares="equal")
    alone = [transitions(log.dataset, reward=log.reward) for log in two_logs()]
    assert joined.rewards == pytest.approx([-0.1, 0.4, 0.4, -0.1, -0.1, 0.9, 0.7 - 0.4 * 0.5 / 2])
    assert joined.rows.tolist() == [0, 1, 3, 5, 6, 7, 9]
    assert joined.episodes.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert joined.start_rows.tolist() == [0, 3, 5, 9]
    assert (joined.observations == np.concatenate([one.observations for one in alone])).all()
    assert joined.returns.tolist() == [*alone[0].returns, *alone[1].returns]


def test_a_mini_batch_takes_as_much_of_every_environment_or_of_every_turn():
    equal = join_transitions(two_logs(), gamma=1.0, log_shares="equal")
    by_turns = join_transitions(two_logs(), gamma=1.0, log_shares="by-turns")
    last = equal.rewards[-1]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert (equal.sample(64, rng).rewards == last).sum() == 32
        assert (equal.sample(7, rng).rewards == last).sum() in (3, 4)
    drawn = by_turns.sample(7000, np.random.default_rng(0)).rewards == last
    assert drawn.mean() == pytest.approx(1 / 7, abs=0.02)
    kept = equal.of_episodes(np.array([False, True, False, True])).sample(10, np.random.default_rng(0))
    assert sorted(kept.rewards.ravel().tolist()) == pytest.approx([0.4] * 5 + [0.6] * 5)


def test_logs_of_one_environment_are_as_one_log():
    first, second = three_episodes().episodes[:1], three_episodes().episodes[1:]
    joined = join_transitions([of_env("a", first), of_env("a", second)], gamma=1.0, log_shares="equal")
    whole = transitions(three_episodes())
    assert joined.fingerprint() == whole.fingerprint()
    batches = [one.sample(16, np.random.default_rng(3)) for one in (joined, whole)]
    assert (batches[0].observations == batches[1].observations).all()


def test_one_log_is_sampled_as_it_always_was():
    made = transitions(three_episodes())
    indices = np.random.default_rng(3).integers(len(made), size=16)
    assert (made.sample(16, np.random.default_rng(3)).rewards == made.batch(indices).rewards).all()


def test_a_joined_log_without_a_turn_or_with_returns_too_low_is_named():
    with pytest.raises(InvalidConfigError, match=r"'b-v1' has no completed episode with a turn"):
        join_transitions([two_logs()[0], of_env("b", [make_episode([])])], gamma=1.0, log_shares="equal")
    dear = of_env("b", [make_episode([turn(cost=0.4)])], RewardCard(cost_weight=1000.0, cost_unit_usd=1.0))
    with pytest.raises(InvalidConfigError, match=r"cost_weight 1000\.0 .* gives a return of -400"):
        join_transitions([two_logs()[0], dear], gamma=1.0, log_shares="equal")


def test_what_follows_is_drawn_only_where_something_is_bootstrapped_from_it():
    made = transitions(three_episodes())
    batch = made.sample(16, np.random.default_rng(3))
    regression = made.as_return_regression().sample(16, np.random.default_rng(3))
    assert (regression.observations == batch.observations).all()
    assert batch.next_observations.shape == batch.observations.shape
    assert regression.next_observations.shape == (1, batch.observations.shape[1])
    assert made.without_next().sample(16, np.random.default_rng(3)).next_observations.shape[0] == 1
    assert (made.without_next().rewards == made.rewards).all()
