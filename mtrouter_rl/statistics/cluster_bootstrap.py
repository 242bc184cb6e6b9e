"""Means over episodes, and differences of two policies' means, with 95% intervals over (task, variation) and p-values.

A mean over episodes is a ratio of sums over clusters (their values over their episodes), so clusters may differ in size. All
quantities that are given together, such as score, cost and return, are worked out on the same resamples; so are all policies
with the same clusters (`mtrouter_rl.statistics.resamples`). Ends and p-values come from one set of studentised draws
(`mtrouter_rl.statistics.studentized`): percentile ends hold the truth too seldom where there are few clusters.
`scripts/bench/interval_coverage.py` measures both.

A p-value from n resamples is at least 2 / (n + 1). With the resamples of an interval that is too much for Holm's correction
over a hundred comparisons and more: nothing could pass, whatever the data say. So where few draws lie on the rarer side of 0,
more are drawn, enough for 2,500 comparisons at 5%. Intervals are not touched by it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import EpisodeKey, FloatArray, IntArray
from mtrouter_rl.statistics.estimate import Estimate, studentized_ends
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value
from mtrouter_rl.statistics.resamples import N_RESAMPLES, check_resamples, cluster_numbers
from mtrouter_rl.statistics.studentized import RatioSum

N_TEST_RESAMPLES = 100_000
"""Resamples behind a small p-value; the first of them are those of the interval."""
RETEST_BELOW = 0.01
"""A p-value that the resamples of the interval put below this is worked out again from `N_TEST_RESAMPLES`."""


@dataclass(frozen=True, kw_only=True)
class BootstrapMeans:
    """Means of K quantities over the same episodes, on the same resamples.

    Attributes:
        values: The means, shape (K,).
        draws: Studentised draws, shape (n_resamples, K); without rows if there are fewer than two clusters.
        n_episodes: Episodes (or pairs of episodes).
        n_clusters: (task, variation) clusters.
        more_draws: Column -> `N_TEST_RESAMPLES` draws of it, shape (n,); None if there are no more.
    """

    values: FloatArray
    draws: FloatArray
    n_episodes: int
    n_clusters: int
    more_draws: Callable[[int], FloatArray] | None = field(default=None, repr=False, compare=False)

    def estimate(self, column: int = 0) -> Estimate:
        """A mean with its interval."""
        low, high = studentized_ends(self.draws[:, column]) if len(self.draws) else (None, None)
        return Estimate(
            value=float(self.values[column]),
            low=low,
            high=high,
            n_episodes=self.n_episodes,
            n_clusters=self.n_clusters,
        )

    def estimates(self) -> tuple[Estimate, ...]:
        """All K."""
        return tuple(self.estimate(column) for column in range(len(self.values)))

    def p_value(self, column: int = 0) -> float | None:
        """Of "the mean is 0", two-sided: at least what a sign test of the clusters can reach, 2^(1 - clusters).

        With a handful of clusters every resample may lie on one side of 0, and the bootstrap alone would call that certain.
        A p-value below `RETEST_BELOW` is that of more draws: else it would say how many were drawn instead of how rare it is.
        None with fewer than two clusters.

        Source: Lehmann and Romano, Testing Statistical Hypotheses (2005), section 15.2 (randomization tests by sign changes,
        whose smallest two-sided p-value is this one). Taking it as a floor is ours. Drawing on where few draws were extreme:
        after Besag and Clifford, Sequential Monte Carlo p-Values (1991), here in two steps.
        """
        if not len(self.draws):
            return None
        least = 2.0 ** (1 - self.n_clusters)
        found = bootstrap_p_value(self.draws[:, column])
        if least < found < RETEST_BELOW and self.more_draws is not None:
            found = bootstrap_p_value(self.more_draws(column))
        return max(found, least)


def bootstrap_means(
    columns: Sequence[Sequence[float] | FloatArray],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> BootstrapMeans:
    """Means over episodes, whole clusters being resampled.

    Args:
        columns: For each of K quantities one finite number per episode, shape (n,).
        clusters: The cluster of each episode, length n; they can be sorted.
        seed: Seed of the resamples.
        n_resamples: Bootstrap resamples, at least 100.

    Raises:
        InvalidConfigError: If there are no values, one is not finite, lengths differ, or there are too few resamples.
    """
    check_resamples(n_resamples)
    arrays = [np.ascontiguousarray(column, dtype=np.float64) for column in columns]
    for array in arrays:
        _check(array, clusters)
    values = np.array([array.mean() for array in arrays])
    numbers = cluster_numbers(clusters)
    n_clusters = int(numbers.max()) + 1
    draws: FloatArray = np.empty((0, len(arrays)))
    if n_clusters >= 2:
        draws = np.concatenate([_draws(array, numbers, seed=seed, n_resamples=n_resamples) for array in arrays], axis=1)
    return BootstrapMeans(
        values=values,
        draws=draws,
        n_episodes=len(clusters),
        n_clusters=n_clusters,
        more_draws=partial(_more_draws, arrays, numbers, seed) if n_resamples < N_TEST_RESAMPLES else None,
    )


def mean_estimate(
    values: Sequence[float] | FloatArray, clusters: Sequence[Hashable], *, seed: int, n_resamples: int = N_RESAMPLES
) -> Estimate:
    """The mean of one quantity with its interval.

    Raises:
        InvalidConfigError: As `bootstrap_means`.
    """
    return bootstrap_means([values], clusters, seed=seed, n_resamples=n_resamples).estimate()


def episode_means(
    columns: Sequence[Mapping[EpisodeKey, float]], *, seed: int, n_resamples: int = N_RESAMPLES
) -> BootstrapMeans:
    """Means over episodes, clustered by (task, variation).

    Args:
        columns: For each quantity one number per episode, by (task, variation, seed); all have the same keys.
        seed: Seed of the resamples.
        n_resamples: Bootstrap resamples.

    Raises:
        InvalidConfigError: As `bootstrap_means`.
    """
    keys = list(columns[0])
    values = [[column[key] for key in keys] for column in columns]
    return bootstrap_means(values, [key[:2] for key in keys], seed=seed, n_resamples=n_resamples)


def paired_differences(
    columns: Sequence[Mapping[EpisodeKey, float]],
    baselines: Sequence[Mapping[EpisodeKey, float]],
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> BootstrapMeans:
    """Mean differences over the same episodes, clustered by (task, variation).

    Args:
        columns: For each quantity one number per episode of the policy in question, by (task, variation, seed).
        baselines: The same of the policy that it is compared with.
        seed: Seed of the resamples.
        n_resamples: Bootstrap resamples.

    Raises:
        InvalidConfigError: If the keys differ (names them), or as `bootstrap_means`.
    """
    for values, others in zip(columns, baselines, strict=True):
        unpaired = sorted(set(values) ^ set(others))
        if unpaired:
            shown = ", ".join(map(str, unpaired[:5])) + (", ..." if len(unpaired) > 5 else "")
            raise InvalidConfigError(
                f"{len(unpaired)} (task, variation, seed) have an episode of one policy only: {shown}; "
                "a paired difference needs both policies on the same episodes"
            )
    differences = [
        {key: value - others[key] for key, value in values.items()}
        for values, others in zip(columns, baselines, strict=True)
    ]
    return episode_means(differences, seed=seed, n_resamples=n_resamples)


def _more_draws(arrays: Sequence[FloatArray], numbers: IntArray, seed: int, column: int) -> FloatArray:
    return _draws(arrays[column], numbers, seed=seed, n_resamples=N_TEST_RESAMPLES)[:, 0]


def _draws(values: FloatArray, numbers: IntArray, *, seed: int, n_resamples: int) -> FloatArray:
    """Studentised draws of one mean, shape (n_resamples, 1).

    Every quantity is worked out alone, since sums of several may be rounded in another order than those of one.
    """
    if np.ptp(values) == 0:
        return np.full((n_resamples, 1), values.mean())  # not even a rounding apart
    sums, sizes = _cluster_sums(values, numbers), np.bincount(numbers).astype(np.float64)
    ratio = RatioSum(numerators=sums[:, None, None], denominators=sizes[:, None])
    return ratio.draws(seed=seed, n_resamples=n_resamples)


def _cluster_sums(values: FloatArray, numbers: IntArray) -> FloatArray:
    """Sum of every cluster, shape (C,); in the order of the values, so that no rounding depends on that of the episodes."""
    order = np.lexsort((values, numbers))
    return np.asarray(np.bincount(numbers[order], weights=values[order]), dtype=np.float64)


def _check(array: FloatArray, clusters: Sequence[Hashable]) -> None:
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
