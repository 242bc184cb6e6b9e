"""Gradient-boosted regression trees, fitted by scikit-learn and kept as plain arrays.

scikit-learn saves its trees as pickles; here they are flattened into arrays, and numpy walks them.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.records import FloatArray, Frozen, Positive, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog

_N_OUTCOMES = 2
_ROWS_PER_BATCH = 1024


class BoostingParameters(Frozen):
    """Parameters of gradient boosting, with scikit-learn's meaning.

    Attributes:
        n_trees: Trees of every regression (scikit-learn: max_iter); there are 2 regressions a model.
        tree_learning_rate: By how much every tree is shrunk (learning_rate).
        max_leaf_nodes: Leaves of a tree, at least 2.
        min_samples_leaf: Rows of a leaf, at least.
        leaf_penalty: L2 penalty of the leaf values (l2_regularization).
    """

    n_trees: PositiveInt = 60
    tree_learning_rate: Positive = 0.1
    max_leaf_nodes: Annotated[int, Field(ge=2)] = 15
    min_samples_leaf: PositiveInt = 20
    leaf_penalty: NonNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class BoostedTrees:
    """All trees of all regressions, side by side: R trees of S nodes in all, for M models and 2 outcomes.

    Attributes:
        baselines: What the trees add to, shape (M, 2).
        roots: Node that a tree begins with, shape (R,).
        outputs: Regression that a tree belongs to, 2 x model + outcome, shape (R,).
        features: Column that a node compares, shape (S,).
        thresholds: A node goes left if the column is at most this, shape (S,).
        left: Next node to the left; a leaf names itself, shape (S,).
        right: Next node to the right; a leaf names itself, shape (S,).
        values: What a leaf adds, shape (S,).
    """

    baselines: npt.NDArray[np.float64]
    roots: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.int64]
    features: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, log: OutcomeLog, parameters: BoostingParameters, *, seed: int) -> Self:
        """Fit one regression for every model and outcome.

        Source: Friedman, Greedy Function Approximation: A Gradient Boosting Machine (2001); scikit-learn's
        HistGradientBoostingRegressor, which follows Ke et al., LightGBM (2017). There is no early stopping, so every
        regression has `n_trees` trees.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        fitted = []
        for rows in log.by_model():
            for outcome in range(_N_OUTCOMES):
                regression = HistGradientBoostingRegressor(
                    max_iter=parameters.n_trees,
                    learning_rate=parameters.tree_learning_rate,
                    max_leaf_nodes=parameters.max_leaf_nodes,
                    min_samples_leaf=parameters.min_samples_leaf,
                    l2_regularization=parameters.leaf_penalty,
                    early_stopping=False,
                    random_state=seed,
                )
                # Binning refuses a single row; a copy of it changes no mean.
                taken = np.repeat(rows, 2) if len(rows) == 1 else rows
                fitted.append(regression.fit(log.vectors[taken], log.outcomes[taken, outcome], log.weights[taken]))
        return cls.of_regressions(fitted)

    @classmethod
    def of_regressions(cls, fitted: "list[HistGradientBoostingRegressor]") -> Self:  # type: ignore[name-defined]  # noqa: F821
        """Flatten fitted regressions, in the order of 2 x model + outcome."""
        # Private names of scikit-learn; the test that compares predictions with its own guards them.
        trees = [(output, tree.nodes) for output, one in enumerate(fitted) for (tree,) in one._predictors]
        sizes = [len(nodes) for _, nodes in trees]
        roots = np.cumsum([0, *sizes[:-1]])
        nodes = np.concatenate([nodes for _, nodes in trees])
        firsts = np.repeat(roots, sizes)
        itself = np.arange(len(nodes))
        is_leaf = nodes["is_leaf"].astype(np.bool_)
        return cls(
            baselines=np.array([one._baseline_prediction.item() for one in fitted]).reshape(-1, _N_OUTCOMES),
            roots=roots,
            outputs=np.array([output for output, _ in trees], dtype=np.int64),
            features=np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int64),
            thresholds=np.where(is_leaf, 0.0, nodes["num_threshold"]),
            left=np.where(is_leaf, itself, nodes["left"] + firsts).astype(np.int64),
            right=np.where(is_leaf, itself, nodes["right"] + firsts).astype(np.int64),
            values=nodes["value"].astype(np.float64),
        )

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[np.float64]]) -> Self:
        """Trees from what `as_arrays` gave."""
        return cls(
            baselines=arrays["baseline"],
            roots=arrays["root"].astype(np.int64),
            outputs=arrays["output"].astype(np.int64),
            features=arrays["feature"].astype(np.int64),
            thresholds=arrays["threshold"],
            left=arrays["left"].astype(np.int64),
            right=arrays["right"].astype(np.int64),
            values=arrays["value"],
        )

    def as_arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """What is saved: float64 throughout, which holds every index exactly."""
        return {
            "baseline": self.baselines,
            "root": self.roots.astype(np.float64),
            "output": self.outputs.astype(np.float64),
            "feature": self.features.astype(np.float64),
            "threshold": self.thresholds,
            "left": self.left.astype(np.float64),
            "right": self.right.astype(np.float64),
            "value": self.values,
        }

    def __call__(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        """Predicted utility and cost in USD of every model for vectors of shape (B, D), shape (B, M, 2)."""
        batches = [
            self._predict(vectors[start : start + _ROWS_PER_BATCH])
            for start in range(0, max(len(vectors), 1), _ROWS_PER_BATCH)
        ]
        return np.concatenate(batches)

    def _predict(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        rows = np.arange(len(vectors))[:, None]
        nodes = np.broadcast_to(self.roots, (len(vectors), len(self.roots)))
        while True:
            goes_left = vectors[rows, self.features[nodes]] <= self.thresholds[nodes]
            following = np.where(goes_left, self.left[nodes], self.right[nodes])
            if (following == nodes).all():
                break
            nodes = following
        sums = np.zeros((self.baselines.size, len(vectors)))
        np.add.at(sums, self.outputs, self.values[nodes].T)
        predictions: FloatArray = self.baselines + sums.T.reshape(len(vectors), *self.baselines.shape)
        return predictions
