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

from mtrouter_rl.records import Episode, FloatArray, IntArray
from mtrouter_rl.transitions.usefulness import turn_facts, turn_kinds, usefulness

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
_EPISODES_AT_ONCE = 4096


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
    useful = np.concatenate(usefulness(facts, turn_kinds(facts)))
    models = np.array([index[model] for one in facts for model in one.models])
    gains = np.concatenate([one.gains for one in facts])
    flags = np.array([flag for one in facts for flag in one.flags], dtype=np.float64)
    lengths = np.array([len(one.models) for one in facts])
    starts = np.cumsum(lengths) - lengths
    max_turns = np.array([one.max_turns for one in facts])
    # The longest episodes come first, so that those that are not over yet are the first rows of everything.
    order = np.argsort(-lengths, kind="stable")
    history = np.empty((len(models), len(HISTORY_NAMES)), dtype=np.float32)
    pairs = np.empty((len(models), len(index), len(PAIR_NAMES)), dtype=np.float32)
    for first in range(0, len(order), _EPISODES_AT_ONCE):
        block = order[first : first + _EPISODES_AT_ONCE]
        past = _Past(len(block), n_models=len(index))
        for turn in range(int(lengths[block[0]])):
            past.keep(int((lengths[block] > turn).sum()))
            rows = starts[block[: past.n_episodes]] + turn
            history[rows], pairs[rows] = past.history(max_turns[block[: past.n_episodes]]), past.pairs()
            past.add(models[rows], gains=gains[rows], flags=flags[rows], useful=useful[rows])
    return RewardMemory(history=history, pairs=pairs)


class _Past:
    """Counts of E episodes before the present turn, which is the same in all of them: shape (E,), or (E, M) by model."""

    def __init__(self, n_episodes: int, *, n_models: int) -> None:
        by_model = (n_episodes, n_models)
        self.n_episodes = n_episodes
        self.turn = 0
        self.utility, self.n_gains, self.since_gain = (np.zeros(n_episodes) for _ in range(3))
        self.calls, self.gains = np.zeros(by_model), np.zeros(by_model)
        self.calls_since_gain, self.errors_since_gain = np.zeros(by_model), np.zeros(by_model)
        self.turns_since_call = np.full(by_model, np.inf)
        self.last_useful, self.useful_since_call = np.zeros(by_model), np.zeros(by_model)
        self.last_flags = np.zeros((*by_model, 3))
        self.useful = np.zeros((n_episodes, 2))

    def keep(self, n_episodes: int) -> None:
        """Go on with the first episodes alone."""
        self.n_episodes = n_episodes
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[:n_episodes])

    def add(self, models: IntArray, *, gains: FloatArray, flags: FloatArray, useful: FloatArray) -> None:
        """Take in a turn of every episode: shapes (E,), and (E, 3) for the flags."""
        called = np.arange(self.n_episodes), models
        self.turn += 1
        self.useful = np.stack([useful, self.useful[:, 0]], axis=1)
        self.useful_since_call += np.maximum(useful, 0.0)[:, None]
        self.useful_since_call[called] = 0.0
        self.turns_since_call += 1
        self.turns_since_call[called] = 0
        self.last_useful[called] = useful
        self.last_flags[called] = flags
        self.calls[called] += 1
        self.utility += gains
        gained = gains > _MIN_GAIN
        self.n_gains += gained
        self.gains[called] += gained
        self.since_gain += 1
        self.calls_since_gain[called] += 1
        self.errors_since_gain[called] += flags[:, 0]
        for counted in (self.since_gain, self.calls_since_gain, self.errors_since_gain):
            counted[gained] = 0.0

    def history(self, max_turns: IntArray) -> FloatArray:
        """One column for every name in `HISTORY_NAMES`, shape (E, H)."""
        calls, since = self.calls_since_gain, self.since_gain
        columns = (
            self.utility,
            since / _TURN_SCALE,
            np.log1p(since) / 3,
            self.n_gains / _TURN_SCALE,
            self.turn / max_turns,
            1 - self.turn / max_turns,
            calls.max(axis=1) / _MOST_CALLS_SCALE,
            (calls >= 1).mean(axis=1),
            (calls >= 2).mean(axis=1),
            *np.clip(self.useful, -_USEFULNESS_CAP, _USEFULNESS_CAP).T,
        )
        return np.stack(columns, axis=1)

    def pairs(self) -> FloatArray:
        """For every model a column for every name in `PAIR_NAMES`, shape (E, M, P)."""
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
            *np.moveaxis(self.last_flags, 2, 0),
        )
        return np.stack(columns, axis=2)
