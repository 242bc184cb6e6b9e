"""Bootstrap confidence intervals for means over episodes, clustered by (task, variation).

Episodes of one variation that differ in the seed only are alike: they share the task's rooms and its solution. Counting
them as independent makes intervals too narrow, so whole variations (clusters) are resampled, with all their episodes.

The draw is not stratified by task. Splits hold few variations per task, often one or two; resampling inside such a
stratum shrinks the variance (to nothing with one variation), and the interval would be too narrow. Unstratified, the
interval also holds the spread between tasks: it is wider, and speaks of tasks like these.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 (clusters) and 5.3
(percentile).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import EpisodeKey, FloatArray

N_RESAMPLES = 4000
CONFIDENCE = 0.95
_MAX_CELLS = 4_000_000
"""Resamples times clusters that are held in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: The sample's mean.
        low: Lower end of the interval; None with fewer than two clusters, from which no spread can be told.
        high: Upper end, likewise.
        n_episodes: Episodes (or pairs of episodes) behind it.
        n_clusters: (task, variation) clusters behind it.
    """

    mean: float
    low: float | None
    high: float | None
    n_episodes: int
    n_clusters: int

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0

    @property
    def ends(self) -> tuple[float, float] | None:
        """(low, high), or None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class BootstrapMean:
    """A mean's interval with the draws that it was read off, so that a p-value can be read off the same ones.

    Attributes:
        interval: The interval.
        draws: Resampled means, shape (n_resamples,); empty with fewer than two clusters.
    """

    interval: Interval
    draws: FloatArray


def clustered_bootstrap(
    values: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> BootstrapMean:
    """Percentile bootstrap interval of a mean, and its draws; whole clusters are drawn with replacement.

    Every resample's mean is the sum of its values over the number of its values, so clusters may differ in size.

    Args:
        values: One finite number per episode, shape (n,).
        clusters: The cluster of each, length n.
        rng: Source of the draws; the same state gives the same interval.
        n_resamples: Bootstrap resamples, at least 100.
        confidence: Probability mass of the interval, in (0, 1).

    Raises:
        InvalidConfigError: If there are no values, one is not finite, lengths differ, or a setting is out of range.
    """
    array = np.asarray(values, dtype=float)
    _check(array, clusters, n_resamples=n_resamples, confidence=confidence)
    labels = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    index = np.array([labels[cluster] for cluster in clusters])
    sums = np.asarray(np.bincount(index, weights=array), dtype=np.float64)
    counts = np.bincount(index).astype(np.float64)
    low: float | None = None
    high: float | None = None
    draws: FloatArray = np.empty(0)
    if len(labels) >= 2:
        draws = _resampled_means(sums, counts, rng=rng, n_resamples=n_resamples)
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    interval = Interval(mean=float(array.mean()), low=low, high=high, n_episodes=len(array), n_clusters=len(labels))
    return BootstrapMean(interval=interval, draws=draws)


def clustered_mean_interval(
    values: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The interval of `clustered_bootstrap`, without its draws.

    Raises:
        InvalidConfigError: As `clustered_bootstrap`.
    """
    return clustered_bootstrap(values, clusters, rng=rng, n_resamples=n_resamples, confidence=confidence).interval


def mean_interval(
    values: Mapping[EpisodeKey, float],
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of a mean over episodes, clustered by (task, variation).

    Args:
        values: One number per episode, by (task, variation, seed).
        rng: Source of the draws.
        n_resamples: Bootstrap resamples.
        confidence: Probability mass of the interval.

    Raises:
        InvalidConfigError: As `clustered_bootstrap`.
    """
    return clustered_mean_interval(
        list(values.values()), [key[:2] for key in values], rng=rng, n_resamples=n_resamples, confidence=confidence
    )


def wilson_interval(n_events: int, n_trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Score interval of a share, for few trials and shares near 0 or 1; None without trials.

    It takes trials as independent: for turns of one episode it is too narrow.

    Args:
        n_events: Trials in which the event happened.
        n_trials: All trials.
        confidence: Probability mass of the interval.

    Raises:
        InvalidConfigError: If there are more events than trials, or fewer than none.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927); recommended for small
    numbers by Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion (2001).

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    if not 0 <= n_events <= n_trials:
        raise InvalidConfigError(f"n_events is {n_events} and n_trials {n_trials}; must be 0 <= n_events <= n_trials")
    if not n_trials:
        return None
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = n_events / n_trials, quantile**2 / n_trials
    center = (share + weight / 2) / (1 + weight)
    half = quantile / (1 + weight) * math.sqrt(share * (1 - share) / n_trials + weight / (4 * n_trials))
    # exact where rounding would leave 1e-17
    return center - half if n_events else 0.0, center + half if n_events < n_trials else 1.0


def paired_difference(
    values: Mapping[EpisodeKey, float],
    baseline: Mapping[EpisodeKey, float],
    *,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> BootstrapMean:
    """Interval and draws of the mean difference `values - baseline` over the same episodes, clustered by (task, variation).

    Args:
        values: One number per episode of the policy in question, by (task, variation, seed).
        baseline: The same of the policy that it is compared with.
        rng: Source of the draws.
        n_resamples: Bootstrap resamples.
        confidence: Probability mass of the interval.

    Raises:
        InvalidConfigError: If the keys differ (names them), or as `clustered_bootstrap`.
    """
    unpaired = sorted(set(values) ^ set(baseline))
    if unpaired:
        shown = ", ".join(map(str, unpaired[:5])) + (", ..." if len(unpaired) > 5 else "")
        raise InvalidConfigError(
            f"{len(unpaired)} (task, variation, seed) have an episode of one policy only: {shown}; "
            "a paired difference needs both policies on the same episodes"
        )
    differences = [value - baseline[key] for key, value in values.items()]
    clusters = [key[:2] for key in values]
    return clustered_bootstrap(differences, clusters, rng=rng, n_resamples=n_resamples, confidence=confidence)


def _check(array: FloatArray, clusters: Sequence[Hashable], *, n_resamples: int, confidence: float) -> None:
    if array.ndim != 1 or len(array) != len(clusters) or not len(array):
        raise InvalidConfigError(
            f"values have shape {array.shape} and there are {len(clusters)} clusters; "
            "give one cluster per value, at least 1"
        )
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidConfigError(
            f"value {first} (cluster {clusters[first]!r}) is {array[first]}, must be finite; "
            "a missing score is no number"
        )
    if n_resamples < 100:
        raise InvalidConfigError(f"n_resamples is {n_resamples}, must be at least 100 for a 95% percentile")
    if not 0 < confidence < 1:
        raise InvalidConfigError(f"confidence is {confidence}, must be in (0, 1), such as 0.95")


def _resampled_means(sums: FloatArray, counts: FloatArray, *, rng: np.random.Generator, n_resamples: int) -> FloatArray:
    """Means of `n_resamples` draws of C clusters out of C, shape (n_resamples,); in blocks, to bound memory."""
    n_clusters = len(sums)
    uniform = np.full(n_clusters, 1 / n_clusters)
    block = max(1, _MAX_CELLS // n_clusters)
    means = []
    for start in range(0, n_resamples, block):
        drawn = rng.multinomial(n_clusters, uniform, size=min(block, n_resamples - start))
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)
