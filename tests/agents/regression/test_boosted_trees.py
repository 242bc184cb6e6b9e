import numpy as np
import pytest

from mtrouter_rl.agents.regression.boosted_trees import BoostedTrees, BoostingParameters
from mtrouter_rl.transitions.outcomes import OutcomeLog

SMALL = BoostingParameters(n_trees=12, max_leaf_nodes=6, min_samples_leaf=5)


def random_log(n_rows=400, n_models=3, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_rows, 5)).round(2)
    outcomes = np.stack([np.sin(vectors[:, 0]) + (vectors[:, 1] > 0), vectors[:, 2] ** 2], axis=1)
    return OutcomeLog(
        vectors=vectors,
        models=rng.integers(n_models, size=n_rows),
        outcomes=outcomes,
        weights=rng.integers(1, 4, size=n_rows).astype(float),
        n_models=n_models,
    )


def test_the_flattened_trees_predict_what_scikit_learn_does():
    from sklearn.ensemble import HistGradientBoostingRegressor

    log = random_log()
    trees = BoostedTrees.fit(log, SMALL, seed=0)
    new = np.random.default_rng(1).normal(size=(2000, 5))
    ours = trees(new)
    for model, rows in enumerate(log.by_model()):
        for outcome in range(2):
            theirs = HistGradientBoostingRegressor(
                max_iter=12,
                max_leaf_nodes=6,
                min_samples_leaf=5,
                l2_regularization=1.0,
                early_stopping=False,
                random_state=0,
            ).fit(log.vectors[rows], log.outcomes[rows, outcome], log.weights[rows])
            np.testing.assert_allclose(ours[:, model, outcome], theirs.predict(new), rtol=0, atol=1e-12)
    assert ours.std(axis=0).min() > 0.1


def test_a_value_on_a_threshold_goes_left_as_in_scikit_learn():
    """One split at 0.5 between two values: leaves are -1 and +1 from the mean, by hand."""
    log = OutcomeLog(
        vectors=np.array([[0.0], [1.0]] * 20),
        models=np.zeros(40, dtype=np.int64),
        outcomes=np.array([[0.0, 5.0], [2.0, 5.0]] * 20),
        weights=np.ones(40),
        n_models=1,
    )
    one = BoostingParameters(n_trees=1, tree_learning_rate=1.0, max_leaf_nodes=2, min_samples_leaf=1, leaf_penalty=0.0)
    trees = BoostedTrees.fit(log, one, seed=0)
    np.testing.assert_allclose(trees(np.array([[0.0], [0.5], [0.500001], [9.0]]))[:, 0, 0], [0, 0, 2, 2], atol=1e-6)
    np.testing.assert_allclose(trees(np.array([[0.0], [1.0]]))[:, 0, 1], [5, 5])


def test_arrays_give_the_same_trees_and_equal_seeds_equal_arrays():
    trees = BoostedTrees.fit(random_log(), SMALL, seed=3)
    arrays = trees.as_arrays()
    assert all(array.dtype == np.float64 for array in arrays.values())
    new = np.random.default_rng(1).normal(size=(7, 5))
    np.testing.assert_array_equal(BoostedTrees.of_arrays(arrays)(new), trees(new))
    again = BoostedTrees.fit(random_log(), SMALL, seed=3).as_arrays()
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_model_of_hardly_any_rows_is_predicted_by_its_mean(n_rows):
    log = OutcomeLog(
        vectors=np.zeros((n_rows, 2)),
        models=np.zeros(n_rows, dtype=np.int64),
        outcomes=np.tile([0.25, 3.0], (n_rows, 1)),
        weights=np.ones(n_rows),
        n_models=1,
    )
    np.testing.assert_allclose(BoostedTrees.fit(log, SMALL, seed=0)(np.ones((3, 2)))[:, 0], [[0.25, 3.0]] * 3)
