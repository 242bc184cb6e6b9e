"""Regressions per turn on the tabular MDP, whose values under the uniform logging policy are known exactly."""

import numpy as np
import pytest

from mtrouter_rl.agents.regression.reward_fits import fit_projection
from mtrouter_rl.registry import ALGORITHMS
from tests.cases.routing_toy import COSTS, N_STATES, OUTCOMES, StateFeatures, make_card, make_context, make_observation

PARAMETERS = {
    "turn_ridge": {"penalty": 1e-3},
    "turn_neighbors": {"n_neighbors": 100_000},
    "turn_clusters": {"prior_weight": 0.0},
    "turn_boosting": {"n_trees": 40, "tree_learning_rate": 0.3, "leaf_penalty": 0.0},
}
STATES = [make_observation(state) for state in range(N_STATES)]


def train(name, log, **parameters):
    card = make_card(name, **(PARAMETERS[name] | parameters))
    return ALGORITHMS.load(name).from_card(card).train(make_context(log))


def exact_outcomes():
    """Utility and cost to go of calling each model in each state and uniform random ever after, shape (3, 3, 2)."""
    values, outcomes = np.zeros((N_STATES + 1, 2)), np.zeros((N_STATES, 3, 2))
    for _ in range(500):
        for state in range(N_STATES):
            for model in range(3):
                branches = OUTCOMES[state][model]
                gain = sum(p * (gain + values[following, 0]) for p, following, gain in branches)
                cost = COSTS[model] + sum(p * values[following, 1] for p, following, _ in branches)
                outcomes[state, model] = gain, cost
            values[state] = outcomes[state].mean(axis=0)
    return outcomes


@pytest.mark.parametrize("name", ["turn_ridge", "turn_clusters", "turn_boosting"])
def test_predictions_are_the_values_of_the_logging_policy(name, log):
    outcomes = train(name, log).outcomes(STATES)
    np.testing.assert_allclose(outcomes, exact_outcomes(), atol=0.06)
    assert np.abs(exact_outcomes()).max() > 0.5


def test_neighbors_in_a_state_are_its_own_turns(log):
    members = {(state, model): [] for state in range(N_STATES) for model in range(3)}
    for episode in log.episodes:
        states = [episode.first_observation, *(turn.observation_text for turn in episode.turns)]
        for index, turn in enumerate(episode.turns):
            gain = sum(later.utility_gain for later in episode.turns[index:])
            members[int(states[index][-1]), log.info.model_names.index(turn.model)].append(gain)
    n_least = min(len(gains) for gains in members.values())
    router = train("turn_neighbors", log, n_neighbors=n_least, n_kept_per_model=100_000)
    outcomes = router.outcomes(STATES)
    fewest = min(members, key=lambda key: len(members[key]))
    assert outcomes[fewest][0] == pytest.approx(np.mean(members[fewest]), abs=1e-6)
    capped = train("turn_neighbors", log, n_kept_per_model=50)
    assert np.bincount(capped.arrays["model"].astype(int)).tolist() == [50, 50, 50]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_q_values_weigh_utility_and_cost_and_serve_any_weight(name, small_log):
    router = train(name, small_log)
    outcomes = router.outcomes(STATES)
    np.testing.assert_allclose(router.q_values(STATES), outcomes[..., 0] - outcomes[..., 1])
    dear = router.with_cost_weight(3.0, name="dear")
    assert type(dear) is type(router)
    np.testing.assert_allclose(dear.q_values(STATES), outcomes[..., 0] - 3 * outcomes[..., 1])


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_equal_seeds_give_equal_weights(name, small_log):
    one, other = train(name, small_log), train(name, small_log)
    assert one.weights.keys() == other.weights.keys()
    assert all(np.array_equal(one.arrays[key], other.arrays[key]) for key in one.weights)


def test_the_discount_is_that_of_the_card(small_log):
    algorithm = ALGORITHMS.load("turn_ridge").from_card(make_card("turn_ridge", gamma=0.0))
    assert algorithm.gamma == 0.0
    outcomes = algorithm.train(make_context(small_log)).outcomes(STATES)
    assert outcomes[0, :, 1] == pytest.approx(COSTS, abs=1e-5)


def test_a_projection_gives_every_block_the_same_total_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 12)).astype(np.float32) * np.repeat([1.0, 5.0, 0.1], 4).astype(np.float32)
    blocks = {"task": slice(0, 4), "recent": slice(4, 8), "scalars": slice(8, 12)}
    projected = fit_projection(vectors, blocks, n_components=8, seed=0)(vectors)
    assert projected.shape == (300, 8 + 4)
    assert projected[:, 8:].var(axis=0).sum() == pytest.approx(1.0, abs=1e-4)
    assert projected[:, :8].var(axis=0).sum() == pytest.approx(2.0, abs=1e-4)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-5)
    few = fit_projection(vectors, blocks, n_components=2, seed=0)(vectors)
    assert few.shape == (300, 2 + 4)


def test_a_block_that_never_changes_does_no_harm():
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    vectors[:, 3:] = 1.0
    projected = fit_projection(vectors, {"scalars": slice(0, 3), "model_memory": slice(3, 6)}, n_components=4, seed=0)
    assert np.isfinite(projected(vectors)).all()


def test_features_of_the_toy_have_no_task(small_log):
    """The learners read whatever blocks the features have."""
    assert "task" not in StateFeatures.blocks
    assert train("turn_clusters", small_log).q_values(STATES).shape == (3, 3)
