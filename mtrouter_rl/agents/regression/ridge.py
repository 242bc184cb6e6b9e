"""Ridge regression of utility and cost, one regression a model: on the task's vector, or on the history features."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_fits import fit_ridge
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.values import (
    Blocks,
    TaskParameters,
    TaskValueAlgorithm,
    TurnParameters,
    TurnValueAlgorithm,
)
from mtrouter_rl.records import Frozen, Positive
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TaskRidgeParameters(TaskParameters):
    """Parameters of `TaskRidge`.

    Attributes:
        penalty: Weight of the squared coefficients (scikit-learn calls it alpha).
    """

    penalty: Positive = 1.0


class TurnRidgeParameters(TurnParameters):
    """Parameters of `TurnRidge`.

    Attributes:
        penalty: Weight of the squared coefficients (scikit-learn calls it alpha).
    """

    penalty: Positive = 10.0


def linear(log: OutcomeLog, context: TrainingContext, *, penalty: float) -> tuple[OutcomeSettings, Arrays]:
    """One regression of (utility, cost) for every model, linear in the vector.

    Source: Hoerl and Kennard, Ridge Regression (1970); scikit-learn's implementation.
    """
    return OutcomeSettings(form="linear", reward=context.reward), fit_ridge(log, penalty=penalty)


class TaskRidge(TaskValueAlgorithm[TaskRidgeParameters]):
    """Linear in the task's vector: tasks that are said alike are taken for alike. Source: see `linear`."""

    parameters_model: ClassVar[type[Frozen]] = TaskRidgeParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """See `linear`."""
        return linear(log, context, penalty=self.parameters.penalty)


class TurnRidge(TurnValueAlgorithm[TurnRidgeParameters]):
    """Linear in the history features. Source: see `linear`."""

    parameters_model: ClassVar[type[Frozen]] = TurnRidgeParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """See `linear`."""
        return linear(log, context, penalty=self.parameters.penalty)
