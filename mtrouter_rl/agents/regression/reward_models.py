"""How utility and cost are predicted from a vector, one prediction a model: linear, by neighbors, by cluster, by trees.

Every predictor is made of plain float64 arrays, which is all that is saved of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.regression.boosted_trees import BoostedTrees
from mtrouter_rl.records import FloatArray

Arrays = dict[str, npt.NDArray[np.float64]]
Predictor = Callable[[npt.NDArray[np.float64]], FloatArray]
"""Vectors of shape (B, D) -> predicted utility and cost in USD of every model, shape (B, M, 2)."""

Form = Literal["table", "linear", "neighbors", "trees"]

_ROWS_PER_BATCH = 4096  # bounds the float64 copy of a whole log

NEEDED_ARRAYS: Mapping[Form, frozenset[str]] = {
    "table": frozenset({"utility", "cost"}),
    "linear": frozenset({"utility", "cost"}),
    "neighbors": frozenset({"utility", "cost", "vectors", "model"}),
    "trees": frozenset({"baseline", "root", "output", "feature", "threshold", "left", "right", "value"}),
}
"""What each form is made of. "table" by nearest centroid also has `centroids`; any of them may have a `projection`."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """An affine map of vectors that comes before a prediction: (x - mean) @ matrix, rounded to 9 digits.

    Rounding makes the same vector the same in a batch of any size, so that trees never split on floating-point noise.

    Attributes:
        mean: Shape (D,).
        matrix: Shape (D, K).
    """

    mean: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]

    def __call__(self, vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Map vectors of shape (B, D) to (B, K)."""
        batches = [
            (vectors[start : start + _ROWS_PER_BATCH] - self.mean) @ self.matrix
            for start in range(0, max(len(vectors), 1), _ROWS_PER_BATCH)
        ]
        return np.concatenate(batches).round(9)

    def as_arrays(self) -> Arrays:
        """What is saved of it."""
        return {"projection": self.matrix, "projection_mean": self.mean}


def projection_of(arrays: Mapping[str, npt.NDArray[np.float64]]) -> Projection | None:
    """The projection among saved arrays, if there is one."""
    if "projection" not in arrays:
        return None
    return Projection(mean=arrays["projection_mean"], matrix=arrays["projection"])


def make_predictor(form: Form, arrays: Arrays, *, n_models: int, n_neighbors: int) -> Predictor:
    """Predictor of a form from its arrays.

    Args:
        form: Which; "table" goes by the nearest of `centroids`.
        arrays: What it is made of, see `NEEDED_ARRAYS`.
        n_models: M.
        n_neighbors: How many neighbors of each model "neighbors" averages.
    """
    makers: dict[Form, Callable[[], Predictor]] = {
        "linear": lambda: Linear(arrays),
        "neighbors": lambda: Neighbors(arrays, n_models=n_models, n_neighbors=n_neighbors),
        "table": lambda: Clusters(arrays),
        "trees": lambda: BoostedTrees.of_arrays(arrays),
    }
    return makers[form]()


class Linear:
    """Linear in the vector; `utility` and `cost` have shape (D+1, M), the last row the intercept."""

    def __init__(self, arrays: Arrays) -> None:
        self._weights = np.stack([arrays["utility"], arrays["cost"]])

    def __call__(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        """See `Predictor`."""
        padded = np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1)
        return np.stack([padded @ weights for weights in self._weights], axis=-1)


class Neighbors:
    """Mean over the nearest rows of each model: `vectors` (N, D), `model`, `utility` and `cost` (N,)."""

    def __init__(self, arrays: Arrays, *, n_models: int, n_neighbors: int) -> None:
        outcomes = np.stack([arrays["utility"], arrays["cost"]], axis=1)
        members = [np.flatnonzero(arrays["model"] == model) for model in range(n_models)]
        self._rows = [(arrays["vectors"][own], outcomes[own]) for own in members]
        self._n_neighbors = n_neighbors

    def __call__(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        """See `Predictor`."""
        return np.stack([self._mean(vectors, *rows) for rows in self._rows], axis=1)

    def _mean(
        self,
        vectors: npt.NDArray[np.float64],
        known: npt.NDArray[np.float64],
        outcomes: npt.NDArray[np.float64],
    ) -> FloatArray:
        k = min(self._n_neighbors, len(known))
        nearest = np.argsort(squared_distances(vectors, known), axis=1, kind="stable")[:, :k]
        means: FloatArray = outcomes[nearest].mean(axis=1)
        return means


class Clusters:
    """Row of a table by nearest centroid: `centroids` (K, D), `utility` and `cost` (K, M)."""

    def __init__(self, arrays: Arrays) -> None:
        self._centroids = arrays["centroids"]
        self._table = np.stack([arrays["utility"], arrays["cost"]], axis=-1)

    def __call__(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        """See `Predictor`."""
        means: FloatArray = self._table[squared_distances(vectors, self._centroids).argmin(axis=1)]
        return means


def squared_distances(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Squared Euclidean distance of every pair of rows, shape (B, N); rounded, so that equal texts are equally near."""
    products = left @ right.T
    distances: npt.NDArray[np.float64] = (left**2).sum(axis=1)[:, None] - 2 * products + (right**2).sum(axis=1)[None, :]
    return distances.round(9)
