"""Single-turn router with gradient-boosted trees over the task's vector, one regression a model and outcome."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.boosted_trees import BoostedTrees, BoostingParameters
from mtrouter_rl.agents.regression.reward_fits import fit_projection, project
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.task_values import TaskParameters, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import TASK_BLOCK, TaskLog


class TaskBoostingParameters(TaskParameters, BoostingParameters):
    """Parameters of `TaskBoosting`.

    Attributes:
        n_components: Principal components of the task vectors, which the trees split on.
    """

    n_components: PositiveInt = 32


class TaskBoosting(TaskValueAlgorithm[TaskBoostingParameters]):
    """Boosted trees over principal components of the task vectors. Source: see `BoostedTrees.fit`."""

    parameters_model: ClassVar[type[Frozen]] = TaskBoostingParameters

    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Project, then boost."""
        blocks = {TASK_BLOCK: slice(0, log.vectors.shape[1])}
        projection = fit_projection(log.vectors, blocks, n_components=self.parameters.n_components, seed=context.seed)
        trees = BoostedTrees.fit(project(log, projection), self.parameters, seed=context.seed)
        settings = TaskValueSettings(form="trees", reward=context.reward)
        return settings, trees.as_arrays() | projection.as_arrays()
