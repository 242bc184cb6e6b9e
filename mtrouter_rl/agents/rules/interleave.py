"""A rule: every so many turns the strong model, the cheap one in between."""

from typing import ClassVar

from mtrouter_rl.agents.rules.cheap_strong_pair import PairParameters
from mtrouter_rl.agents.rules.schedules import ScheduleAlgorithm
from mtrouter_rl.records import Frozen, PositiveInt


class InterleaveParameters(PairParameters):
    """Parameters of `Interleave`.

    Attributes:
        period: The strong model gets every `period`-th turn; 4 gives it the turns 4, 8, 12 and so on, counted from 1.
    """

    period: PositiveInt = 4


class Interleave(ScheduleAlgorithm[InterleaveParameters]):
    """A fixed share of strong turns. Nothing is learned; a rule of thumb with no one source.

    It spends what a blind mixture of the two models within an episode spends, so a router that does not beat it at the
    same cost has learned no more than how often to call the strong model.
    """

    parameters_model: ClassVar[type[Frozen]] = InterleaveParameters

    def schedule(self) -> tuple[int, int | None, int]:
        """See `ScheduleAlgorithm.schedule`."""
        return self.parameters.period - 1, None, self.parameters.period
