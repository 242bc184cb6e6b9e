"""Single-turn router with a table over clusters of similar tasks."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.agents.regression.reward_fits import fit_clusters
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.task_values import TaskParameters, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import TaskLog


class TaskClustersParameters(TaskParameters):
    """Parameters of `TaskClusters`.

    Attributes:
        n_clusters: How many clusters; fewer if there are fewer different tasks.
        prior_weight: How many episodes the mean over all tasks counts for in every cell.
    """

    n_clusters: PositiveInt = 16
    prior_weight: NonNegative = 2.0


class TaskClusters(TaskValueAlgorithm[TaskClustersParameters]):
    """Groups the task vectors by k-means and averages within groups.

    Source: Zhang et al., Avengers-Pro (2025): clusters of queries, a performance-cost score of every model per cluster.
    """

    parameters_model: ClassVar[type[Frozen]] = TaskClustersParameters

    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Cluster, then average; a cell without episodes gets the mean over all."""
        arrays = fit_clusters(
            log,
            n_clusters=self.parameters.n_clusters,
            prior_weight=self.parameters.prior_weight,
            seed=context.seed,
        )
        return TaskValueSettings(form="table", reward=context.reward), arrays
