"""Fitted-Q iteration for every budget up to the logged one at once."""

from typing import ClassVar, Self

from pydantic import model_validator

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.q.fitted_q import FittedQ, FittedQParameters, train_q_router
from mtrouter_rl.agents.q.q_router import QRouter
from mtrouter_rl.agents.training import require_data
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.budgets import Budgets, BudgetTransitions


class FittedQBudgetParameters(FittedQParameters):
    """Parameters of `FittedQBudget`.

    Attributes:
        budgets: Which budgets are drawn.
    """

    budgets: Budgets = Budgets()

    @model_validator(mode="after")
    def _budget_is_seen(self) -> Self:
        if "progress" not in self.history_inputs:
            raise ValueError(
                f"history_inputs is {list(self.history_inputs)}, must hold 'progress': it tells what is left of the budget, "
                "and a router that does not see it cannot serve several budgets"
            )
        return self


class FittedQBudget(FittedQ):
    """`FittedQ` on a log whose episodes are cut short in hindsight, as smaller budgets would have.

    The state tells what is left of the budget, so one network serves every budget. A log with one large budget hardly shows
    states in which money is short; here they are made from it.

    Source: see `BudgetTransitions`.
    """

    parameters_model: ClassVar[type[Frozen]] = FittedQBudgetParameters
    takes_several_logs: ClassVar[bool] = False
    takes_held_out_model: ClassVar[bool] = False

    parameters: FittedQBudgetParameters

    def train(self, context: TrainingContext) -> QRouter:
        """Train on the context's dataset.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from, or an episode was run without
                a budget.
            PoolMismatchError: If the dataset was logged with another pool.
            RouterError: If the checkpoint folder belongs to another training.
        """
        dataset, features = require_data(context, self.card)
        transitions = BudgetTransitions.of(
            self.lay_out(context),
            [episode for episode in dataset.completed if episode.turns],
            features,
            pool=context.pool,
            budgets=self.parameters.budgets,
            gamma=self.parameters.gamma,
            max_output_tokens=context.max_output_tokens,
        )
        return train_q_router(context, transitions, card=self.card, parameters=self.parameters, learning=self.learning)
