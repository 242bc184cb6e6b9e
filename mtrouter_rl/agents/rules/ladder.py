"""What rules over a ladder of models share: a rule names a rung at every turn, masks are seen to here."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.rules.cheap_strong_pair import Roles
from mtrouter_rl.agents.rules.heuristics import by_price
from mtrouter_rl.agents.rules.rule_router import RuleRouter
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import RouterError
from mtrouter_rl.records import FloatArray, Frozen, Observation


class LadderSettings(Frozen):
    """What a rule over a ladder is made of.

    Attributes:
        roles: The models of the ladder.
        others: The other models of the pool, the preferred one first; they are called only where no rung is allowed.
    """

    roles: Roles
    others: tuple[str, ...]


LadderSettingsT = TypeVar("LadderSettingsT", bound=LadderSettings)


class LadderRouter(RuleRouter[LadderSettingsT], ABC, Generic[LadderSettingsT]):
    """Calls the model of the rung that a rule names.

    Where that is masked, the next rung above that is allowed; where none is, the next below; where none is, the first
    allowed of the other models.
    """

    @property
    def top(self) -> int:
        """The highest rung, counted from 0."""
        return len(self.settings.roles.rungs) - 1

    @abstractmethod
    def rungs(self, observations: Sequence[Observation]) -> npt.NDArray[np.int64]:
        """Rung that the rule names for each of B observations, from 0 to `top`, shape (B,)."""

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(self._preferences[self.rungs(observations)], masks)

    @cached_property
    def _preferences(self) -> FloatArray:
        return rung_preferences(self.settings, self.model_names)

    @classmethod
    def check_settings(cls, saved: SavedRouter, settings: LadderSettingsT) -> None:
        """See `RuleRouter.check_settings`."""
        check_ladder(saved, settings)


def rung_preferences(settings: LadderSettings, model_names: Sequence[str]) -> FloatArray:
    """Preference for every model of a pool at every rung, higher is better, shape (rungs, M).

    First the rung itself, then those above, then those below from the nearest, then the other models.
    """
    ladder = settings.roles.rungs
    preferences = np.zeros((len(ladder), len(model_names)))
    for rung in range(len(ladder)):
        order = (*ladder[rung:], *reversed(ladder[:rung]), *settings.others)
        preferences[rung] = [-order.index(model) for model in model_names]
    return preferences


def check_ladder(saved: SavedRouter, settings: LadderSettings) -> None:
    """Make sure that rungs and other models are the models of the pool.

    Raises:
        RouterError: If they do not hold every model once.
    """
    models = (*settings.roles.rungs, *settings.others)
    if sorted(models) != sorted(saved.record.model_names):
        raise RouterError(
            f"router {saved.folder}: rungs and others are {', '.join(models)}, must hold every model of its pool once "
            f"({', '.join(saved.record.model_names)}); correct router.json"
        )


def others_of(roles: Roles, pool: PoolCard) -> tuple[str, ...]:
    """Models of a pool that are on no rung, the cheapest first."""
    return tuple(model for model in by_price(pool) if model not in roles.rungs)
