"""What rules that go by the turn alone share: which turns belong to the strong model, the others to the cheap one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.rules.cheap_strong_pair import PairParameters, RungAlgorithm
from mtrouter_rl.agents.rules.ladder import LadderRouter, LadderSettings, others_of
from mtrouter_rl.agents.training import provenance
from mtrouter_rl.records import Frozen, Observation


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
