"""A table over clusters: of similar tasks, or of similar histories."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.agents.regression.reward_fits import fit_clusters
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


class TaskClustersParameters(TaskParameters):
    """Parameters of `TaskClusters`.

    Attributes:
        n_clusters: How many clusters; fewer if there are fewer different tasks.
        prior_weight: How many episodes the mean over all tasks counts for in every cell.
    """

    n_clusters: PositiveInt = 16
    prior_weight: NonNegative = 2.0


class TurnClustersParameters(TurnParameters):
    """Parameters of `TurnClusters`.

    Attributes:
        n_clusters: How many clusters; fewer if there are fewer different histories.
        prior_weight: How many turns the mean over all histories counts for in every cell.
        n_components: Principal components of the text, see `reward_fits.fit_projection`.
    """

    n_clusters: PositiveInt = 64
    prior_weight: NonNegative = 10.0
    n_components: PositiveInt = 32


def clustered(
    log: OutcomeLog, context: TrainingContext, parameters: TaskClustersParameters | TurnClustersParameters
) -> tuple[OutcomeSettings, Arrays]:
    """Groups vectors by k-means and averages within groups; a cell without anything in it gets the mean over all.

    Source: Zhang et al., Avengers-Pro (2025): clusters of queries, a performance-cost score of every model per cluster.
    """
    arrays = fit_clusters(
        log, n_clusters=parameters.n_clusters, prior_weight=parameters.prior_weight, seed=context.seed
    )
    return OutcomeSettings(form="table", reward=context.reward), arrays


class TaskClusters(TaskValueAlgorithm[TaskClustersParameters]):
    """Groups the task vectors. Source: see `clustered`."""

    parameters_model: ClassVar[type[Frozen]] = TaskClustersParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """See `clustered`."""
        return clustered(log, context, self.parameters)


class TurnClusters(TurnValueAlgorithm[TurnClustersParameters]):
    """Groups projected histories; the source's clusters are of queries. Source: see `clustered`."""

    parameters_model: ClassVar[type[Frozen]] = TurnClustersParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """Project, as most columns of a history are text, then see `clustered`."""
        shown, projection = projected(log, blocks, n_components=self.parameters.n_components, seed=context.seed)
        settings, arrays = clustered(shown, context, self.parameters)
        return settings, arrays | projection
