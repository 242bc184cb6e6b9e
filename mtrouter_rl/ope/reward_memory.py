"""What the rewards of a logged episode so far say, as features for fitted Q evaluation.

A router does not see scores, but a log holds them, and whoever evaluates a policy may use all that was logged before a turn:
the value of a state is a prediction, and a better description of the past makes it a better one. Two things matter that
the conversation hardly shows: how much of the task is done, and which models were called in vain since it last moved on.
A simulated or real model that is stuck at a step stays stuck there, so what it did since the last gain says more than what
it did before.

How useful a turn was is worked out by `mtrouter_rl.transitions.usefulness`.

Otherwise the features are functions of the episode before the turn, never of what comes after it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import Episode
from mtrouter_rl.transitions.usefulness import TurnFacts, turn_facts, turn_kinds, usefulness

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


def reward_memory(episodes: Iterable[Episode], model_names: Sequence[str]) -> RewardMemory:
    """Features of the states before every turn, episode after episode. The episodes are gone through once.

    Args:
        episodes: Episodes with at least one turn; N is the sum of their turns.
        model_names: Names of the pool, in pool order, length M.
    """
    index = {name: number for number, name in enumerate(model_names)}
    facts = turn_facts(episodes)
    useful = usefulness(facts, turn_kinds(facts))
    n_turns = sum(len(one.models) for one in facts)
    history = np.empty((n_turns, len(HISTORY_NAMES)), dtype=np.float32)
    pairs = np.empty((n_turns, len(index), len(PAIR_NAMES)), dtype=np.float32)
    start = 0
    for one, of_turns in zip(facts, useful, strict=True):
        past = _Past(n_turns=len(one.models), n_models=len(index))
        for model, gain, flags, how_useful in zip(one.models, one.gains.tolist(), one.flags, of_turns, strict=True):
            past.add(index[model], gain=gain, flags=flags, useful=how_useful)
        part = slice(start, start + len(one.models))
        history[part], pairs[part] = past.history(one), past.pairs()
        start = part.stop
    return RewardMemory(history=history, pairs=pairs)


class _Past:
    """Counts of an episode of T turns before each of them: shape (T,), or (T, M) by model.

    Row t of an array is filled in by `add`, turn after turn; what holds at the start is there from the beginning.
    """

    def __init__(self, *, n_turns: int, n_models: int) -> None:
        by_model = (n_turns + 1, n_models)
        self.turn = 0
        self.utility, self.n_gains, self.since_gain = (np.zeros(n_turns + 1) for _ in range(3))
        self.calls, self.gains = np.zeros(by_model), np.zeros(by_model)
        self.calls_since_gain, self.errors_since_gain = np.zeros(by_model), np.zeros(by_model)
        self.turns_since_call = np.full(by_model, np.inf)
        self.last_useful, self.useful_since_call = np.zeros(by_model), np.zeros(by_model)
        self.last_flags = np.zeros((*by_model, 3))
        self.useful = np.zeros((n_turns + 1, 2))

    def add(self, model: int, *, gain: float, flags: tuple[bool, bool, bool], useful: float) -> None:
        """Take in a turn."""
        now, after = self.turn, self.turn + 1
        self.useful[after] = useful, self.useful[now, 0]
        self.useful_since_call[after] = self.useful_since_call[now] + max(useful, 0.0)
        self.useful_since_call[after, model] = 0.0
        self.turns_since_call[after] = self.turns_since_call[now] + 1
        self.turns_since_call[after, model] = 0
        for kept in (self.last_useful, self.last_flags, self.calls, self.gains):
            kept[after] = kept[now]
        self.last_useful[after, model] = useful
        self.last_flags[after, model] = flags
        self.calls[after, model] += 1
        self.utility[after] = self.utility[now] + gain
        self.n_gains[after] = self.n_gains[now]
        self.turn = after
        if gain > _MIN_GAIN:
            self.n_gains[after] += 1
            self.gains[after, model] += 1
            return  # what is counted since the last gain starts at 0
        self.since_gain[after] = self.since_gain[now] + 1
        for counted, more in ((self.calls_since_gain, 1), (self.errors_since_gain, flags[0])):
            counted[after] = counted[now]
            counted[after, model] += more

    def history(self, facts: TurnFacts) -> npt.NDArray[np.float64]:
        """One column for every name in `HISTORY_NAMES`, shape (T, H)."""
        n = self.turn
        calls, since, turns = self.calls_since_gain[:n], self.since_gain[:n], np.arange(n)
        columns = (
            self.utility[:n],
            since / _TURN_SCALE,
            np.log1p(since) / 3,
            self.n_gains[:n] / _TURN_SCALE,
            turns / facts.max_turns,
            1 - turns / facts.max_turns,
            calls.max(axis=1) / _MOST_CALLS_SCALE,
            (calls >= 1).mean(axis=1),
            (calls >= 2).mean(axis=1),
            *np.clip(self.useful[:n], -_USEFULNESS_CAP, _USEFULNESS_CAP).T,
        )
        return np.stack(columns, axis=1)

    def pairs(self) -> npt.NDArray[np.float64]:
        """For every model a column for every name in `PAIR_NAMES`, shape (T, M, P)."""
        n = self.turn
        calls, all_calls, gains, since_call = (
            one[:n] for one in (self.calls_since_gain, self.calls, self.gains, self.turns_since_call)
        )
        columns = (
            calls == 0,
            calls == 1,
            calls == 2,
            calls >= 3,
            np.minimum(calls, _CALLS_CAP) / _CALLS_CAP,
            self.errors_since_gain[:n] > 0,
            self.errors_since_gain[:n] > 1,
            np.log1p(all_calls) / 3,
            (gains + _PRIOR_GAINS) / (all_calls + _PRIOR_CALLS),
            gains / np.maximum(all_calls, 1),
            since_call == 0,
            np.minimum(since_call, _TURNS_SINCE_CALL_CAP) / _TURNS_SINCE_CALL_CAP,
            np.clip(self.last_useful[:n], -_USEFULNESS_CAP, _USEFULNESS_CAP),
            np.minimum(self.useful_since_call[:n], _USEFULNESS_CAP),
            *np.moveaxis(self.last_flags[:n], 2, 0),
        )
        return np.stack(columns, axis=2).astype(np.float64)
