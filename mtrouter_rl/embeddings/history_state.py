"""The running aggregate of an episode that the history features are drawn from."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.history_sources import HistoryKey, PastTurn

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DecayedMean:
    """Mean whose weights fade by a constant factor a turn; `empty` before the first turn."""

    total: float = 0.0
    weight: float = 0.0
    empty: float = 0.0

    def add(self, value: float, decay: float) -> "DecayedMean":
        """Take in the value of a turn."""
        return replace(self, total=decay * self.total + value, weight=decay * self.weight + 1.0)

    @property
    def mean(self) -> float:
        """The mean so far."""
        return self.total / self.weight if self.weight else self.empty


class SeenTexts:
    """Which observations an episode has shown, shared by all its states, so that no turn copies it.

    Only the newest state of an episode may add to it. A state that has fallen behind (somebody took a turn back and
    goes on differently) first takes a copy of what it had seen.
    """

    def __init__(self, first_seen: dict[str, int], n_turns: int) -> None:
        self._first_seen = first_seen
        self._n_turns = n_turns

    def add(self, text: str, *, turn: int) -> tuple[bool, "SeenTexts"]:
        """Take in the observation of the `turn`-th turn, from 1; tells whether it is new, and the set to go on with."""
        seen = self
        if self._n_turns != turn - 1:
            seen = SeenTexts({text: first for text, first in self._first_seen.items() if first < turn}, turn - 1)
        is_new = text not in seen._first_seen
        if is_new:
            seen._first_seen[text] = turn
        seen._n_turns = turn
        return is_new, seen


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryState:
    """Running aggregate of an episode up to some turn. Arrays are never written in place, so states may share them.

    Attributes:
        key: The conversation that is aggregated here.
        seen: Observations so far.
        task: Vector of the task text, shape (E,).
        observation: Vector of the last observation, shape (E,).
        action: Vector of the last action, shape (E,).
        recent: Decayed sum of (action + observation vector) / 2, shape (E,).
        recent_weight: Sum of the weights in `recent`.
        memory: Last model, decayed sum of models, of models with an error, of models without news, last model but one;
            shape (5, F).
        memory_weight: Sum of the weights in row 1 of `memory`.
    """

    key: HistoryKey
    seen: SeenTexts
    task: Float32Array
    observation: Float32Array
    action: Float32Array
    recent: Float32Array
    recent_weight: float
    memory: Float32Array
    memory_weight: float
    n_errors: int = 0
    n_consecutive_errors: int = 0
    error_fast: DecayedMean = DecayedMean()
    error_slow: DecayedMean = DecayedMean()
    is_repeat: bool = False
    is_new: bool = True
    novelty: DecayedMean = DecayedMean(empty=1.0)
    run_length: int = 0
    n_switches: int = 0
    n_characters: int = 0

    @property
    def turns(self) -> tuple[PastTurn, ...]:
        """The turns so far."""
        return self.key[2]

    @property
    def n_turns(self) -> int:
        """How many there were."""
        return len(self.key[2])
