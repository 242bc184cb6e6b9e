"""What the factors need of a log besides its transitions, gathered in one pass, so that no episode is kept."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.records import BoolArray, Episode, FloatArray


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """N turns of the E completed episodes of a log that have any, one after the other.

    Attributes:
        words: Word of every action (see `action_word`), length N.
        is_error: Reported as an error, shape (N,).
        terminated: The task itself ended with the turn, shape (N,).
        tokens: Prompt, output and cached tokens of the call, shape (N, 3).
        warm: Which models held a warm cache, shape (N, M).
        masks: Which models were allowed, shape (N, M).
        sizes: [characters, turns, 1] of the conversation before the turn, shape (N, 3).
        tasks: Task of every episode, length E.
        variations: Variation of every episode, length E.
    """

    words: list[str]
    is_error: BoolArray
    terminated: BoolArray
    tokens: FloatArray
    warm: BoolArray
    masks: BoolArray
    sizes: FloatArray
    tasks: list[str]
    variations: list[int]

    @property
    def task_numbers(self) -> npt.NDArray[np.int64]:
        """Number of the task of every episode, in the order of the names, shape (E,)."""
        numbers = {task: number for number, task in enumerate(sorted(set(self.tasks)))}
        return np.array([numbers[task] for task in self.tasks], dtype=np.int64)

    @classmethod
    def of_episodes(cls, episodes: Iterable[Episode]) -> "LogColumns":
        """Go through the episodes once."""
        words, tasks, variations = list[str](), list[str](), list[int]()
        parts: list[tuple[BoolArray, BoolArray, FloatArray, BoolArray, BoolArray, FloatArray]] = []
        for episode in episodes:
            if not episode.turns:
                continue
            turns = episode.turns
            words += [sys.intern(action_word(turn.action_text)) for turn in turns]
            usage = [(turn.usage.n_prompt, turn.usage.n_output, turn.usage.n_cached) for turn in turns]
            parts.append(
                (
                    np.array([bool(turn.error) for turn in turns]),
                    np.array([turn.terminated for turn in turns], dtype=np.bool_),
                    np.array(usage, dtype=np.float64),
                    np.array([turn.warm for turn in turns], dtype=np.bool_),
                    np.array([turn.action_mask for turn in turns], dtype=np.bool_),
                    _sizes(episode),
                )
            )
            tasks.append(episode.task)
            variations.append(episode.variation)
        is_error, terminated, tokens, warm, masks, sizes = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return cls(
            words=words,
            is_error=is_error,
            terminated=terminated,
            tokens=tokens,
            warm=warm,
            masks=masks,
            sizes=sizes,
            tasks=tasks,
            variations=variations,
        )


def _sizes(episode: Episode) -> FloatArray:
    """[characters, turns, 1] before every turn of an episode, shape (T, 3)."""
    added = [len(turn.action_text) + len(turn.observation_text) for turn in episode.turns]
    start = len(episode.task_text) + len(episode.first_observation)
    characters = start + np.concatenate([[0], np.cumsum(added)[:-1]])
    return np.stack([characters, np.arange(len(added)), np.ones(len(added))], axis=1).astype(np.float64)
