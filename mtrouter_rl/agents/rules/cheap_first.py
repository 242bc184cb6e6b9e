"""A rule: the cheap model explores for the first turns, the strong one does the rest."""

from typing import ClassVar

from mtrouter_rl.agents.rules.cheap_strong_pair import PairParameters
from mtrouter_rl.agents.rules.schedules import ScheduleAlgorithm
from mtrouter_rl.records import Frozen, PositiveInt


class CheapFirstParameters(PairParameters):
    """Parameters of `CheapFirst`.

    Attributes:
        n_turns: Turns of the cheap model.
    """

    n_turns: PositiveInt = 3


class CheapFirst(ScheduleAlgorithm[CheapFirstParameters]):
    """A cheap model explores, then a strong one takes over. Nothing is learned.

    Source: Son et al., SWE-Router (2026): a cheap model runs for a few exploratory turns (3 and 4 were best there).
    Deviation: they then decide by a learned value whether to escalate; this rule always does. `Cascade` decides.
    """

    parameters_model: ClassVar[type[Frozen]] = CheapFirstParameters

    def schedule(self) -> tuple[int, int | None, int]:
        """See `ScheduleAlgorithm.schedule`."""
        return self.parameters.n_turns, None, 1
