"""Router per turn with a table over clusters of similar histories."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.agents.regression.reward_fits import fit_clusters, fit_projection, project
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.turn_values import TurnParameters, TurnValueAlgorithm
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TurnClustersParameters(TurnParameters):
    """Parameters of `TurnClusters`.

    Attributes:
        n_clusters: How many clusters; fewer if there are fewer different histories.
        prior_weight: How many turns the mean over all histories counts for in every cell.
        n_components: Principal components of the text, see `outcome_fits.fit_projection`.
    """

    n_clusters: PositiveInt = 64
    prior_weight: NonNegative = 10.0
    n_components: PositiveInt = 32


class TurnClusters(TurnValueAlgorithm[TurnClustersParameters]):
    """Groups projected histories by k-means and averages utility and cost to go within groups.

    Source: Zhang et al., Avengers-Pro (2025), whose clusters are of queries; here of histories.
    """

    parameters_model: ClassVar[type[Frozen]] = TurnClustersParameters

    def fit(
        self, log: OutcomeLog, context: TrainingContext, blocks: dict[str, slice]
    ) -> tuple[OutcomeSettings, Arrays]:
        """Project, cluster, then average; a cell without turns gets the mean over all."""
        projection = fit_projection(log.vectors, blocks, n_components=self.parameters.n_components, seed=context.seed)
        arrays = fit_clusters(
            project(log, projection),
            n_clusters=self.parameters.n_clusters,
            prior_weight=self.parameters.prior_weight,
            seed=context.seed,
        )
        return OutcomeSettings(form="table", reward=context.reward), arrays | projection.as_arrays()
