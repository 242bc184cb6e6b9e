"""Router per turn with gradient-boosted trees over the history features, one regression a model and outcome."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.boosted_trees import BoostedTrees, BoostingParameters
from mtrouter_rl.agents.regression.reward_fits import fit_projection, project
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.turn_values import TurnParameters, TurnValueAlgorithm
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TurnBoostingParameters(TurnParameters, BoostingParameters):
    """Parameters of `TurnBoosting`.

    Attributes:
        n_components: Principal components of the text, see `outcome_fits.fit_projection`.
    """

    n_components: PositiveInt = 32


class TurnBoosting(TurnValueAlgorithm[TurnBoostingParameters]):
    """Boosted trees over principal components of the text and the plain features. Source: see `BoostedTrees.fit`."""

    parameters_model: ClassVar[type[Frozen]] = TurnBoostingParameters

    def fit(
        self, log: OutcomeLog, context: TrainingContext, blocks: dict[str, slice]
    ) -> tuple[OutcomeSettings, Arrays]:
        """Project, then boost."""
        projection = fit_projection(log.vectors, blocks, n_components=self.parameters.n_components, seed=context.seed)
        trees = BoostedTrees.fit(project(log, projection), self.parameters, seed=context.seed)
        return OutcomeSettings(form="trees", reward=context.reward), trees.as_arrays() | projection.as_arrays()
