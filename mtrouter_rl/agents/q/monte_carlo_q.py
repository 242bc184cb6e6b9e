"""The paper's estimator: regression of the return that the behaviour policy went on to get."""

import dataclasses
from typing import ClassVar

import numpy as np
from pydantic import Field

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import Discount
from mtrouter_rl.agents.q.error_penalties import Severity, expected_turns, penalties_to_go
from mtrouter_rl.agents.q.fitted_q import QAlgorithm, QParameters
from mtrouter_rl.agents.training import lay_out_logs, require_data
from mtrouter_rl.records import FloatArray, Frozen
from mtrouter_rl.transitions.arrays import Transitions


class MonteCarloQParameters(QParameters):
    """Parameters of `MonteCarloQ`.

    Attributes:
        gamma: Discount of the return that is regressed.
        error_severities: Kind of error -> "high", "medium" or "low"; "*" is every kind that is not named. Errors from this turn
            on are taken off the return, see `error_penalties`. Empty takes off nothing.
    """

    gamma: Discount = 1.0
    error_severities: dict[str, Severity] = Field(default_factory=dict)


class MonteCarloQ(QAlgorithm[MonteCarloQParameters]):
    """Learns Q of the behaviour policy: the mean return from this turn on, given history h and model m; acts greedily.

    The greedy policy is one step of policy improvement over the behaviour policy. It does not know that better models
    may be called later on: under uniform random logs a dear model looks as bad as what uniform random makes of its
    work.

    d3rlpy's DQN with gamma 0 and the return as reward is that regression.

    Source: MTRouter (2026), the estimator. Deviation: the target is the return of our reward, which is the utility
    still to be gained minus the weighted cost still to be paid. The research notes write final score minus cost weight
    x remaining cost; the two differ by the utility already gained, which is one number for all models of a state and
    changes no argmax. With `error_severities` the penalties of the paper's figure are taken off as well. A fixed number of
    steps replaces early stopping.
    """

    parameters_model: ClassVar[type[Frozen]] = MonteCarloQParameters

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return self.parameters.gamma

    def lay_out(self, context: TrainingContext) -> Transitions:
        """See `QAlgorithm.lay_out`; the reward of a turn is the return from it on, and no turn is followed by another."""
        transitions = lay_out_logs(context, self.card, gamma=self.gamma)
        if self.parameters.error_severities:
            penalties = self._penalties(context)
            taken = [penalties[one][turn] for one, turn in zip(transitions.episodes, transitions.turns, strict=True)]
            returns = (transitions.returns - np.array(taken)).astype(np.float32)
            transitions = dataclasses.replace(transitions, returns=returns)
        return transitions.as_return_regression()

    def _penalties(self, context: TrainingContext) -> list[FloatArray]:
        """Penalties from every turn on, of every episode that is learned from."""
        found = []
        first, _ = require_data(context, self.card)
        for dataset in (first, *(log.dataset for log in context.more_logs)):
            n_expected = expected_turns(dataset.completed)
            for episode in dataset.completed:
                if episode.turns:
                    errors = [turn.error for turn in episode.turns]
                    severities = self.parameters.error_severities
                    found.append(penalties_to_go(errors, severities, n_expected=n_expected, gamma=self.gamma))
        return found
