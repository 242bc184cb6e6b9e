"""Learning on a tabular MDP with a known optimum: a dear model pays only if it is followed well."""

import pytest

from mtrouter_rl.agents.rules.heuristics import UniformRouter, single_router
from mtrouter_rl.registry import ALGORITHMS
from tests.cases.routing_toy import (
    JOINT,
    NETWORK,
    POOL,
    make_card,
    make_context,
    make_observation,
    optimal_values,
    policy_value,
)

LOOP = {"n_iterations": 9, "steps_per_iteration": 60, "batch_size": 128, "learning_rate": 4e-3, "keep_last": 3}


def train(algorithm, log, **parameters):
    card = make_card(algorithm, **(LOOP | parameters))
    return ALGORITHMS.load(algorithm).from_card(card).train(make_context(log))


def test_fitted_q_reaches_the_optimum_of_value_iteration(log):
    router = train("fitted_q", log, **JOINT, n_critics=1)
    assert policy_value(router) == pytest.approx(optimal_values()[0], abs=0.02)


def test_fitted_q_beats_every_single_model_and_random(log):
    """No model alone is best here, neither the cheapest nor the strongest: the order of models matters."""
    router = train("fitted_q", log, **JOINT, n_critics=1)
    others = [single_router(name, POOL) for name in POOL.model_names]
    others.append(UniformRouter(name="uniform", model_names=POOL.model_names))
    assert policy_value(router) > max(policy_value(other) for other in others) + 0.1


@pytest.mark.parametrize("learner", ["dqn", "discrete_cql"])
def test_other_learners_reach_it_too(log, learner):
    conservatism = {"conservatism": 0.01} if learner == "discrete_cql" else {}
    router = train("fitted_q", log, **JOINT, learner=learner, n_critics=1, **conservatism)
    assert policy_value(router) == pytest.approx(optimal_values()[0], abs=0.02)


def test_warm_start_and_one_iteration_look_one_turn_ahead_of_the_behavior_policy(log):
    router = train("fitted_q", log, **JOINT, n_iterations=6, n_warm_start=5, keep_last=1, steps_per_iteration=80)
    # Exact values of the uniform policy, as in a hand calculation: V(state 1) = 0.0675, max Q(state 1) = 0.289.
    assert router.q_values([make_observation(0)])[0, 2] == pytest.approx(-0.3 + 0.289, abs=0.08)


@pytest.mark.parametrize("algorithm", ["monte_carlo_q", "myopic"])
def test_estimators_that_do_not_plan_stay_with_the_cheap_model(log, algorithm):
    router = train(algorithm, log, **JOINT, n_iterations=4)
    assert policy_value(router) == pytest.approx(0.38, abs=1e-6)  # cheap at once: 0.4 - 0.02


def test_behavior_cloning_is_as_good_as_the_behavior_policy(log):
    router = train("behavior_cloning", log, **NETWORK, n_iterations=2)
    logged = sum(turn.utility_gain - turn.cost_usd for episode in log.episodes for turn in episode.turns)
    assert policy_value(router) == pytest.approx(logged / len(log.episodes), abs=0.08)


def test_cloning_the_best_episodes_is_better_and_not_optimal(log):
    clone = train("behavior_cloning", log, **NETWORK, n_iterations=2)
    best = train("behavior_cloning", log, **NETWORK, n_iterations=2, best_share=0.1)
    assert policy_value(clone) + 0.1 < policy_value(best) < optimal_values()[0] - 0.02
