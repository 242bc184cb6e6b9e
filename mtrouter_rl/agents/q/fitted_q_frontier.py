"""Fitted-Q iteration for every cost weight of a range at once."""

from typing import ClassVar, Self

from pydantic import model_validator

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.q.fitted_q import FittedQ, FittedQParameters, train_q_router
from mtrouter_rl.agents.q.q_router import QRouter
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.cost_weight_range import FrontierTransitions
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights


class FittedQFrontierParameters(FittedQParameters):
    """Parameters of `FittedQFrontier`.

    Attributes:
        cost_weights: Which cost weights are drawn; they bound those that the router can be asked for.
    """

    cost_weights: CostWeights = CostWeights()

    @model_validator(mode="after")
    def _learner_has_no_imitator(self) -> Self:
        if self.learner == "discrete_bcq":
            raise ValueError(
                "learner is 'discrete_bcq', must be another one here: its imitator is told no cost weight; train fitted_q "
                "with it at one weight, or take 'discrete_cql'"
            )
        return self


class FittedQFrontier(FittedQ):
    """Learns Q*(h, m, w), the optimal return for every cost weight w, by `FittedQ` on relabelled transitions.

    What a logged turn gained and what it cost do not depend on the weight, so one log serves all of them: every transition
    of a mini-batch is given a weight, told to the network, and the reward that it has under it. All else is `FittedQ`.

    Source: see `FrontierTransitions`.
    """

    parameters_model: ClassVar[type[Frozen]] = FittedQFrontierParameters
    takes_several_logs: ClassVar[bool] = False
    takes_held_out_model: ClassVar[bool] = False

    parameters: FittedQFrontierParameters

    def train(self, context: TrainingContext) -> QRouter:
        """Train on the context's dataset.

        Returns:
            A `FrontierRouter` at the cost weight of the context.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from, or the context's cost
                weight is outside the range.
            PoolMismatchError: If the dataset was logged with another pool.
            RouterError: If the checkpoint folder belongs to another training.
        """
        cost_weights = self.parameters.cost_weights
        cost_weights.check(context.reward.cost_weight, what=f"agent '{self.card.name}'")
        transitions = FrontierTransitions.of(
            self.lay_out(context, n_extra=N_COLUMNS),
            cost_weights=cost_weights,
            reward=context.reward,
            gamma=self.parameters.gamma,
        )
        return train_q_router(
            context,
            transitions,
            card=self.card,
            parameters=self.parameters,
            learning=self.learning,
            cost_weights=cost_weights,
        )
