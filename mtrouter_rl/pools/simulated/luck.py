"""What is drawn once for an episode: how hard its task is, and when models break down.

Every draw has its own stream, seeded by (task, variation, episode seed) and by what it is about. None depends on which models
were called before (common random numbers).
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrouter_rl.records import Frozen

TURN_STREAM = 0
STUCK_STREAM = 1
TOGETHER_STREAM = 2
OUTAGE_STREAM = 3
ERROR_STREAM = 4
_TASK_STREAM = 5


@dataclass(frozen=True, kw_only=True)
class EpisodeKey:
    """What seeds an episode's randomness."""

    task_name: str
    variation: int
    seed: int

    def generator(self, *stream: int) -> np.random.Generator:
        """Generator of a stream of this episode."""
        return _generator([self.seed, *self._task(), *stream])

    def hardness(self, spread: float) -> float:
        """How much harder than others the variation is, logit; the same in every episode of it, for every model."""
        return spread * float(_generator([0, *self._task(), _TASK_STREAM]).standard_normal()) if spread else 0.0

    def _task(self) -> list[int]:
        return [zlib.crc32(self.task_name.encode()), self.variation]


def _generator(entropy: list[int]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


class Outages(Frozen):
    """Spells in which a model cannot be called.

    Attributes:
        start: Probability that a spell of a model starts at a turn.
        turns: Mean length, turns; lengths are geometric.
    """

    start: Annotated[float, Field(ge=0, le=1)]
    turns: Annotated[float, Field(ge=1)]


class ErrorBursts(Outages):
    """Spells in which a model fails more often.

    Attributes:
        logit: Taken off its ability in a spell.
    """

    logit: Annotated[float, Field(gt=0)]


class Spells:
    """When the models of an episode are in a spell; drawn for each turn and model when it is first asked for."""

    def __init__(self, card: Outages, *, key: EpisodeKey, stream: int) -> None:
        """Make them for an episode."""
        self._card = card
        self._key = key
        self._stream = stream
        self._ends: dict[str, list[int]] = {}

    def holds(self, model: str, turn: int) -> bool:
        """Whether a model is in a spell at a turn."""
        ends = self._ends.setdefault(model, [])
        while len(ends) <= turn:
            ends.append(max(self._end(model, len(ends)), ends[-1] if ends else 0))
        return ends[turn] > turn

    def out_of(self, models: Sequence[str], turn: int) -> tuple[str, ...]:
        """Models in a spell at a turn; nobody where it would be everybody, so that a spell ends no episode."""
        found = tuple(model for model in models if self.holds(model, turn))
        return () if len(found) == len(models) else found

    def _end(self, model: str, turn: int) -> int:
        """First turn after the spell that starts at a turn; the turn itself where none starts."""
        rng = self._key.generator(self._stream, turn, zlib.crc32(model.encode()))
        if rng.random() >= self._card.start:
            return turn
        return turn + int(rng.geometric(1 / self._card.turns))


def logistic(logit: float) -> float:
    """Probability of a logit."""
    return 1.0 / (1.0 + math.exp(-logit))


def harder(probability: float, hardness: float) -> float:
    """A probability of trouble on a task that is harder by so much, logit.

    Example:
        >>> harder(0.5, 0.0), round(harder(0.5, 1.0), 3), harder(0.0, 5.0)
        (0.5, 0.731, 0.0)
    """
    if hardness == 0 or probability in (0, 1):
        return probability
    return logistic(math.log(probability / (1 - probability)) + hardness)
