from itertools import pairwise

import numpy as np
import pytest

from mtrouter_rl.agents.regression.factorization import Factorization, TaskFactorization
from mtrouter_rl.transitions.outcomes import OutcomeLog
from tests.cases.routing_toy import TaskFeatures, make_card, make_context, single_model_log


def rank_one_log(n_rows=600, seed=0):
    """Outcome = x . p times e_m: rank one, with an intercept a model."""
    rng = np.random.default_rng(seed)
    vectors, models = rng.normal(size=(n_rows, 6)), rng.integers(4, size=n_rows)
    projection, embeddings, means = rng.normal(size=6), np.array([1.0, -2.0, 0.5, 0.0]), np.array([0.0, 1.0, 2.0, 3.0])
    utility = vectors @ projection * embeddings[models] + means[models]
    log = OutcomeLog(
        vectors=vectors,
        models=models,
        outcomes=np.stack([utility, 2 * utility], axis=1),
        weights=np.ones(n_rows),
        n_models=4,
    )
    return log, np.outer(projection, embeddings), means


def weights_of(log, **parameters):
    card = make_card("task_factorization", **parameters)
    settings, arrays = TaskFactorization.from_card(card).fit(log, make_context(None), {})
    assert settings.form == "linear"
    return arrays


def test_a_matrix_of_rank_one_is_recovered():
    log, coefficients, means = rank_one_log()
    arrays = weights_of(log, embedding_dim=1, penalty=1e-6)
    np.testing.assert_allclose(arrays["utility"][:-1], coefficients, atol=1e-4)
    np.testing.assert_allclose(arrays["utility"][-1], means, atol=1e-4)
    np.testing.assert_allclose(arrays["cost"][:-1], 2 * coefficients, atol=1e-4)


@pytest.mark.parametrize("embedding_dim", [1, 2])
def test_the_rank_is_at_most_the_size_of_an_embedding(embedding_dim):
    log, _, _ = rank_one_log()
    noisy = OutcomeLog(
        vectors=log.vectors,
        models=log.models,
        outcomes=np.random.default_rng(1).normal(size=log.outcomes.shape),
        weights=log.weights,
        n_models=4,
    )
    arrays = weights_of(noisy, embedding_dim=embedding_dim, penalty=0.01)
    assert np.linalg.matrix_rank(arrays["utility"][:-1], tol=1e-8) == embedding_dim


def test_the_loss_is_the_sum_over_rows_and_never_rises():
    log, _, _ = rank_one_log(n_rows=80)
    rng = np.random.default_rng(2)
    targets, projection, embeddings = rng.normal(size=80), rng.normal(size=(6, 2)), rng.normal(size=(4, 2))
    problem = Factorization.of(log, log.vectors, targets, penalty=0.3)
    predicted = ((log.vectors @ projection) * embeddings[log.models]).sum(axis=1)
    by_hand = ((targets - predicted) ** 2).sum() + 0.3 * ((projection**2).sum() + (embeddings**2).sum())
    assert problem.loss(projection, embeddings) == pytest.approx(by_hand)
    losses = [by_hand]
    for _ in range(10):
        projection, embeddings = problem.sweep(projection, embeddings)
        losses.append(problem.loss(projection, embeddings))
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


def test_a_weight_is_a_repeated_row():
    log, _, _ = rank_one_log(n_rows=60)
    twice = np.concatenate([np.arange(60), np.arange(30)])
    repeated = OutcomeLog(
        vectors=log.vectors[twice],
        models=log.models[twice],
        outcomes=log.outcomes[twice],
        weights=np.ones(90),
        n_models=4,
    )
    weights = np.where(np.arange(60) < 30, 2.0, 1.0)
    weighted = OutcomeLog(vectors=log.vectors, models=log.models, outcomes=log.outcomes, weights=weights, n_models=4)
    for name, array in weights_of(repeated).items():
        np.testing.assert_allclose(weights_of(weighted)[name], array, atol=1e-8)


def test_outcomes_that_do_not_vary_give_their_mean():
    log = single_model_log(60)
    flat = make_context(log, features=TaskFeatures())
    router = TaskFactorization.from_card(make_card("task_factorization")).train(flat)
    costs = {episode.models[0]: episode.cost_usd for episode in log.episodes}
    assert router.arrays["cost"][-1] == pytest.approx([costs[name] for name in log.info.model_names])
