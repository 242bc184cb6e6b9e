"""Routers per turn by plain regressions: what each model is expected to score and to cost from this turn to the end.

They regress what `MonteCarloQ` does, the outcome that the logging policy went on to get after a call, with the learners of
the single-turn routers in place of the joint network. Against those they show what the history is worth, against
`MonteCarloQ` what the network is worth.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm, Discount
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeRouter, OutcomeSettings, as_tensors
from mtrouter_rl.agents.training import provenance, require_data
from mtrouter_rl.records import Frozen, Observation
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.outcomes import OutcomeLog, turn_log


class TurnParameters(Frozen):
    """What every algorithm of this kind has.

    Attributes:
        gamma: Discount of the utility and cost that are regressed.
    """

    gamma: Discount = 1.0


TurnParametersT = TypeVar("TurnParametersT", bound=TurnParameters)


class TurnValueRouter(OutcomeRouter[OutcomeSettings]):
    """Calls the allowed model with the highest predicted utility minus weighted cost of the rest of the episode."""

    KIND: ClassVar[str] = "turn_values"
    SETTINGS: ClassVar[type[Frozen]] = OutcomeSettings

    def vectors(self, observations: Sequence[Observation]) -> npt.NDArray[np.float64]:
        """History features, shape (B, D)."""
        return self.features.of_observations(observations).astype(np.float64)


class TurnValueAlgorithm(CardAlgorithm[TurnParametersT], ABC, Generic[TurnParametersT]):
    """Base of the regressions per turn: a subclass says how outcomes are predicted.

    The greedy router is one step of policy improvement over the logging policy, see `MonteCarloQ`.
    """

    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return self.parameters.gamma

    def train(self, context: TrainingContext) -> TurnValueRouter:
        """Train on every turn of the context's dataset.

        Raises:
            InvalidConfigError: If dataset or features are missing, or a model was never called.
            PoolMismatchError: If the dataset was logged with another pool.
        """
        dataset, features = require_data(context, self.card)
        transitions = make_transitions(
            dataset, features, reward=context.reward, gamma=self.gamma, show_progress=context.show_progress
        )
        log = turn_log(dataset, transitions, gamma=self.gamma)
        settings, arrays = self.fit(log, context, features.blocks)
        return TurnValueRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights=as_tensors(arrays),
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def fit(
        self, log: OutcomeLog, context: TrainingContext, blocks: dict[str, slice]
    ) -> tuple[OutcomeSettings, Arrays]:
        """Learn to predict outcomes from histories; `blocks` names the parts of a vector."""
