"""Single-turn router with a table over clusters of similar tasks."""

from typing import ClassVar

import numpy as np

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import NonNegative, PositiveInt
from mtrouter_rl.agents.task_values import Arrays, TaskLog, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.pools.card import Frozen


class TaskClustersParameters(Frozen):
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
        from sklearn.cluster import KMeans

        n_different = len(np.unique(log.vectors, axis=0))
        n_clusters = min(self.parameters.n_clusters, n_different)
        clusters = KMeans(n_clusters=n_clusters, n_init=4, random_state=context.seed).fit(log.vectors)
        overall = log.overall()
        table = np.stack(
            [
                log.means(clusters.labels_ == cluster, prior=overall, prior_weight=self.parameters.prior_weight)
                for cluster in range(n_clusters)
            ]
        )
        settings = TaskValueSettings(form="table", reward=context.reward)
        return settings, {
            "utility": table[..., 0].copy(),
            "cost": table[..., 1].copy(),
            "centroids": clusters.cluster_centers_.astype(np.float64),
        }
