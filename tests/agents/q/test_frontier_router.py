"""One network for every cost weight, against the exact optimum of a tabular MDP at several of them."""

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.q.fitted_q_frontier import FittedQFrontier
from mtrouter_rl.agents.q.frontier_router import FrontierRouter
from mtrouter_rl.errors import CardError, InvalidConfigError
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q
from tests.cases.routing_toy import (
    JOINT,
    N_STATES,
    POOL,
    TINY,
    StateFeatures,
    backup,
    make_card,
    make_context,
    make_observation,
    optimal_values,
    policy_value,
)

WEIGHTS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
RANGE = {"low": 0.1, "high": 4.0, "share_zero": 0.15}
LOOP = {"n_iterations": 12, "steps_per_iteration": 100, "batch_size": 256, "learning_rate": 4e-3, "keep_last": 4}
STATES = [make_observation(state) for state in range(N_STATES)]


def train(log, **parameters):
    card = make_card("fitted_q_frontier", **(JOINT | LOOP | {"cost_weights": RANGE} | parameters))
    return FittedQFrontier.from_card(card).train(make_context(log))


@pytest.fixture(scope="module")
def router(log):
    return train(log)


@pytest.fixture
def tiny(small_log):
    return train(small_log, **TINY["fitted_q_frontier"])


@pytest.mark.parametrize("weight", WEIGHTS)
def test_one_training_is_optimal_at_every_weight(router, weight):
    assert policy_value(router.at(weight), weight) == pytest.approx(optimal_values(weight)[0], abs=0.02)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_values_are_those_of_value_iteration(router, weight):
    best = optimal_values(weight)
    exact = np.array([[backup(state, model, best, weight) for model in range(3)] for state in range(N_STATES)])
    assert router.at(weight).q_values(STATES) == pytest.approx(exact, abs=0.06 * (1 + weight))


def test_the_weights_ask_for_different_models(router):
    """Else a network that overlooks the weight would pass: the first state wants the dear model only while it pays."""
    first = {weight: int(router.at(weight).action_probabilities(STATES)[0].argmax()) for weight in WEIGHTS}
    assert (first[0.0], first[1.0], first[4.0]) == (2, 2, 0)


@pytest.mark.parametrize(
    "changes",
    [{"learner": "dqn", "n_critics": 2}, {"learner": "discrete_cql", "conservatism": 0.01}, {"n_warm_start": 0}],
)
def test_other_learners_reach_it_too(log, changes):
    router = train(log, **({"n_iterations": 8, "steps_per_iteration": 60} | changes))
    for weight in (0.0, 1.0, 4.0):
        assert policy_value(router.at(weight), weight) == pytest.approx(optimal_values(weight)[0], abs=0.03)


def test_it_acts_at_the_weight_of_the_environment_until_it_is_told_another(tiny):
    assert isinstance(tiny, FrontierRouter)
    assert tiny.settings.cost_weight == 1.0
    same = tiny.at(1.0)
    assert (same.q_values(STATES) == tiny.q_values(STATES)).all()
    assert (tiny.name, same.name) == ("test-fitted_q_frontier", "test-fitted_q_frontier@1")
    dear = tiny.at(3.0)
    assert dear.provenance.reward.cost_weight == 3.0
    assert tiny.provenance.reward.cost_weight == 1.0
    assert not (dear.q_values(STATES) == tiny.q_values(STATES)).any()
    assert not (dear.history_embeddings(STATES) == tiny.history_embeddings(STATES)).all()


def test_masked_models_keep_the_value_of_forbidden_ones(tiny):
    values = tiny.at(3.0).q_values([make_observation(mask=(1, 0, 1))])[0]
    assert (values == FORBIDDEN_Q).tolist() == [False, True, False]


def test_a_router_at_a_weight_can_be_saved_and_moved_on(tiny, tmp_path):
    save_router(tiny.at(2.0), tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures())
    assert loaded.name == "test-fitted_q_frontier@2"
    assert (loaded.q_values(STATES) == tiny.at(2.0).q_values(STATES)).all()
    assert (loaded.at(0.5).q_values(STATES) == tiny.at(0.5).q_values(STATES)).all()


def test_weights_outside_the_range_are_refused(tiny, small_log):
    with pytest.raises(InvalidConfigError, match=r"'test-fitted_q_frontier': cost weight is 4\.5, must be from 0 to 4"):
        tiny.at(4.5)
    with pytest.raises(
        InvalidConfigError, match=r"agent 'test-fitted_q_frontier': cost weight is 1, .* from 0 to 0\.5"
    ):
        train(small_log, **TINY["fitted_q_frontier"], cost_weights={"low": 0.1, "high": 0.5})


def test_a_broken_range_is_named_by_the_card():
    with pytest.raises(CardError, match=r"parameter 'cost_weights' got .*low must be below high"):
        FittedQFrontier.from_card(make_card("fitted_q_frontier", cost_weights={"low": 2.0, "high": 1.0}))
