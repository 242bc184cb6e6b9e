"""The router that looks one turn ahead."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.fitted_q import QParameters, train_q_router
from mtrouter_rl.agents.learners import QLearning
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.q_router import QRouter
from mtrouter_rl.agents.training import lay_out_logs
from mtrouter_rl.pools.card import Frozen


class MyopicParameters(QParameters):
    """Parameters of `Myopic`: those that every Q-based agent has."""


class Myopic(CardAlgorithm[MyopicParameters]):
    """Learns the reward of this turn, given history h and model m, and acts greedily: a contextual bandit.

    What it misses against `FittedQ` is the worth of planning. Utility often comes at the last turn only, so it saves
    money everywhere else.
    """

    parameters_model: ClassVar[type[Frozen]] = MyopicParameters
    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True
    takes_several_logs: ClassVar[bool] = True
    takes_held_out_model: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return 0.0

    def train(self, context: TrainingContext) -> QRouter:
        """Train on the context's logs.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from.
            PoolMismatchError: If a dataset was logged with another pool, or two of them with different models.
            RouterError: If the checkpoint folder belongs to another training.
        """
        transitions = lay_out_logs(context, self.card, gamma=self.gamma)
        return train_q_router(context, transitions, card=self.card, parameters=self.parameters, learning=QLearning())
