"""Fitted Q evaluation against dynamic programming on a tabular routing MDP with unequal, partly truncated episodes."""

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.bellman import bellman_check
from mtrouter_rl.ope.fqe import (
    FqeData,
    FqeParameters,
    Prediction,
    _Regression,
    backup,
    expected_cost,
    fitted_q_evaluation,
    halves,
)
from mtrouter_rl.ope.reward_memory import RewardMemory
from mtrouter_rl.ope.sequential import Values, estimate
from tests.cases.tabular_log import TabularMDP

SMALL = {
    "history_hidden": (64,),
    "dropout": 0.0,
    "weight_decay": 0.0,
    "model_hidden": 16,
    "residual_dim": 4,
    "joint_hidden": (64,),
}
FAST = SMALL | {"n_iterations": 4, "steps_per_iteration": 5, "batch_size": 32, "keep_last": 2, "n_repeats": 1}


@pytest.fixture(scope="module")
def mdp():
    return TabularMDP(3)


@pytest.fixture(scope="module")
def large(mdp):
    return mdp.data(5000, seed=0)


@pytest.fixture(scope="module")
def found(large):
    parameters = FqeParameters(
        **SMALL,
        n_iterations=60,
        steps_per_iteration=50,
        learning_rate=5e-3,
        keep_last=20,
        schedule="cosine",
        batch_size=512,
        n_repeats=1,
    )
    return fitted_q_evaluation(large, parameters, seed=0)


@pytest.mark.parametrize("policy", ["stochastic", "always-2"])
def test_values_are_within_two_percent_of_dynamic_programming(mdp, large, found, policy):
    starts = large.transitions.turns == 0
    values = found.values.states[starts, found.names.index(policy)].mean(axis=0)
    np.testing.assert_allclose(values, mdp.truth(policy), rtol=0.02)


@pytest.mark.parametrize("policy", ["stochastic", "always-2", "greedy"])
def test_values_are_within_two_standard_errors_of_the_best_possible_estimate(mdp, large, found, policy):
    """For the greedy policy that error is 2.2% of the value: no estimate from 5,000 episodes is reliably within 2%."""
    starts = large.transitions.turns == 0
    values = found.values.states[starts, found.names.index(policy)].mean(axis=0)
    errors = mdp.task.least_standard_error(mdp.policies[policy], n_episodes=5000)[:2]
    assert (np.abs(values - mdp.truth(policy)) < 2 * errors).all()


@pytest.mark.parametrize("policy", ["stochastic", "always-2", "greedy"])
def test_values_are_within_two_percent_of_what_the_log_itself_says(mdp, large, found, policy):
    starts = large.transitions.turns == 0
    values = found.values.states[starts, found.names.index(policy)].mean(axis=0)
    np.testing.assert_allclose(values, mdp.estimated(policy, 5000, seed=0), rtol=0.02)


@pytest.mark.parametrize("estimator", ["dm", "dr", "wdr"])
def test_estimates_on_top_of_it_are_within_two_percent_for_utility_cost_and_return(mdp, found, estimator):
    policy, logs = "stochastic", mdp.simulate(5000, seed=0)
    log, number = logs.log(0), found.names.index(policy)
    logged, states = (
        np.append(of, of[:, :1] - mdp.task.cost_weight * of[:, 1:], axis=1)
        for of in (found.values.logged[:, number], found.values.states[:, number])
    )
    values = Values(logged=logged, states=states)
    pi = mdp.policies[policy][logs.states]
    one = estimate(log, pi, values=values, seed=0, estimators=(estimator,), n_resamples=100)[estimator]
    truth = mdp.task.value(mdp.policies[policy])
    assert (truth > 0.03).all()
    np.testing.assert_allclose(one.value, truth, rtol=0.02)


def test_policies_and_episodes_of_the_toy_differ(mdp, large):
    truths = np.array([mdp.truth(policy) for policy in mdp.policies])
    assert np.ptp(truths[:, 0]) > 0.1 * truths[:, 0].max()  # else 2% says little
    lengths = np.bincount(large.transitions.episodes)
    assert len(set(lengths.tolist())) == mdp.max_turns
    assert (lengths == mdp.max_turns).mean() > 0.1  # of which most are truncated


def test_good_values_pass_the_bellman_check_and_bad_ones_do_not(large, found):
    number = found.names.index("greedy")
    pi = large.policies["greedy"]
    weights = 3 * pi[np.arange(len(pi)), large.transitions.actions]
    arguments = {"cluster_of_turn": large.transitions.episodes, "n_episodes": 5000}
    predicted, residuals = found.values.logged[:, number, 0], found.residuals[:, number, 0]
    good = bellman_check(residuals, predicted, weights, large.transitions.turns, **arguments)
    bad = bellman_check(residuals + 0.1, predicted, weights, large.transitions.turns, **arguments)
    assert abs(good.bias) < 0.05
    assert good.bias_error < 0.05
    assert good.calibration < 0.05
    assert abs(good.memory_bias) < 3 * good.memory_bias_error < 0.15
    assert bad.bias - good.bias == pytest.approx(0.1 * len(pi) / 5000)  # 0.1 a turn
    assert bad.calibration > 0.09


def test_bellman_check_by_hand():
    check = bellman_check(
        np.array([0.3, -0.1, 0.2]),
        np.array([1.0, 1.0, 1.0]),
        np.array([2.0, 0.0, 1.0]),
        np.array([0, 1, 0]),
        cluster_of_turn=np.array([0, 0, 1]),
        n_episodes=2,
    )
    mean = 0.8 / 3  # of 1.5 turns an episode
    assert check.bias == pytest.approx(1.5 * mean)
    assert check.rmse == pytest.approx(np.sqrt((2 * 0.09 + 0.04) / 3))
    assert check.calibration == pytest.approx(mean)
    by_cluster = 0.5 * np.array([2 * (0.3 - mean), 0.2 - mean])
    assert check.bias_error == pytest.approx(by_cluster.std(ddof=1) * np.sqrt(2))
    assert check.memory_bias == check.bias  # the only turn with one before it has no weight


def test_memory_bias_by_hand():
    check = bellman_check(
        np.array([0.0, 0.5, 0.1, 0.0, 0.9]),
        np.ones(5),
        np.array([2.0, 3.0, 1.0, 0.0, 4.0]),
        np.array([0, 1, 2, 0, 1]),
        cluster_of_turn=np.array([0, 0, 0, 1, 1]),
        n_episodes=2,
    )
    weights = np.array([2, 6, 3, 0, 0])  # the product with the weight of the turn before; nothing comes before turn 0
    assert check.memory_bias == pytest.approx((6 * 0.5 + 3 * 0.1) / weights.sum() * 5 / 2)
    assert 0 < check.memory_bias_error < np.inf


def test_memory_bias_finds_what_the_history_does_not_show():
    """Model 0 gains, but not twice in a row; the states show the turn alone, and the values are right on average there."""
    rng = np.random.default_rng(0)
    n_episodes, n_turns = 2000, 4
    actions = rng.integers(2, size=n_episodes * n_turns)
    turns = np.tile(np.arange(n_turns), n_episodes)
    is_second = (turns > 0) & (np.roll(actions, 1) == 0)
    rewards = ((actions == 0) & ~is_second).astype(float)
    gains = np.array([1.0, 0.5, 0.5, 0.5])  # of model 0 by turn, as the log has it
    states = np.append(np.cumsum(gains[::-1])[::-1], 0.0)  # of always calling model 0
    logged = np.where(actions == 0, gains[turns], 0.0) + states[turns + 1]
    check = bellman_check(
        rewards + states[turns + 1] - logged,
        logged,
        2.0 * (actions == 0),
        turns,
        cluster_of_turn=np.repeat(np.arange(n_episodes), n_turns),
        n_episodes=n_episodes,
    )
    assert abs(check.bias) < 3 * check.bias_error
    # In truth it gains nothing after turn 0: the values are 1.5 too high, of which one turn of memory shows it all.
    assert check.memory_bias == pytest.approx(-1.5, abs=4 * check.memory_bias_error)
    assert check.memory_bias_error < 0.1


def test_long_logs_are_regressed_on_some_episodes_at_a_time(mdp):
    data = mdp.data(60, seed=1)
    whole = fitted_q_evaluation(data, FqeParameters(**FAST), seed=0)
    n_turns = len(data.transitions)
    for limit, is_equal in ((n_turns, True), (n_turns // 8, False)):
        found = fitted_q_evaluation(data, FqeParameters(**FAST, max_turns_per_iteration=limit), seed=0)
        assert found.values.states.shape == whole.values.states.shape
        assert np.isfinite(found.values.states).all()
        assert (found.values.states == whole.values.states).all() == is_equal


@pytest.mark.parametrize(
    ("bound", "n_turns", "steps"),
    [
        (8.0, 100, (8, 100)),
        (0.5, 100, (1, 100)),
        (8.0, 1000, (32, 256)),
        (8.0, 1920, (60, 256)),
        (None, 100, (60, 256)),
    ],
)
def test_steps_of_a_regression_follow_the_turns_up_to_a_ceiling(bound, n_turns, steps):
    assert FqeParameters(max_passes=bound).steps_for(n_turns) == steps


def test_the_cost_is_told_beforehand_as_it_is(mdp, monkeypatch):
    made = []
    step = _Regression._step
    monkeypatch.setattr(_Regression, "_step", lambda self, *args: made.append(args[2]) or step(self, *args))
    parameters = FqeParameters(**FAST | {"batch_size": 64, "steps_per_iteration": 50, "max_passes": 2})
    for n_episodes in (30, 60):
        data = mdp.data(n_episodes, seed=1)
        cost = expected_cost(data, parameters)
        made.clear()
        fitted_q_evaluation(data, parameters, seed=0)
        assert cost.n_steps == pytest.approx(len(made), rel=0.35)  # halves of equal clusters are not of equal turns
        assert cost.n_steps < cost.n_steps_at_most == 2 * 4 * 50
        assert sum(made) < 2.5 * 4 * len(data.transitions)
        assert cost.seconds > 0


def test_a_trial_of_the_cost_changes_no_value(mdp):
    data = mdp.data(30, seed=1)
    one = fitted_q_evaluation(data, FqeParameters(**FAST), seed=0)
    expected_cost(data, FqeParameters(**FAST))
    np.testing.assert_array_equal(
        fitted_q_evaluation(data, FqeParameters(**FAST), seed=0).values.states, one.values.states
    )


def test_reward_memory_is_used(mdp):
    data = mdp.data(60, seed=1)
    n = len(data.transitions)
    rng = np.random.default_rng(0)
    memory = RewardMemory(
        history=rng.normal(size=(n, 2)).astype(np.float32), pairs=rng.normal(size=(n, 3, 4)).astype(np.float32)
    )
    plain = fitted_q_evaluation(data, FqeParameters(**FAST), seed=0)
    found = fitted_q_evaluation(FqeData(**{**vars(data), "memory": memory}), FqeParameters(**FAST), seed=0)
    assert (found.values.states != plain.values.states).any()


def test_backup_by_hand():
    turns = np.array([0, 1, 2, 0])
    rewards = np.array([1.0, 2.0, 4.0, 8.0])[:, None, None]
    before = Prediction(
        logged=np.array([0.0, 3.0, 5.0, 0.0])[:, None, None], states=np.array([0.0, 2.0, 6.0, 0.0])[:, None, None]
    )
    traces = np.array([1.0, 0.5, 0.25, 1.0])[:, None, None]
    returns = backup(turns, rewards, None, traces)[:, 0, 0]
    np.testing.assert_allclose(returns, [7, 6, 4, 8])
    targets = backup(turns, rewards, before, traces)[:, 0, 0]
    second = 2 + 6 + 0.25 * (4 - 5)
    np.testing.assert_allclose(targets, [1 + 2 + 0.5 * (second - 3), second, 4, 8])
    one_step = backup(turns, rewards, before, np.zeros((4, 1, 1)))[:, 0, 0]
    np.testing.assert_allclose(one_step, [1 + 2, 2 + 6, 4, 8])


def test_values_come_from_networks_that_did_not_see_the_cluster(mdp):
    data = mdp.data(40, seed=1)
    marked = data.transitions.episodes == 7
    gains = np.where(marked, 1000.0, data.transitions.utility_gains).astype(np.float32)
    spoiled = FqeData(**{**vars(data), "transitions": _replaced(data.transitions, utility_gains=gains)})
    one, other = (fitted_q_evaluation(log, FqeParameters(**FAST), seed=3).values.states for log in (data, spoiled))
    half = halves(data, np.random.default_rng([3, 0]))
    same = half[data.transitions.episodes] == half[7]
    np.testing.assert_array_equal(one[same], other[same])
    assert (one[~same] != other[~same]).any()


def _replaced(record, **changes):
    return type(record)(**{**vars(record), **changes})


def test_any_number_of_threads_gives_the_same_values(mdp):
    data = mdp.data(200, seed=1)
    one, three = (fitted_q_evaluation(data, FqeParameters(**FAST), seed=0, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.values.states, three.values.states)
    np.testing.assert_array_equal(one.values.logged, three.values.logged)


def test_halves_keep_clusters_together_and_split_every_stratum(mdp):
    data = mdp.data(24, seed=1)
    grouped = FqeData(**{**vars(data), "clusters": np.arange(24) // 2, "strata": np.arange(24) // 8})
    half = halves(grouped, np.random.default_rng(0))
    assert (half[::2] == half[1::2]).all()
    assert [half[start : start + 8].sum() for start in (0, 8, 16)] == [4, 4, 4]


def test_equal_seeds_give_equal_values_and_leave_torch_alone(mdp):
    import torch

    data = mdp.data(30, seed=1)
    state = torch.get_rng_state()
    one, again, other = (fitted_q_evaluation(data, FqeParameters(**FAST), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.values.states, again.values.states)
    assert (one.values.states != other.values.states).any()
    assert (torch.get_rng_state() == state).all()


@pytest.mark.parametrize(
    ("changes", "parameters", "seed", "message"),
    [
        ({"policies": {}}, {}, 0, r"there is no policy to evaluate"),
        ({"policies": {"a": np.ones((3, 2)) / 2}}, {}, 0, r"policy 'a': probabilities have shape \(3, 2\), must be \("),
        (
            {"clusters": np.zeros(30, dtype=np.int64)},
            {},
            0,
            r"the log has 1 cluster \(task, variation\), must have at least 2",
        ),
        ({}, {}, -1, r"seed is -1, must be 0 or more"),
        ({}, {"n_warm_start": 4}, 0, r"n_warm_start is 4, must be below n_iterations \(4\)"),
        ({}, {"learning_rate": 1e30}, 0, r"iteration \d: the loss is .*, must be finite; .* lower learning_rate"),
    ],
)
def test_bad_inputs(mdp, changes, parameters, seed, message):
    data = FqeData(**{**vars(mdp.data(30, seed=1)), **changes})
    with pytest.raises(InvalidConfigError, match=message):
        fitted_q_evaluation(data, FqeParameters(**(FAST | parameters)), seed=seed)


def test_a_policy_that_the_log_never_follows_cannot_be_checked():
    with pytest.raises(InvalidConfigError, match=r"no logged turn has an action that the policy would take"):
        bellman_check(
            np.ones(2), np.ones(2), np.zeros(2), np.zeros(2, dtype=int), cluster_of_turn=np.array([0, 1]), n_episodes=2
        )


def test_what_is_kept_is_the_mean_of_the_last_iterates(mdp):
    data = mdp.data(60, seed=0)
    loop = FAST | {"schedule": "constant"}
    sizes = [(3, 1), (4, 1), (4, 2)]
    third, fourth, both = (
        fitted_q_evaluation(data, FqeParameters(**loop | {"n_iterations": n, "keep_last": kept}), seed=0).values
        for n, kept in sizes
    )
    assert np.abs(third.logged - fourth.logged).max() > 1e-3
    np.testing.assert_allclose(both.logged, (third.logged + fourth.logged) / 2, atol=1e-6)
    np.testing.assert_allclose(both.states, (third.states + fourth.states) / 2, atol=1e-6)
