"""Kinds of action, and how far a turn agreed with what was due.

Nobody tells a router what a turn should do. But most models do the right thing most of the time, so what models usually do
in a state tells what is due there, and a turn that does something else was probably of no use.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.records import FloatArray, Frozen

RARE = ""
"""The kind of all actions whose word is rare, and of empty ones."""
RARE_KIND = 0
"""Its number."""

_MOST_KINDS = 30
_FEWEST_TURNS = 20


class ActionKinds(Frozen):
    """Kinds of action of a log: the tool, the command or the first word of their texts (see `action_word`).

    Attributes:
        words: The word of every kind, `RARE` first; K in all.
    """

    words: tuple[str, ...]

    @classmethod
    def of_words(cls, words: Iterable[str]) -> "ActionKinds":
        """Kinds of a log's actions: the 30 most frequent words, of those with at least 20 turns.

        Example:
            >>> ActionKinds.of_words(["go"] * 20 + ["wait"] * 30 + ["sing"]).words
            ('', 'wait', 'go')
        """
        counts = Counter(words)
        common = [word for word, count in counts.most_common(_MOST_KINDS) if count >= _FEWEST_TURNS and word]
        return cls(words=(RARE, *common))

    def __len__(self) -> int:
        """K."""
        return len(self.words)

    def index(self, text: str) -> int:
        """Number of an action's kind."""
        word = action_word(text)
        return self.words.index(word) if word in self.words else RARE_KIND

    def of_log(self, words: Iterable[str]) -> npt.NDArray[np.int64]:
        """Numbers of the kinds of actions with these words, shape (N,)."""
        numbers = {word: number for number, word in enumerate(self.words)}
        return np.array([numbers.get(word, RARE_KIND) for word in words], dtype=np.int64)


def agreement(due: FloatArray, kinds: npt.NDArray[np.int64], is_error: npt.NDArray[np.bool_]) -> FloatArray:
    """How far turns did what was due, in [0, 1], shape (N,): 1 for the likeliest kind, 0 for a reported error.

    Args:
        due: Probability of every kind in the state before the turn, shape (N, K).
        kinds: Kind that was done, shape (N,).
        is_error: Whether the turn was reported as an error, shape (N,).

    Example:
        >>> agreement(np.array([[0.8, 0.2]] * 3), np.array([0, 1, 0]), np.array([False, False, True]))
        array([1.  , 0.25, 0.  ])
    """
    done = due[np.arange(len(due)), kinds] / due.max(axis=1)
    return np.where(is_error, 0.0, done)
