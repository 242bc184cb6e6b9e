"""Gradient-boosted trees, one regression a model and outcome: over the task's vector, or over the history features."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.boosted_trees import BoostedTrees, BoostingParameters
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.values import (
    Blocks,
    TaskParameters,
    TaskValueAlgorithm,
    TurnParameters,
    TurnValueAlgorithm,
    projected,
)
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TaskBoostingParameters(TaskParameters, BoostingParameters):
    """Parameters of `TaskBoosting`.

    Attributes:
        n_components: Principal components of the task vectors, which the trees split on.
    """

    n_components: PositiveInt = 32


class TurnBoostingParameters(TurnParameters, BoostingParameters):
    """Parameters of `TurnBoosting`.

    Attributes:
        n_components: Principal components of the text, see `reward_fits.fit_projection`.
    """

    n_components: PositiveInt = 32


def boosted(
    log: OutcomeLog,
    context: TrainingContext,
    blocks: Blocks,
    parameters: TaskBoostingParameters | TurnBoostingParameters,
) -> tuple[OutcomeSettings, Arrays]:
    """Boosted trees over principal components of the text and the plain features. Source: see `BoostedTrees.fit`."""
    shown, projection = projected(log, blocks, n_components=parameters.n_components, seed=context.seed)
    trees = BoostedTrees.fit(shown, parameters, seed=context.seed)
    return OutcomeSettings(form="trees", reward=context.reward), trees.as_arrays() | projection


class TaskBoosting(TaskValueAlgorithm[TaskBoostingParameters]):
    """Boosted trees over principal components of the task vectors. Source: see `BoostedTrees.fit`."""

    parameters_model: ClassVar[type[Frozen]] = TaskBoostingParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """See `boosted`."""
        return boosted(log, context, blocks, self.parameters)


class TurnBoosting(TurnValueAlgorithm[TurnBoostingParameters]):
    """Boosted trees over principal components of the text and the plain features. Source: see `BoostedTrees.fit`."""

    parameters_model: ClassVar[type[Frozen]] = TurnBoostingParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """See `boosted`."""
        return boosted(log, context, blocks, self.parameters)
