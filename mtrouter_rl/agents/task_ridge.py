"""Single-turn router with ridge regression of utility and cost on the task's vector, one regression a model."""

from typing import ClassVar

import numpy as np

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import Positive
from mtrouter_rl.agents.task_values import Arrays, TaskLog, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.pools.card import Frozen


class TaskRidgeParameters(Frozen):
    """Parameters of `TaskRidge`.

    Attributes:
        penalty: Weight of the squared coefficients (scikit-learn calls it alpha).
    """

    penalty: Positive = 1.0


class TaskRidge(TaskValueAlgorithm[TaskRidgeParameters]):
    """Linear in the task's vector: tasks that are said alike are taken for alike.

    Source: Hoerl and Kennard, Ridge Regression (1970); scikit-learn's implementation.
    """

    parameters_model: ClassVar[type[Frozen]] = TaskRidgeParameters

    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Fit one regression of (utility, cost) for every model."""
        from sklearn.linear_model import Ridge

        weights = np.zeros((log.vectors.shape[1] + 1, log.n_models, 2))
        for model in range(log.n_models):
            members = log.models == model
            fitted = Ridge(alpha=self.parameters.penalty).fit(log.vectors[members], log.outcomes[members])
            weights[:-1, model] = fitted.coef_.T
            weights[-1, model] = fitted.intercept_
        settings = TaskValueSettings(form="linear", reward=context.reward)
        return settings, {"utility": weights[..., 0].copy(), "cost": weights[..., 1].copy()}
