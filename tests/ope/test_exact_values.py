"""Estimators and their intervals against the exact values of random tabular tasks, over a thousand logs each."""

from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.sequential import ESTIMATORS
from mtrouter_rl.studies.ope_coverage.run import UNBIASED, Design, difference_coverage, fitted_dm_coverage, measure
from mtrouter_rl.studies.ope_coverage.tabular import COLUMNS, TabularTask
from tests.cases.tabular_log import TabularMDP


def make_design(seed, *, n_logs, n_episodes, max_turns, distortion=1.0):
    rng = np.random.default_rng(seed)
    task = TabularTask.random(rng, max_turns=max_turns)
    policy = task.random_policy(rng)
    logs = task.simulate(n_logs, n_episodes, rng=rng)
    return Design(task=task, policy=policy, q_values=task.q_values(policy) * distortion, logs=logs)


def test_dynamic_programming_by_hand():
    task = TabularTask(
        start=np.array([0.5, 0.5]),
        following=np.array([[[0.0, 1.0]], [[0.0, 1.0]]]),
        stop=np.array([[0.25], [0.5]]),
        utility=np.array([[1.0], [2.0]]),
        cost_usd=np.array([[0.1], [0.4]]),
        behavior=np.ones((2, 1)),
        max_turns=2,
        cost_weight=2.0,
    )
    utility = 0.5 * (1 + 0.75 * 2) + 0.5 * (2 + 0.5 * 2)
    cost = 0.5 * (0.1 + 0.75 * 0.4) + 0.5 * (0.4 + 0.5 * 0.4)
    np.testing.assert_allclose(task.value(np.ones((2, 1))), [utility, cost, utility - 2 * cost])


def test_exact_values_are_the_means_of_episodes_that_the_policy_plays():
    task = TabularTask.random(np.random.default_rng(0))
    logs = task.simulate(1, 40_000, rng=np.random.default_rng(1))
    returns = np.add.reduceat(logs.rewards, logs.log(0).starts)
    error = returns.std(axis=0) / np.sqrt(len(returns))
    assert (np.abs(returns.mean(axis=0) - task.value(task.behavior)) < 3 * error).all()


def test_episodes_differ_in_length_and_some_ends_are_both_terminated_and_truncated():
    task = TabularTask.random(np.random.default_rng(0), max_turns=5)
    logs = task.simulate(10, 60, rng=np.random.default_rng(0), cluster_size=3)
    assert set(logs.lengths.tolist()) == {1, 2, 3, 4, 5}
    assert (logs.terminated | logs.truncated).all()
    for both in (
        logs.terminated & logs.truncated,
        logs.terminated & ~logs.truncated,
        logs.truncated & ~logs.terminated,
    ):
        assert both.mean() > 0.02
    log = logs.log(3)
    assert len(log.lengths) == 60
    first = logs.states[logs.turns_of(3)][log.starts]
    assert (first[::3] == first[1::3]).all()  # episodes of one cluster share it
    with pytest.raises(InvalidConfigError, match=r"n_episodes is 61, must be a multiple of cluster_size \(3\)"):
        task.simulate(1, 61, rng=np.random.default_rng(0), cluster_size=3)


@pytest.mark.parametrize(("seed", "distortion"), [(0, 1.0), (1, 0.0), (2, 1.7), (3, 1.7)])
def test_unbiased_estimators_are_within_three_standard_errors_over_a_thousand_logs(seed, distortion):
    design = make_design(seed, n_logs=1000, n_episodes=40, max_turns=5, distortion=distortion)
    for one in measure(design, seed=0, n_resamples=1, estimators=UNBIASED):
        assert abs(one.bias_in_errors) < 3, one
        assert one.bias_error < 0.1 * one.truth, one  # so that being near says something


@pytest.fixture(scope="module")
def covered():
    """All estimators over a thousand logs of 200 episodes of up to 3 turns; the effective sample is some 50 to 70."""
    design = make_design(1, n_logs=1000, n_episodes=200, max_turns=3)
    return {(one.estimator, one.column): one for one in measure(design, seed=0, n_resamples=300)}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_cover_the_exact_value_as_often_as_they_say(covered, estimator, column):
    one = covered[estimator, column]
    assert 0.92 <= one.coverage <= 0.98, one
    assert one.width < one.truth, one  # so that covering says something


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name not in UNBIASED])
def test_bias_of_the_consistent_estimators_is_far_below_their_intervals(covered, estimator):
    for column in COLUMNS:
        assert abs(covered[estimator, column].bias) < 0.1 * covered[estimator, column].width


@pytest.fixture(scope="module")
def small():
    return make_design(1, n_logs=300, n_episodes=200, max_turns=3)


def test_intervals_of_values_that_were_fitted_to_the_log_cover(small):
    coverage = fitted_dm_coverage(small, seed=0, n_resamples=300)
    assert (coverage >= 0.92).all(), coverage  # wider than need be: two repeats leave few degrees of freedom


def test_intervals_of_differences_cover(small):
    policy = small.task.random_policy(np.random.default_rng(7))
    other = replace(small, policy=policy, q_values=small.task.q_values(policy))
    coverage = difference_coverage(small, other, seed=0, n_resamples=300, estimator="wdr")
    assert ((coverage >= 0.92) & (coverage <= 0.98)).all(), coverage


def test_a_task_fitted_to_a_large_log_is_near_the_task():
    design = make_design(2, n_logs=1, n_episodes=20_000, max_turns=4)
    fitted = design.logs.fitted_task(0, np.ones(20_000, dtype=bool))
    np.testing.assert_allclose(fitted.value(design.policy), design.task.value(design.policy), rtol=0.02)
    np.testing.assert_allclose(fitted.stop, design.task.stop, atol=0.04)
    np.testing.assert_allclose(fitted.following.sum(axis=2), 1)


def test_least_standard_error_is_that_of_the_tabular_model_of_a_log():
    """Counts of the log as model of the task are efficient: over many logs they spread as the bound says, and not less."""
    mdp = TabularMDP(3)
    for policy, probabilities in mdp.policies.items():
        found = np.array([mdp.estimated(policy, 1000, seed) for seed in range(300)])
        least = mdp.task.least_standard_error(probabilities, n_episodes=1000)[:2]
        np.testing.assert_allclose(found.std(axis=0), least, rtol=0.15)
