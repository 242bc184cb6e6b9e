"""The paper's estimator: regression of the return that the behaviour policy went on to get."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import Discount
from mtrouter_rl.agents.q.fitted_q import QAlgorithm, QParameters
from mtrouter_rl.agents.training import lay_out_logs
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.arrays import Transitions


class MonteCarloQParameters(QParameters):
    """Parameters of `MonteCarloQ`.

    Attributes:
        gamma: Discount of the return that is regressed.
    """

    gamma: Discount = 1.0


class MonteCarloQ(QAlgorithm[MonteCarloQParameters]):
    """Learns Q of the behaviour policy: the mean return from this turn on, given history h and model m; acts greedily.

    The greedy policy is one step of policy improvement over the behaviour policy. It does not know that better models
    may be called later on: under uniform random logs a dear model looks as bad as what uniform random makes of its
    work.

    d3rlpy's DQN with gamma 0 and the return as reward is that regression.

    Source: MTRouter (2026), the estimator. Deviation: the target is the return of our reward, which is the utility
    still to be gained minus the weighted cost still to be paid. The research notes write final score minus cost weight
    x remaining cost; the two differ by the utility already gained, which is one number for all models of a state and
    changes no argmax. A fixed number of steps replaces early stopping.
    """

    parameters_model: ClassVar[type[Frozen]] = MonteCarloQParameters

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return self.parameters.gamma

    def lay_out(self, context: TrainingContext) -> Transitions:
        """See `QAlgorithm.lay_out`; the reward of a turn is the return from it on, and no turn is followed by another."""
        return lay_out_logs(context, self.card, gamma=self.gamma).as_return_regression()
