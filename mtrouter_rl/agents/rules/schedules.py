"""Rules that go by the turn alone: some turns belong to the strong model, the others to the cheap one.

The strong model plans and the cheap one carries out, or the cheap one explores and the strong one takes over, or the strong
one gets every so many turns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.rules.cheap_strong_pair import PairParameters, RungAlgorithm
from mtrouter_rl.agents.rules.ladder import LadderRouter, LadderSettings, others_of
from mtrouter_rl.agents.training import provenance
from mtrouter_rl.records import Frozen, Observation, PositiveInt


class ScheduleSettings(LadderSettings):
    """What a `ScheduleRouter` is made of. Turns are counted from 0.

    Attributes:
        first: First turn of the strong model.
        stop: First turn that is never the strong model's again; None if there is none.
        period: The strong model gets every `period`-th turn between the two.
    """

    first: int
    stop: int | None = None
    period: int = 1


class ScheduleRouter(LadderRouter[ScheduleSettings]):
    """Calls the strong model at the turns of its schedule, the cheap one at the others."""

    KIND: ClassVar[str] = "schedule"
    SETTINGS: ClassVar[type[Frozen]] = ScheduleSettings

    def rungs(self, observations: Sequence[Observation]) -> npt.NDArray[np.int64]:
        """See `LadderRouter.rungs`."""
        plan = self.settings
        turns = np.array([int(observation["turn"]) for observation in observations], dtype=np.int64)
        is_strong = (turns >= plan.first) & ((turns - plan.first) % plan.period == 0)
        if plan.stop is not None:
            is_strong &= turns < plan.stop
        return np.where(is_strong, self.top, 0)


ScheduleParametersT = TypeVar("ScheduleParametersT", bound=PairParameters)


class ScheduleAlgorithm(RungAlgorithm[ScheduleParametersT], ABC, Generic[ScheduleParametersT]):
    """Base of the rules that go by the turn: a subclass says which turns are the strong model's."""

    def train(self, context: TrainingContext) -> ScheduleRouter:
        """Make the router.

        Raises:
            UnknownNameError: If the pool has no model of a name in the card.
            InvalidConfigError: If the strong model is left open and the context has no validation.
        """
        roles = self.roles(context)
        first, stop, period = self.schedule()
        return ScheduleRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            settings=ScheduleSettings(
                roles=roles, others=others_of(roles, context.pool), first=first, stop=stop, period=period
            ),
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def schedule(self) -> tuple[int, int | None, int]:
        """`first`, `stop` and `period` of `ScheduleSettings`."""


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
