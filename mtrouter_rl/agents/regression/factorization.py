"""Single-turn router by matrix factorization: a projection of the task's vector times an embedding of the model."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.values import Blocks, TaskParameters, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.records import Frozen, Positive, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog, TaskLog

Matrix = npt.NDArray[np.float64]


class TaskFactorizationParameters(TaskParameters):
    """Parameters of `TaskFactorization`.

    Attributes:
        embedding_dim: Size of a model embedding, the rank of the factorization.
        penalty: Weight of the squared entries of projection and embeddings, on outcomes scaled to a variance of 1.
        n_sweeps: How often every factor is solved for in turn.
    """

    embedding_dim: PositiveInt = 4
    penalty: Positive = 1.0
    n_sweeps: PositiveInt = 20


class TaskFactorization(TaskValueAlgorithm[TaskFactorizationParameters]):
    """Predicts an outcome of model m on task vector x as b_m + x^T P e_m. The intercept b_m is not penalised.

    The models share the projection P, so that what is learned of tasks from one model serves the others; the ridge
    regressions of `TaskRidge` share nothing.

    Source: Ong et al., RouteLLM (2024), and Zhuang et al., EmbedLLM (2025), who multiply a projected question embedding
    with a model embedding. Deviations: utility and cost are regressed by least squares in place of a classifier of who wins
    or who is right, and the factors are solved for in closed form in place of gradient steps.
    """

    parameters_model: ClassVar[type[Frozen]] = TaskFactorizationParameters

    def fit(self, log: TaskLog, context: TrainingContext, blocks: Blocks) -> tuple[TaskValueSettings, Arrays]:
        """Factorize utility and cost, each on its own."""
        rng = np.random.default_rng(context.seed)
        settings = TaskValueSettings(form="linear", reward=context.reward)
        utility, cost = (self._weights(log, outcome, rng) for outcome in range(2))
        return settings, {"utility": utility, "cost": cost}

    def _weights(self, log: OutcomeLog, outcome: int, rng: np.random.Generator) -> Matrix:
        """Coefficients of an outcome and its intercepts, shape (E+1, M)."""
        means = log.overall()[:, outcome].astype(np.float64)
        centers = np.stack(
            [np.average(log.vectors[rows], axis=0, weights=log.weights[rows]) for rows in log.by_model()]
        )
        residuals = log.outcomes[:, outcome] - means[log.models]
        scale = float(np.sqrt(np.average(residuals**2, weights=log.weights))) or 1.0
        vectors = log.vectors - centers[log.models]
        problem = Factorization.of(log, vectors, residuals / scale, penalty=self.parameters.penalty)
        embeddings: Matrix = rng.normal(size=(log.n_models, self.parameters.embedding_dim))
        projection: Matrix = np.zeros((centers.shape[1], self.parameters.embedding_dim))
        for _ in range(self.parameters.n_sweeps):
            projection, embeddings = problem.sweep(projection, embeddings)
        weights = scale * projection @ embeddings.T
        intercepts = means - (centers * weights.T).sum(axis=1)
        return np.concatenate([weights, intercepts[None]])


@dataclass(frozen=True, kw_only=True)
class Factorization:
    """Least squares of y_i by x_i^T P e_m(i), with a penalty on the squared entries of P and e.

    Only sums over each model's rows enter, so a sweep does not depend on the number of rows.

    Attributes:
        grams: Sum of w x x^T over the rows of every model, shape (M, E, E).
        moments: Sum of w y x over them, shape (M, E).
        square: Sum of w y^2 over all rows.
        penalty: Weight of the squared entries.
    """

    grams: Matrix
    moments: Matrix
    square: float
    penalty: float

    @classmethod
    def of(cls, log: OutcomeLog, vectors: Matrix, targets: Matrix, *, penalty: float) -> "Factorization":
        """Sums over a log's rows, with these vectors, shape (N, E), and targets, shape (N,)."""
        grams, moments = [], []
        for rows in log.by_model():
            weighted = vectors[rows] * log.weights[rows, None]
            grams.append(vectors[rows].T @ weighted)
            moments.append(weighted.T @ targets[rows])
        square = float((log.weights * targets**2).sum())
        return cls(grams=np.stack(grams), moments=np.stack(moments), square=square, penalty=penalty)

    def loss(self, projection: Matrix, embeddings: Matrix) -> float:
        """What is minimised, for P of shape (E, K) and e of shape (M, K)."""
        weights = (projection @ embeddings.T).T
        fit = self.square - 2 * (weights * self.moments).sum() + np.einsum("md,mde,me->", weights, self.grams, weights)
        return float(fit + self.penalty * ((projection**2).sum() + (embeddings**2).sum()))

    def sweep(self, projection: Matrix, embeddings: Matrix) -> tuple[Matrix, Matrix]:
        """Solve for every column of P in turn, then for every e_m, each with all else held; the loss never rises."""
        projection = projection.copy()
        ridge = self.penalty * np.eye(len(projection))
        for k in range(projection.shape[1]):
            projection[:, k] = 0.0
            left = self.moments - np.einsum("mde,me->md", self.grams, embeddings @ projection.T)
            gram = np.tensordot(embeddings[:, k] ** 2, self.grams, axes=1)
            projection[:, k] = np.linalg.solve(gram + ridge, embeddings[:, k] @ left)
        ridge = self.penalty * np.eye(projection.shape[1])
        solved = [
            np.linalg.solve(projection.T @ gram @ projection + ridge, projection.T @ moment)
            for gram, moment in zip(self.grams, self.moments, strict=True)
        ]
        return projection, np.stack(solved)
