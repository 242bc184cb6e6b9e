"""What routers that predict utility and cost apart share: they weigh the two, and call the best allowed model."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.q.learned_router import LearnedRouter
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.regression.reward_models import (
    NEEDED_ARRAYS,
    Arrays,
    Form,
    Predictor,
    make_predictor,
    projection_of,
)
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import RouterError
from mtrouter_rl.records import FloatArray, Frozen, Observation


class OutcomeSettings(Frozen):
    """What an `OutcomeRouter` is made of, arrays apart.

    Attributes:
        form: How values come from arrays, see `outcome_models.NEEDED_ARRAYS`.
        reward: Weighs cost against utility.
        n_neighbors: How many neighbors of each model are averaged, for the form "neighbors".
    """

    form: Form
    reward: RewardCard
    n_neighbors: int = 0


OutcomeSettingsT = TypeVar("OutcomeSettingsT", bound=OutcomeSettings)


class OutcomeRouter(LearnedRouter[OutcomeSettingsT]):
    """Calls the allowed model with the highest predicted utility minus weighted cost, the lower index on a tie.

    Utility and cost are predicted apart, so that a trained router serves any cost weight.
    """

    @cached_property
    def arrays(self) -> Arrays:
        """The weights as arrays."""
        return {name: tensor.numpy() for name, tensor in self.weights.items()}

    @cached_property
    def _predict(self) -> Predictor:
        predict = make_predictor(
            self.settings.form,
            self.arrays,
            n_models=len(self.model_names),
            n_neighbors=self.settings.n_neighbors,
        )
        projection = projection_of(self.arrays)
        return predict if projection is None else lambda vectors: predict(projection(vectors))

    @abstractmethod
    def vectors(self, observations: Sequence[Observation]) -> npt.NDArray[np.float64]:
        """What the prediction reads of observations, shape (B, D)."""

    def outcomes(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted utility and cost in USD with each model, shape (B, M, 2)."""
        return self._predict(self.vectors(observations))

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted return with each model, shape (B, M). Masks are not looked at."""
        try:
            outcomes = self.outcomes(observations)
        except (ValueError, LookupError) as error:
            raise RouterError(
                f"router '{self.name}': its weights do not fit each other ({error}); copy both files again, or train it again"
            ) from error
        values: FloatArray = self.settings.reward.reward(outcomes[..., 0], outcomes[..., 1])
        return values

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(self.q_values(observations), masks)

    def with_cost_weight(self, cost_weight: float, *, name: str) -> Self:
        """The same predictions under another cost weight."""
        reward = self.settings.reward.model_copy(update={"cost_weight": cost_weight})
        return type(self)(
            name=name,
            model_names=self.model_names,
            features=self.features,
            settings=self.settings.model_copy(update={"reward": reward}),
            weights=self.weights,
            provenance=self.provenance,
        )

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: OutcomeSettingsT, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        missing = NEEDED_ARRAYS[settings.form] - set(weights)
        if missing:
            raise RouterError(
                f"router {saved.folder}: the weights lack {', '.join(sorted(missing))}; both files must come "
                "from one training"
            )


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Arrays as a router's weights."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
