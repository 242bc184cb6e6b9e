"""Single-turn router with ridge regression of utility and cost on the task's vector, one regression a model."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_fits import fit_ridge
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.task_values import TaskParameters, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.records import Frozen, Positive
from mtrouter_rl.transitions.outcomes import TaskLog


class TaskRidgeParameters(TaskParameters):
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
        settings = TaskValueSettings(form="linear", reward=context.reward)
        return settings, fit_ridge(log, penalty=self.parameters.penalty)
