"""Who is stuck: a belief about every model at every kind of action, by Bayes' rule.

A model that failed at a thing fails at it again more often than others do. The belief is the mixture of two cases: with a
small prior probability a model cannot do what is due, in this episode, however often it is called; else it succeeds as often
as it usually does. Every useless call makes the first case likelier. When somebody does what is due, the next thing of that
kind begins with the prior again. Beliefs are kept by kind, so that a detour of another kind does not make them forgotten.

Some things stop all models alike: a door that nobody can open. So a second belief, that all are stuck together, is fed by the
useless calls of every model. The log tells how much of stuckness is of that sort.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import FloatArray

PRIORS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)
"""Prior probabilities of being stuck among which the log chooses."""
TOGETHER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of stuckness that all models have in common, likewise."""

_SHARPNESS = 2.0
_SUREST = 0.97
_TINY = 1e-4
_TURNS_PER_BLOCK = 8192


def sharpened(due: FloatArray) -> FloatArray:
    """Weights of the kinds in a belief: the squared probabilities, normalised, shape (..., K)."""
    powers = due**_SHARPNESS
    weights: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return weights


def _probabilities(log_odds: FloatArray) -> FloatArray:
    probabilities: FloatArray = 1 / (1 + np.exp(-log_odds))
    return probabilities


@dataclass(frozen=True, kw_only=True)
class Stuckness:
    """How models get stuck: of one case, or of several cases at once, shape (...).

    Attributes:
        prior: Prior probability of being stuck.
        together: How much of it all models have in common, in [0, 1].
    """

    prior: FloatArray
    together: FloatArray

    @classmethod
    def of(cls, prior: float | Sequence[float], together: float | Sequence[float]) -> "Stuckness":
        """From numbers, or from sequences of one length."""
        return cls(prior=np.asarray(prior, dtype=np.float64), together=np.asarray(together, dtype=np.float64))

    @property
    def log_odds(self) -> FloatArray:
        """Of the prior, shape (..., 1, 1)."""
        odds: FloatArray = np.log(self.prior / (1 - self.prior))[..., None, None]
        return odds

    def unstuck(self, success: FloatArray) -> FloatArray:
        """How often a model succeeds that is not stuck, from how often it does in all: shapes (B,) -> (..., B)."""
        return np.minimum(success / (1 - self.prior[..., None]), _SUREST)


@dataclass(frozen=True, kw_only=True)
class StuckBelief:
    """Log-odds of every model to be stuck at every kind, and in the last row of all of them together, shape (..., M + 1, K)."""

    log_odds: FloatArray
    stuckness: Stuckness

    @classmethod
    def start(cls, stuckness: Stuckness, *, n_models: int, n_kinds: int) -> "StuckBelief":
        """Before the first turn of an episode."""
        return cls(log_odds=stuckness.log_odds + np.zeros((n_models + 1, n_kinds)), stuckness=stuckness)

    def chances(self, weights: FloatArray) -> FloatArray:
        """Probability of every model to be stuck where kinds are due with these weights, shape (..., M)."""
        probabilities = _probabilities(self.log_odds) @ weights
        together = self.stuckness.together[..., None]
        chances: FloatArray = together * probabilities[..., -1:] + (1 - together) * probabilities[..., :-1]
        return chances

    def alone_and_together(self, model: int, weights: FloatArray) -> FloatArray:
        """Probability that one model is stuck by itself, and that all are stuck together, shape (..., 2)."""
        chances: FloatArray = _probabilities(self.log_odds[..., [model, -1], :]) @ weights
        return chances

    def after(self, model: int, *, weights: FloatArray, use: float, success: float) -> "StuckBelief":
        """The belief after a turn.

        Args:
            model: Who was called.
            weights: Of the kinds that were due, shape (K,).
            use: Agreement of the turn with what was due, in [0, 1].
            success: How often that model does what is due there, as long as nobody asks whether it is stuck.
        """
        log_odds = self.log_odds.copy()
        failed = (1 - use) * np.log1p(-self.stuckness.unstuck(np.array([success])))
        log_odds[..., [model, -1], :] -= (failed * weights)[..., None, :]
        log_odds -= (log_odds - self.stuckness.log_odds) * np.minimum(use * weights, 1.0)
        return StuckBelief(log_odds=log_odds, stuckness=self.stuckness)


def chances_of_log(
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    success: FloatArray,
    starts: npt.NDArray[np.bool_],
    stuckness: Stuckness,
) -> FloatArray:
    """Probability of every model to be stuck before every turn of a log, shape (N, ..., M).

    Args:
        due: Probability of every kind before every turn, shape (N, K).
        actions: Who was called, shape (N,).
        use: See `StuckBelief.after`, shape (N,).
        success: Likewise, of every model, shape (N, M).
        starts: True at the first turn of every episode, shape (N,).
        stuckness: One case or several.
    """
    chances = np.empty((len(success), *stuckness.prior.shape, success.shape[1]))
    for turn, (belief, weights) in enumerate(_beliefs(due, actions, use, success, starts, stuckness)):
        chances[turn] = belief.chances(weights)
    return chances


def _beliefs(
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    success: FloatArray,
    starts: npt.NDArray[np.bool_],
    stuckness: Stuckness,
) -> Iterator[tuple[StuckBelief, FloatArray]]:
    """The belief before every turn of a log, and the weights of the kinds there. Arguments as of `chances_of_log`."""
    weights = sharpened(due)
    belief = fresh = StuckBelief.start(stuckness, n_models=success.shape[1], n_kinds=due.shape[1])
    for turn, model in enumerate(actions.tolist()):
        if starts[turn]:
            belief = fresh
        yield belief, weights[turn]
        belief = belief.after(model, weights=weights[turn], use=float(use[turn]), success=float(success[turn, model]))


def likeliest(
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    success: FloatArray,
    starts: npt.NDArray[np.bool_],
    *,
    priors: Sequence[float] = PRIORS,
    together: Sequence[float] = TOGETHER,
) -> Stuckness:
    """The prior and the share under which the log's turns were likeliest to be of as much use as they were.

    Models are taken to be stuck each by itself, unless the log says otherwise by more than a parameter more explains anyway.
    Arguments as of `chances_of_log`.

    Source: Schwarz, Estimating the Dimension of a Model (1978), for the penalty.
    """
    cases = Stuckness.of(*zip(*product(priors, together), strict=True))
    # Beliefs do not depend on the share, only what is made of them does.
    by_prior = Stuckness.of(priors, [0.0] * len(priors))
    shares = np.asarray(together, dtype=np.float64)
    gained = np.zeros(cases.prior.shape)
    for some in _blocks(starts):
        rows, called = np.arange(len(actions[some])), actions[some].tolist()
        beliefs = _beliefs(due[some], actions[some], use[some], success[some], starts[some], by_prior)
        turns = zip(called, beliefs, strict=True)
        found = np.array([belief.alone_and_together(model, weights) for model, (belief, weights) in turns])
        chances = shares * found[..., 1:] + (1 - shares) * found[..., :1]
        free = 1 - chances.reshape(len(rows), -1)
        expected = np.clip(free * cases.unstuck(success[some][rows, actions[some]]).T, _TINY, 1 - _TINY)
        useful = use[some][:, None]
        gained += (useful * np.log(expected) + (1 - useful) * np.log(1 - expected)).sum(axis=0)
    best = int(np.argmax(gained - np.where(cases.together > 0, np.log(len(actions)) / 2, 0.0)))
    return Stuckness.of(float(cases.prior[best]), float(cases.together[best]))


def _blocks(starts: npt.NDArray[np.bool_]) -> list[slice]:
    """The turns in blocks of whole episodes, so that the cases are never laid out for a whole log."""
    edges = [0]
    for start in np.flatnonzero(starts).tolist():
        if start - edges[-1] >= _TURNS_PER_BLOCK:
            edges.append(start)
    return [slice(first, last) for first, last in zip(edges, [*edges[1:], len(starts)], strict=True)]
