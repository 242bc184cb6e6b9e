"""Whether a log speaks of a policy: effective sample size, support, overlap, choices that were never logged, weight tails.

Source: Kish, Survey Sampling (1965): effective sample size; Vehtari, Simpson, Gelman, Yao and Gabry, Pareto Smoothed Importance
Sampling (2024): the tail of the weights as a sign of whether estimates by them, and their intervals, may be believed; Zhang and
Stephens, A New and Efficient Estimation Method for the Generalized Pareto Distribution (2009): the fit of the tail.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.trajectory_arrays import TurnLog, WeightedTurns, check_probabilities, importance_ratios
from mtrouter_rl.records import FloatArray

MIN_SUPPORT = 0.02
"""A model that the behaviour policy calls with a smaller probability in a state counts as unsupported there."""
MAX_PARETO_K = 0.7
"""Above it, means by these weights converge too slowly to be believed at any number of episodes that one has."""
WEIGHT_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_LEAST_TAIL = 5
"""Weights that a tail is fitted to, at least."""


@dataclass(frozen=True, kw_only=True)
class OpeDiagnosis:
    """Whether the log speaks of the policy. Turns are 0..T-1, T those of the longest episode.

    Attributes:
        effective_sample_size: (sum W)^2 / sum W^2 of the whole-episode weights, of E episodes.
        effective_by_turn: The same of W_it, shape (T,).
        episodes_by_turn: Episodes that reach every turn, shape (T,).
        support_by_turn: Probability that the policy chooses a model that the behaviour policy calls with at least the least
            support there, mean over the logged states of the turn, shape (T,); None if the behaviour policy is unknown.
        overlap_by_turn: sum_m min(pi, b), 1 where the policy is the behaviour policy and 0 where they have no model in
            common, mean over the logged states of the turn, shape (T,); None likewise.
        never_logged_share: Probability that the policy chooses a model that was not called in any logged turn of the same
            kind of state, mean over the logged turns.
        largest_weight_share: Share of the largest whole-episode weight in their sum; 1 if all are 0.
        weight_quantiles: `WEIGHT_QUANTILES` of the whole-episode weights, divided by their mean, so that 1 is an even
            share, shape (4,); None if all are 0.
        pareto_k: Shape of the tail of the whole-episode weights: means by them have a variance only below 0.5, and are
            not to be believed above `MAX_PARETO_K`; None if there is no tail (fewer than five weights stand out).
    """

    effective_sample_size: float
    effective_by_turn: FloatArray
    episodes_by_turn: npt.NDArray[np.int64]
    support_by_turn: FloatArray | None
    overlap_by_turn: FloatArray | None
    never_logged_share: float
    largest_weight_share: float
    weight_quantiles: FloatArray | None
    pareto_k: float | None


def diagnose(
    log: TurnLog,
    probabilities: FloatArray,
    *,
    behavior: FloatArray | None = None,
    kinds: npt.NDArray[np.int64] | None = None,
    min_support: float = MIN_SUPPORT,
) -> OpeDiagnosis:
    """How much the log says of a policy.

    Args:
        log: The logged turns, with propensities.
        probabilities: The policy's probability of every model at every logged state, shape (N, M); rows sum to 1.
        behavior: The same of the behaviour policy; None leaves out what needs it.
        kinds: Number of the kind of state of every turn, shape (N,); None takes the cluster together with the turn's
            bucket (0, 1-2, 3-6, 7-14, ...).
        min_support: Least behaviour probability that counts as support, in (0, 1].

    Raises:
        InvalidConfigError: If probabilities are no distributions, a shape is wrong, or the log has no propensities.
    """
    masks = np.ones((len(log.actions), log.n_models), dtype=bool)
    check_probabilities(probabilities, masks)
    if behavior is not None:
        check_probabilities(behavior, masks, name="behaviour probabilities")
    if kinds is not None and kinds.shape != log.actions.shape:
        raise InvalidConfigError(f"kinds have shape {kinds.shape}, must be {log.actions.shape}: one number per turn")
    weights = WeightedTurns.of(log, importance_ratios(log, probabilities)).weights
    last = weights[:, -1]
    total = float(last.sum())
    supported = None if behavior is None else (probabilities * (behavior >= min_support)).sum(axis=1)
    common = None if behavior is None else np.minimum(probabilities, behavior).sum(axis=1)
    return OpeDiagnosis(
        effective_sample_size=_effective(last),
        effective_by_turn=np.array([_effective(column) for column in weights.T]),
        episodes_by_turn=np.bincount(log.turns),
        support_by_turn=None if supported is None else _by_turn(log, supported),
        overlap_by_turn=None if common is None else _by_turn(log, common),
        never_logged_share=_never_logged(log, probabilities, _default_kinds(log) if kinds is None else kinds),
        largest_weight_share=float(last.max() / total) if total > 0 else 1.0,
        weight_quantiles=np.quantile(last, WEIGHT_QUANTILES) * len(last) / total if total > 0 else None,
        pareto_k=pareto_k(last),
    )


def _effective(weights: FloatArray) -> float:
    """Effective sample size (sum W)^2 / sum W^2; 0 if every weight is 0."""
    largest = float(weights.max())
    if largest <= 0:
        return 0.0
    scaled = weights / largest  # products of many ratios are huge: their squares would overflow
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def _by_turn(log: TurnLog, values: FloatArray) -> FloatArray:
    """Mean of numbers of the logged turns, shape (N,), by turn."""
    means: FloatArray = np.bincount(log.turns, weights=values) / np.bincount(log.turns)
    return means


def _default_kinds(log: TurnLog) -> npt.NDArray[np.int64]:
    buckets = np.floor(np.log2(log.turns + 1)).astype(np.int64)
    kinds: npt.NDArray[np.int64] = np.repeat(log.clusters, log.lengths) * (buckets.max() + 1) + buckets
    return kinds


def _never_logged(log: TurnLog, probabilities: FloatArray, kinds: npt.NDArray[np.int64]) -> float:
    numbers = np.unique(kinds, return_inverse=True)[1]
    is_logged = np.zeros((int(numbers.max()) + 1, log.n_models), dtype=bool)
    is_logged[numbers, log.actions] = True
    return float((probabilities * ~is_logged[numbers]).sum(axis=1).mean())


def pareto_k(weights: FloatArray) -> float | None:
    """Shape k of the generalised Pareto distribution of the largest of n weights, shape (n,).

    The tail are the ceil(min(n / 5, 3 sqrt(n))) largest weights, as far as they exceed the next one. The fit is drawn to 0.5
    as if by ten more weights, as in Pareto smoothed importance sampling; see the module for the sources.

    Returns:
        k, or None if fewer than five weights exceed the rest.
    """
    largest = float(weights.max())
    if largest <= 0:
        return None
    ordered = np.sort(weights / largest)
    n_tail = min(int(np.ceil(min(len(ordered) / 5, 3 * np.sqrt(len(ordered))))), len(ordered) - 1)
    excesses = ordered[len(ordered) - n_tail :] - ordered[len(ordered) - n_tail - 1]
    excesses = excesses[excesses > 0]
    n = len(excesses)
    if n < _LEAST_TAIL:
        return None
    return (n * _pareto_shape(excesses) + 10 * 0.5) / (n + 10)


def _pareto_shape(excesses: FloatArray) -> float:
    """Shape of a generalised Pareto distribution, for ascending numbers above 0: a mean over the profile likelihood.

    With theta = -k / sigma the likelihood is largest at k(theta) = mean log(1 - theta x), and is then
    n (log(-theta / k) - k - 1); theta is averaged over a grid, weighed by it.
    """
    n = len(excesses)
    n_grid = 30 + int(np.sqrt(n))
    quartile = excesses[int(n / 4 + 0.5) - 1]
    steps = np.arange(1, n_grid + 1) - 0.5
    theta = 1 / excesses[-1] + (1 - np.sqrt(n_grid / steps)) / (3 * quartile)
    shapes = np.log1p(-theta[:, None] * excesses).mean(axis=1)
    likelihoods = n * (np.log(-theta / shapes) - shapes - 1)
    posterior = np.exp(likelihoods - likelihoods.max())
    mean = float((theta * posterior).sum() / posterior.sum())
    return float(np.log1p(-mean * excesses).mean())
