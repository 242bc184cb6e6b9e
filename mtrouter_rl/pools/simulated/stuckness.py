"""Who is stuck where in an episode, and what an observer who saw every failure may believe of it."""

import itertools
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mtrouter_rl.pools.simulated.luck import STUCK_STREAM, TOGETHER_STREAM, EpisodeKey
from mtrouter_rl.records import BoolArray, FloatArray


class Stuckness:
    """Draws and beliefs of one episode.

    A model is stuck at a sub-goal with its own probability p, whatever `together` is. With probability `together` the sub-goal
    has one draw for all models: whoever has p above it is stuck. Else each model has a draw of its own.
    """

    def __init__(
        self, *, key: EpisodeKey, probabilities: Mapping[str, float], together: float, is_steady: bool
    ) -> None:
        """Make it for an episode.

        Args:
            key: The episode.
            probabilities: Model -> probability to be stuck at a sub-goal.
            together: Probability that a sub-goal's draw is shared by all models.
            is_steady: Whether a model succeeds at an action with the same probability all through the episode.
        """
        self._key = key
        self._names = tuple(probabilities)
        self._priors = np.array([probabilities[name] for name in self._names])
        self._together = together
        self._is_steady = is_steady
        self._drawn: dict[tuple[str, str], bool] = {}
        self._n_failed: Counter[tuple[str, str]] = Counter()
        self._missed: dict[tuple[str, str], float] = {}
        self._succeeded: set[tuple[str, str]] = set()

    def holds(self, model: str, action: str) -> bool:
        """Whether a model is stuck at the sub-goal that an expert's action stands for."""
        at = (model, action)
        if at not in self._drawn:
            probability = float(self._priors[self._names.index(model)])
            self._drawn[at] = self._draw(model, action) < probability
        return self._drawn[at]

    def all_of(self, actions: Sequence[str], names: Sequence[str]) -> BoolArray:
        """Who is stuck at which action, shape (L, M)."""
        return np.array([[self.holds(name, action) for name in names] for action in actions])

    def often(self, names: Sequence[str]) -> FloatArray:
        """How often every model is stuck at a sub-goal of this episode, before anything is seen, shape (M,)."""
        return self._priors[[self._names.index(name) for name in names]]

    def learn(self, model: str, action: str, *, probability: float, is_success: bool) -> None:
        """Take in the outcome of a call that would have succeeded with this probability, had the model not been stuck."""
        at = (model, action)
        if is_success:
            self._succeeded.add(at)
            return
        self._n_failed[at] += 1
        self._missed[at] = self._missed.get(at, 1.0) * (1 - probability)

    def believed(self, actions: Sequence[str], success: FloatArray, names: Sequence[str]) -> FloatArray:
        """Probability of being stuck after what was seen, by Bayes' rule.

        Args:
            actions: The L actions.
            success: Probability that a model that is not stuck does an action, shape (L, M).
            names: The M models.

        Returns:
            Probabilities, shape (L, M).
        """
        order = [self._names.index(name) for name in names]
        misses = self._misses(actions, success, names)
        if not self._together:
            prior = self._priors[order]
            unstuck = (1 - prior) * misses
            believed: FloatArray = np.divide(prior, prior + unstuck, out=np.zeros_like(success), where=prior > 0)
            return believed
        return np.array([self._believed_together(misses[row], action, order) for row, action in enumerate(actions)])

    def _draw(self, model: str, action: str) -> float:
        sub_goal = zlib.crc32(action.encode())
        if self._together:
            shared = self._key.generator(TOGETHER_STREAM, sub_goal)
            if shared.random() < self._together:
                return float(shared.random())
        return float(self._key.generator(STUCK_STREAM, sub_goal, zlib.crc32(model.encode())).random())

    def _misses(self, actions: Sequence[str], success: FloatArray, names: Sequence[str]) -> FloatArray:
        """Probability of the failures that were seen, of a model that is not stuck, shape (L, M)."""
        if self._is_steady:
            n_failed = np.array([[self._n_failed[name, action] for name in names] for action in actions])
            result: FloatArray = (1 - success) ** n_failed
            return result
        return np.array([[self._missed.get((name, action), 1.0) for name in names] for action in actions])

    def _believed_together(self, missed: FloatArray, action: str, order: Sequence[int]) -> FloatArray:
        """Belief at one action where draws may be shared, shape (M,): over both ways to draw, and over the shared draw.

        The shared draw tells by which of the sorted probabilities it lies above who is stuck. A model that succeeded is not.
        """
        prior = self._priors[order]
        may_be = np.array([(self._names[index], action) not in self._succeeded for index in order], dtype=np.float64)
        edges = np.unique(np.concatenate([[0.0], prior, [1.0]]))
        total, stuck = 0.0, np.zeros(len(order))
        for low, high in itertools.pairwise(edges):
            is_stuck = prior >= high
            weight = self._together * (high - low) * math.prod(np.where(is_stuck, may_be, missed))
            total += weight
            stuck += weight * is_stuck
        each = prior * may_be + (1 - prior) * missed
        apart = (1 - self._together) * math.prod(each)
        share = np.divide(prior * may_be, each, out=np.zeros(len(order)), where=each > 0)
        total += apart
        result: FloatArray = (stuck + apart * share) / total if total > 0 else prior
        return result
