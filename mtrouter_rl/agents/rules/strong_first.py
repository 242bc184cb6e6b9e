"""A rule: the strong model for the first turns, the cheap one for the rest."""

from typing import ClassVar

from mtrouter_rl.agents.rules.cheap_strong_pair import PairParameters
from mtrouter_rl.agents.rules.schedules import ScheduleAlgorithm
from mtrouter_rl.records import Frozen, PositiveInt


class StrongFirstParameters(PairParameters):
    """Parameters of `StrongFirst`.

    Attributes:
        n_turns: Turns of the strong model.
    """

    n_turns: PositiveInt = 5


class StrongFirst(ScheduleAlgorithm[StrongFirstParameters]):
    """A dear model plans, a cheap one carries out. Nothing is learned; a rule of thumb with no one source."""

    parameters_model: ClassVar[type[Frozen]] = StrongFirstParameters

    def schedule(self) -> tuple[int, int | None, int]:
        """See `ScheduleAlgorithm.schedule`."""
        return 0, self.parameters.n_turns, 1
