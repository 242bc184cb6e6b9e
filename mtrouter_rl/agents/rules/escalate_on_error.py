"""A rule: start with a cheap model, and climb a ladder of models after so many errors."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.rules.cheap_strong_pair import LadderParameters, RungAlgorithm
from mtrouter_rl.agents.rules.ladder import LadderRouter, LadderSettings, others_of
from mtrouter_rl.agents.training import provenance
from mtrouter_rl.records import Frozen, Observation, PositiveInt


class EscalateOnErrorParameters(LadderParameters):
    """Parameters of `EscalateOnError`.

    Attributes:
        n_errors: Errors since the last change of rung after which the next rung is climbed.
        n_clean: Turns in a row without an error after which one rung is climbed down; 0 never climbs down.
    """

    n_errors: PositiveInt = 2
    n_clean: Annotated[int, Field(ge=0)] = 0


class EscalateOnErrorSettings(LadderSettings):
    """What an `EscalateOnErrorRouter` is made of; see `EscalateOnErrorParameters`."""

    n_errors: PositiveInt
    n_clean: Annotated[int, Field(ge=0)]


class EscalateOnErrorRouter(LadderRouter[EscalateOnErrorSettings]):
    """Counts the errors that the environment reported, whichever model made them."""

    KIND: ClassVar[str] = "escalate_on_error"
    SETTINGS: ClassVar[type[Frozen]] = EscalateOnErrorSettings

    def rungs(self, observations: Sequence[Observation]) -> npt.NDArray[np.int64]:
        """See `LadderRouter.rungs`."""
        histories = ([bool(turn["error"]) for turn in observation["history"]] for observation in observations)
        return np.array([self._rung(errors) for errors in histories], dtype=np.int64)

    def _rung(self, errors: Sequence[bool]) -> int:
        """Rung after turns that were errors or not."""
        rung = n_errors = n_clean = 0
        for is_error in errors:
            n_errors += is_error
            n_clean = 0 if is_error else n_clean + 1
            if n_errors >= self.settings.n_errors and rung < self.top:
                rung, n_errors, n_clean = rung + 1, 0, 0
            elif rung and 0 < self.settings.n_clean <= n_clean:
                rung, n_errors, n_clean = rung - 1, 0, 0
        return rung


class EscalateOnError(RungAlgorithm[EscalateOnErrorParameters]):
    """Escalation by the environment's own verdict on an action; nothing is learned.

    Source: a model cascade as in Chen et al., FrugalGPT (2023), with reported errors in place of their learned score.
    """

    parameters_model: ClassVar[type[Frozen]] = EscalateOnErrorParameters

    def train(self, context: TrainingContext) -> EscalateOnErrorRouter:
        """Make the router.

        Raises:
            UnknownNameError: If the pool has no model of a name in `ladder`.
            InvalidConfigError: If the ladder is left open and the context has no validation.
        """
        roles = self.roles(context)
        return EscalateOnErrorRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            settings=EscalateOnErrorSettings(
                roles=roles,
                others=others_of(roles, context.pool),
                n_errors=self.parameters.n_errors,
                n_clean=self.parameters.n_clean,
            ),
            provenance=provenance(context, self.card, self.parameters),
        )
