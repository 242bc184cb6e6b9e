"""Router per turn with ridge regression of utility and cost to go on the history features, one regression a model."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_fits import fit_ridge
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.turn_values import TurnParameters, TurnValueAlgorithm
from mtrouter_rl.records import Frozen, Positive
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TurnRidgeParameters(TurnParameters):
    """Parameters of `TurnRidge`.

    Attributes:
        penalty: Weight of the squared coefficients (scikit-learn calls it alpha).
    """

    penalty: Positive = 10.0


class TurnRidge(TurnValueAlgorithm[TurnRidgeParameters]):
    """Linear in the history features.

    Source: Hoerl and Kennard, Ridge Regression (1970); scikit-learn's implementation.
    """

    parameters_model: ClassVar[type[Frozen]] = TurnRidgeParameters

    def fit(
        self, log: OutcomeLog, context: TrainingContext, blocks: dict[str, slice]
    ) -> tuple[OutcomeSettings, Arrays]:
        """Fit one regression of (utility, cost) for every model."""
        settings = OutcomeSettings(form="linear", reward=context.reward)
        return settings, fit_ridge(log, penalty=self.parameters.penalty)
