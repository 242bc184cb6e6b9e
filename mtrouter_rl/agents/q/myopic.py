"""The router that looks one turn ahead."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.q.fitted_q import QAlgorithm, QParameters
from mtrouter_rl.agents.training import lay_out_logs
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.arrays import Transitions


class MyopicParameters(QParameters):
    """Parameters of `Myopic`: those that every Q-based agent has."""


class Myopic(QAlgorithm[MyopicParameters]):
    """Learns the reward of this turn, given history h and model m, and acts greedily: a contextual bandit.

    What it misses against `FittedQ` is the worth of planning. Utility often comes at the last turn only, so it saves
    money everywhere else.
    """

    parameters_model: ClassVar[type[Frozen]] = MyopicParameters
    takes_held_out_model: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return 0.0

    def lay_out(self, context: TrainingContext) -> Transitions:
        """See `QAlgorithm.lay_out`."""
        return lay_out_logs(context, self.card, gamma=self.gamma)
