"""One test for the whole family: every registered algorithm makes a router that keeps the contract."""

import subprocess
import sys

import numpy as np
import pytest

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.cards import RewardCard, list_cards, load_agent_card
from mtrouter_rl.errors import CardError, InvalidConfigError, MaskedActionError, PoolMismatchError
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.registry import ALGORITHMS
from tests.cases.routing_toy import (
    POOL,
    TINY,
    StateFeatures,
    features_of,
    make_card,
    make_context,
    make_dataset,
    make_observation,
    make_pool,
)

NAMES = sorted(ALGORITHMS.builtin)
OBSERVATIONS = [
    make_observation(state, mask=mask, models=models)
    for state in range(3)
    for mask in [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1), (1, 1, 0)]
    for models in [(), (2,), (0, 1)]
]


@pytest.fixture(scope="module")
def routers(log_of):
    return {
        name: ALGORITHMS.load(name)
        .from_card(make_card(name, **TINY.get(name, {})))
        .train(make_context(log_of(name), features=features_of(name)()))
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_valid_and_masked_models_get_none(name, routers):
    router = routers[name]
    assert isinstance(router, Router)
    assert router.name == f"test-{name}"
    assert router.model_names == POOL.model_names
    probabilities = router.action_probabilities(OBSERVATIONS)
    masks = np.array([observation["action_mask"] for observation in OBSERVATIONS])
    assert probabilities.shape == (len(OBSERVATIONS), 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (probabilities >= 0).all()
    assert (probabilities[masks == 0] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_observation_is_a_batch_of_one(name, routers):
    router = routers[name]
    alone = np.concatenate([router.action_probabilities([observation]) for observation in OBSERVATIONS])
    np.testing.assert_allclose(alone, router.action_probabilities(OBSERVATIONS), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_saved_routers_act_alike(name, routers, tmp_path):
    router = routers[name]
    save_router(router, tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda config: features_of(name)(config["scripted"]))
    assert type(loaded) is type(router)
    assert loaded.name == router.name
    np.testing.assert_array_equal(loaded.action_probabilities(OBSERVATIONS), router.action_probabilities(OBSERVATIONS))
    assert loaded.provenance == router.provenance
    assert loaded.provenance.card.algorithm == name
    if isinstance(router, ValueRouter):
        np.testing.assert_array_equal(loaded.q_values(OBSERVATIONS), router.q_values(OBSERVATIONS))


@pytest.mark.parametrize("name", NAMES)
def test_another_pool_is_refused_by_its_models_names(name, routers, tmp_path):
    save_router(routers[name], tmp_path)
    with pytest.raises(PoolMismatchError, match=r"only the router knows: large; only the pool: huge"):
        load_router(tmp_path, pool=make_pool(("small", "middle", "huge")), make_features=lambda _: StateFeatures())
    with pytest.raises(PoolMismatchError, match=r"same models in another order"):
        load_router(tmp_path, pool=make_pool(("large", "middle", "small")), make_features=lambda _: StateFeatures())


@pytest.mark.parametrize("name", NAMES)
def test_no_allowed_model_and_a_mask_of_another_length_are_errors(name, routers):
    with pytest.raises(MaskedActionError, match=r"observation 1: action_mask allows no model"):
        routers[name].action_probabilities([make_observation(), make_observation(mask=(0, 0, 0))])
    with pytest.raises(InvalidConfigError, match=r"action_mask has shape \(2,\), must be \(3,\)"):
        routers[name].action_probabilities([make_observation(mask=(1, 1))])


@pytest.mark.parametrize("name", [name for name in NAMES if ALGORITHMS.load(name).needs_dataset])
def test_a_context_without_a_log_or_with_that_of_another_pool_is_refused(name, log_of):
    small_log = log_of(name)
    algorithm = ALGORITHMS.load(name).from_card(make_card(name))
    reward = RewardCard(cost_weight=1.0, cost_unit_usd=1.0)
    with pytest.raises(InvalidConfigError, match=rf"'test-{name}': the training context has no dataset"):
        algorithm.train(TrainingContext(pool=POOL, reward=reward, seed=0))
    with pytest.raises(InvalidConfigError, match="has no features"):
        algorithm.train(TrainingContext(pool=POOL, reward=reward, seed=0, dataset=small_log))
    other = make_dataset(small_log.episodes, make_pool(("a", "b", "c")))
    with pytest.raises(PoolMismatchError):
        algorithm.train(make_context(other))


@pytest.mark.parametrize(
    ("algorithm", "parameters", "message"),
    [
        (
            "fitted_q",
            {"gamma": 1.5},
            r"'test-fitted_q' breaks its rules:\n  parameter 'gamma' got 1\.5: .*less than or",
        ),
        ("fitted_q", {"n_critics": 0}, r"parameter 'n_critics' got 0: .*greater than 0"),
        (
            "fitted_q",
            {"learning_rat": 0.1},
            r"parameter 'learning_rat' is no parameter of algorithm 'fitted_q'; .*Known",
        ),
        ("fitted_q", {"learner": "sarsa"}, r"parameter 'learner' got 'sarsa'"),
        ("fitted_q", {"learner": "discrete_cql"}, r"conservatism is 0\.0 with learner 'discrete_cql', must be above 0"),
        ("fitted_q", {"conservatism": 1.0}, r"conservatism is 1\.0 with learner 'double_dqn'"),
        ("fitted_q", {"n_warm_start": 20}, r"n_warm_start is 20, must be below n_iterations \(20\)"),
        ("fitted_q", {"joint_hidden": []}, r"parameter 'joint_hidden' got \[\]"),
        ("monte_carlo_q", {"batch_size": -1}, r"parameter 'batch_size' got -1"),
        ("monte_carlo_q", {"schedule": "linear"}, r"parameter 'schedule' got 'linear'"),
        ("myopic", {"gamma": 0.5}, r"parameter 'gamma' is no parameter of algorithm 'myopic'"),
        ("myopic", {"learning_rate": float("nan")}, r"parameter 'learning_rate' got nan"),
        ("behavior_cloning", {"best_share": 0.0}, r"parameter 'best_share' got 0\.0"),
        ("behavior_cloning", {"dropout": 1.0}, r"parameter 'dropout' got 1\.0"),
        ("task_table", {"key_pattern": "("}, r"parameter 'key_pattern' got '\('.*no regular expression"),
        ("task_ridge", {"penalty": 0.0}, r"parameter 'penalty' got 0\.0"),
        ("task_neighbors", {"n_neighbors": 0}, r"parameter 'n_neighbors' got 0"),
        ("task_clusters", {"n_cluster": 3}, r"parameter 'n_cluster' is no parameter of algorithm 'task_clusters'"),
        ("uniform", {"model": "small"}, r"parameter 'model' is no parameter of algorithm 'uniform'.*Known: \(none\)"),
        ("single", {}, r"parameter 'model' is missing and has no default; add it"),
    ],
)
def test_bad_parameters(algorithm, parameters, message):
    with pytest.raises(CardError, match=message):
        ALGORITHMS.load(algorithm).from_card(make_card(algorithm, **parameters))


@pytest.mark.parametrize("name", sorted(list_cards("agents")))
def test_the_projects_cards_are_valid(name):
    card = load_agent_card(name)
    assert card.name == name
    assert card.description
    ALGORITHMS.load(card.algorithm).from_card(card)


def test_importing_the_algorithms_imports_no_training_library():
    code = (
        "import sys; from mtrouter_rl.registry import ALGORITHMS; import mtrouter_rl.agents.loading; "
        "[ALGORITHMS.load(name) for name in ALGORITHMS.builtin]; sys.exit('d3rlpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
