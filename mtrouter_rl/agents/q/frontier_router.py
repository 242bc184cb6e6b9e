"""The greedy router of a Q-function that is told the cost weight: one network for the whole cost-score frontier."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.agents.q.q_router import QNetworkSettings, QRouter
from mtrouter_rl.cards.policy import name_at
from mtrouter_rl.records import BoolArray, FloatArray, Frozen, Observation
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q
from mtrouter_rl.transitions.cost_weights import CostWeights


class FrontierSettings(QNetworkSettings):
    """Settings of a `FrontierRouter`.

    Attributes:
        cost_weights: Which cost weights it was trained with.
        cost_weight: The one that it acts at.
    """

    cost_weights: CostWeights
    cost_weight: NonNegative


class FrontierRouter(QRouter):
    """A `QRouter` at one of the cost weights that its network was trained with; `at` gives it at another.

    The network's values are in units of 1 + cost weight (see `FrontierTransitions`); `q_values` gives them as returns.
    """

    KIND: ClassVar[str] = "frontier_q"
    SETTINGS: ClassVar[type[Frozen]] = FrontierSettings

    settings: FrontierSettings

    @classmethod
    def of(cls, router: QRouter, *, cost_weights: CostWeights, cost_weight: float) -> Self:
        """Make it of a router whose network reads the columns of a cost weight after the history features.

        Raises:
            InvalidConfigError: If the weight is outside the range of the training.
        """
        cost_weights.check(cost_weight, what=f"router '{router.name}'")
        fields = router.settings.model_dump() | {"cost_weights": cost_weights, "cost_weight": cost_weight}
        return cls(
            name=router.name,
            model_names=router.model_names,
            features=router.features,
            settings=FrontierSettings.model_validate(fields),
            weights=router.weights,
            provenance=router.provenance,
        )

    def at(self, cost_weight: float) -> Self:
        """The same network at another cost weight, named after it.

        Raises:
            InvalidConfigError: If the weight is outside the range of the training.
        """
        made = self.of(self, cost_weights=self.settings.cost_weights, cost_weight=cost_weight)
        made.name = name_at(self.name, cost_weight)
        if self.provenance is not None and self.provenance.reward is not None:
            reward = self.provenance.reward.model_copy(update={"cost_weight": cost_weight})
            made.provenance = self.provenance.model_copy(update={"reward": reward})
        return made

    def cost_weight_grid(self, n: int) -> tuple[float, ...]:
        """See `CostWeights.grid`."""
        return self.settings.cost_weights.grid(n)

    def _histories(self, observations: Sequence[Observation]) -> npt.NDArray[np.float32]:
        cost_weights = np.full(len(observations), self.settings.cost_weight)
        columns = self.settings.cost_weights.features(cost_weights)
        return np.concatenate([super()._histories(observations), columns], axis=1, dtype=np.float32)

    def _values(self, observations: Sequence[Observation], masks: BoolArray) -> FloatArray:
        values = super()._values(observations, masks)
        return np.where(masks, values * (1 + self.settings.cost_weight), FORBIDDEN_Q)
