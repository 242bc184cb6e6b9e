"""What the rewards of a logged episode so far say, as features for fitted Q evaluation.

A router does not see scores, but a log holds them, and whoever evaluates a policy may use all that was logged before a turn:
the value of a state is a prediction, and a better description of the past makes it a better one. Two things matter that
the conversation hardly shows: how much of the task is done, and which models were called in vain since it last moved on.
A simulated or real model that is stuck at a step stays stuck there, so what it did since the last gain says more than what
it did before.

How useful a turn was is worked out by `mtrouter_rl.transitions.usefulness`.

Otherwise the features are functions of the episode before the turn, never of what comes after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import Episode
from mtrouter_rl.transitions.usefulness import Kind, turn_kinds, usefulness

Float32Array = npt.NDArray[np.float32]

HISTORY_NAMES: tuple[str, ...] = (
    "utility_so_far",
    "turns_since_gain",
    "log_turns_since_gain",
    "n_gains",
    "turn_share",
    "turns_left_share",
    "most_calls_since_gain",
    "share_of_models_called_since_gain",
    "share_of_models_called_twice_since_gain",
    "usefulness_of_last_turn",
    "usefulness_of_turn_before",
)
"""Columns about the history, each roughly within [-2, 2]."""

PAIR_NAMES: tuple[str, ...] = (
    "no_call_since_gain",
    "one_call_since_gain",
    "two_calls_since_gain",
    "more_calls_since_gain",
    "calls_since_gain",
    "error_since_gain",
    "errors_since_gain",
    "log_calls",
    "smoothed_gain_rate",
    "gain_rate",
    "is_last_model",
    "turns_since_call",
    "usefulness_of_last_call",
    "usefulness_since_call",
    "last_call_was_error",
    "last_call_showed_old",
    "last_call_repeated",
)
"""Columns about one model in the history, each roughly within [-3, 3]."""

_MIN_GAIN = 1e-9
_TURN_SCALE = 10.0
_CALLS_CAP = 8
_MOST_CALLS_SCALE = 5.0
_TURNS_SINCE_CALL_CAP = 10
_PRIOR_GAINS, _PRIOR_CALLS = 1.0, 4.0
_USEFULNESS_CAP = 3.0


@dataclass(frozen=True, kw_only=True)
class RewardMemory:
    """Features of N logged states.

    Attributes:
        history: As in `HISTORY_NAMES`, shape (N, H).
        pairs: As in `PAIR_NAMES`, one row for every model, shape (N, M, P).
    """

    history: Float32Array
    pairs: Float32Array

    @classmethod
    def nothing(cls, n_states: int, n_models: int) -> "RewardMemory":
        """No features at all, for states that say everything themselves: H = P = 0."""
        return cls(
            history=np.zeros((n_states, 0), dtype=np.float32), pairs=np.zeros((n_states, n_models, 0), dtype=np.float32)
        )


def reward_memory(episodes: Sequence[Episode], model_names: Sequence[str]) -> RewardMemory:
    """Features of the states before every turn, episode after episode.

    Args:
        episodes: Episodes with at least one turn; N is the sum of their turns.
        model_names: Names of the pool, in pool order, length M.
    """
    index = {name: number for number, name in enumerate(model_names)}
    kinds = turn_kinds(episodes)
    useful = usefulness(episodes, kinds)
    n_turns = sum(len(one) for one in kinds)
    history = np.empty((n_turns, len(HISTORY_NAMES)), dtype=np.float32)
    pairs = np.empty((n_turns, len(index), len(PAIR_NAMES)), dtype=np.float32)
    start = 0
    for episode, of_episode, of_turns in zip(episodes, kinds, useful, strict=True):
        part = slice(start, start + len(episode.turns))
        history[part], pairs[part] = _of_episode(episode, of_episode, of_turns, index=index)
        start = part.stop
    return RewardMemory(history=history, pairs=pairs)


def _of_episode(
    episode: Episode, kinds: Sequence[Kind], useful: Sequence[float], *, index: dict[str, int]
) -> tuple[Float32Array, Float32Array]:
    """Features of one episode of T turns, shapes (T, H) and (T, M, P)."""
    past = _Past(n_models=len(index), max_turns=episode.max_turns)
    history = np.empty((len(episode.turns), len(HISTORY_NAMES)), dtype=np.float32)
    pairs = np.empty((len(episode.turns), len(index), len(PAIR_NAMES)), dtype=np.float32)
    for number, turn in enumerate(episode.turns):
        history[number], pairs[number] = past.history(), past.pairs()
        past.add(index[turn.model], gain=turn.utility_gain, kind=kinds[number], useful=useful[number])
    return history, pairs


class _Past:
    """Counts of an episode so far, by model where they are arrays of shape (M,)."""

    def __init__(self, *, n_models: int, max_turns: int) -> None:
        self.max_turns = max_turns
        self.turn = self.n_gains = self.since_gain = 0
        self.utility = 0.0
        self.calls, self.gains = np.zeros(n_models), np.zeros(n_models)
        self.calls_since_gain, self.errors_since_gain = np.zeros(n_models), np.zeros(n_models)
        self.turns_since_call = np.full(n_models, np.inf)
        self.last_useful, self.useful_since_call = np.zeros(n_models), np.zeros(n_models)
        self.last_flags = np.zeros((n_models, 3))
        self.useful = (0.0, 0.0)

    def add(self, model: int, *, gain: float, kind: Kind, useful: float) -> None:
        """Take in a turn."""
        is_error = kind[1]
        self.useful = (useful, self.useful[0])
        self.useful_since_call += max(useful, 0.0)
        self.useful_since_call[model] = 0.0
        self.last_useful[model] = useful
        self.last_flags[model] = kind[1:]
        self.turn += 1
        self.utility += gain
        self.calls[model] += 1
        self.turns_since_call += 1
        self.turns_since_call[model] = 0
        if gain > _MIN_GAIN:
            self.n_gains += 1
            self.gains[model] += 1
            self.since_gain = 0
            self.calls_since_gain[:] = 0
            self.errors_since_gain[:] = 0
        else:
            self.since_gain += 1
            self.calls_since_gain[model] += 1
            self.errors_since_gain[model] += is_error

    def history(self) -> list[float]:
        """One number for every name in `HISTORY_NAMES`."""
        calls = self.calls_since_gain
        return [
            self.utility,
            self.since_gain / _TURN_SCALE,
            float(np.log1p(self.since_gain)) / 3,
            self.n_gains / _TURN_SCALE,
            self.turn / self.max_turns,
            1 - self.turn / self.max_turns,
            float(calls.max()) / _MOST_CALLS_SCALE,
            float((calls >= 1).mean()),
            float((calls >= 2).mean()),
            *np.clip(self.useful, -_USEFULNESS_CAP, _USEFULNESS_CAP).tolist(),
        ]

    def pairs(self) -> npt.NDArray[np.float64]:
        """One row for every model, columns as in `PAIR_NAMES`, shape (M, P)."""
        calls = self.calls_since_gain
        columns = (
            calls == 0,
            calls == 1,
            calls == 2,
            calls >= 3,
            np.minimum(calls, _CALLS_CAP) / _CALLS_CAP,
            self.errors_since_gain > 0,
            self.errors_since_gain > 1,
            np.log1p(self.calls) / 3,
            (self.gains + _PRIOR_GAINS) / (self.calls + _PRIOR_CALLS),
            self.gains / np.maximum(self.calls, 1),
            self.turns_since_call == 0,
            np.minimum(self.turns_since_call, _TURNS_SINCE_CALL_CAP) / _TURNS_SINCE_CALL_CAP,
            np.clip(self.last_useful, -_USEFULNESS_CAP, _USEFULNESS_CAP),
            np.minimum(self.useful_since_call, _USEFULNESS_CAP),
            *self.last_flags.T,
        )
        return np.stack(columns, axis=1).astype(np.float64)
