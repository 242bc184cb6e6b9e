"""Who is stuck: a belief about every model at every kind of action, by Bayes' rule.

A model that failed at a thing fails at it again more often than others do. The belief is the mixture of two cases: with a
small prior probability a model cannot do what is due, in this episode, however often it is called; else it succeeds as often
as it usually does. Every useless call makes the first case likelier. When somebody does what is due, the next thing of that
kind begins with the prior again. Beliefs are kept by kind, so that a detour of another kind does not make them forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import FloatArray

PRIORS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3)
"""Prior probabilities of being stuck among which the log chooses."""

_SHARPNESS = 2.0
_SUREST = 0.97
_TINY = 1e-4


def sharpened(due: FloatArray) -> FloatArray:
    """Weights of the kinds in a belief: the squared probabilities, normalised, shape (..., K)."""
    powers = due**_SHARPNESS
    weights: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
    return weights


@dataclass(frozen=True, kw_only=True)
class StuckBelief:
    """Log-odds of every model to be stuck at every kind, shape (M, K), and the prior's."""

    log_odds: FloatArray
    prior: float

    @classmethod
    def start(cls, *, n_models: int, n_kinds: int, prior: float) -> "StuckBelief":
        """Before the first turn of an episode."""
        return cls(log_odds=np.full((n_models, n_kinds), _log_odds(prior)), prior=prior)

    def chances(self, weights: FloatArray) -> FloatArray:
        """Probability of every model to be stuck where kinds are due with these weights, shape (M,)."""
        probabilities: FloatArray = (1 / (1 + np.exp(-self.log_odds))) @ weights
        return probabilities

    def after(self, model: int, *, weights: FloatArray, use: float, success: float) -> "StuckBelief":
        """The belief after a turn.

        Args:
            model: Who was called.
            weights: Of the kinds that were due, shape (K,).
            use: Agreement of the turn with what was due, in [0, 1].
            success: How often that model does what is due there, as long as nobody asks whether it is stuck.
        """
        log_odds = self.log_odds.copy()
        log_odds[model] -= weights * (1 - use) * np.log1p(-unstuck(success, self.prior))
        log_odds -= (log_odds - _log_odds(self.prior)) * np.minimum(use * weights, 1.0)
        return StuckBelief(log_odds=log_odds, prior=self.prior)


def unstuck(success: float | FloatArray, prior: float) -> FloatArray:
    """How often a model succeeds that is not stuck, from how often it does in all."""
    return np.minimum(np.asarray(success) / (1 - prior), _SUREST)


def _log_odds(prior: float) -> float:
    return float(np.log(prior / (1 - prior)))


def chances_of_log(
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    success: FloatArray,
    starts: npt.NDArray[np.bool_],
    *,
    prior: float,
) -> FloatArray:
    """Probability of every model to be stuck before every turn of a log, shape (N, M).

    Args:
        due: Probability of every kind before every turn, shape (N, K).
        actions: Who was called, shape (N,).
        use: See `StuckBelief.after`, shape (N,).
        success: Likewise, of every model, shape (N, M).
        starts: True at the first turn of every episode, shape (N,).
        prior: Prior probability.
    """
    weights = sharpened(due)
    chances = np.empty_like(success)
    belief = fresh = StuckBelief.start(n_models=success.shape[1], n_kinds=due.shape[1], prior=prior)
    for turn, model in enumerate(actions.tolist()):
        if starts[turn]:
            belief = fresh
        chances[turn] = belief.chances(weights[turn])
        belief = belief.after(model, weights=weights[turn], use=float(use[turn]), success=float(success[turn, model]))
    return chances


def likeliest_prior(
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    success: FloatArray,
    starts: npt.NDArray[np.bool_],
    *,
    candidates: Sequence[float] = PRIORS,
) -> float:
    """The prior under which the log's turns were likeliest to be of as much use as they were; arguments as `chances_of_log`."""
    rows = np.arange(len(actions))
    likelihoods = []
    for prior in candidates:
        free = 1 - chances_of_log(due, actions, use, success, starts, prior=prior)[rows, actions]
        expected = np.clip(free * unstuck(success[rows, actions], prior), _TINY, 1 - _TINY)
        likelihoods.append(float(np.mean(use * np.log(expected) + (1 - use) * np.log(1 - expected))))
    return candidates[int(np.argmax(likelihoods))]
