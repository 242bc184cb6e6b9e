"""The one source of bootstrap resamples: how often every cluster is drawn, told by a seed and the number of clusters alone.

Episodes of one variation that differ in the seed only are alike: they share the task's rooms and its solution. Counting them as
independent makes intervals too narrow, so whole (task, variation) clusters are resampled, with all their episodes.

Clusters are sorted before they are numbered. So the resamples of a policy depend on the seed and on the set of its clusters:
not on the order of its episodes, nor on the policies beside it. Whatever has the same clusters is resampled alike: score, cost
and return of a row, both sides of a difference, and all points of a hull.

The draw is not stratified by task. Splits hold few variations per task, often one or two; resampling inside such a
stratum shrinks the variance (to nothing with one variation), and the interval would be too narrow. Unstratified, the
interval also holds the spread between tasks: it is wider, and speaks of tasks like these.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8 (clusters).
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray, IntArray

N_RESAMPLES = 4000
_LEAST_RESAMPLES = 100
_LEVEL = 0.05
_STREAM = 7
"""Keeps the draws apart from others of the same seed."""
_BLOCK = 200
"""Resamples that are drawn at once, at most."""
_MAX_BLOCK_CELLS = 2_000_000
"""Resamples times clusters that are drawn at once, at most, as long as it is one resample."""
_MAX_KEPT_CELLS = 1_000_000
"""Counts of up to as many resamples times clusters are kept for the next row; larger ones are drawn again."""


def cluster_numbers(clusters: Sequence[Hashable]) -> IntArray:
    """Place of every episode's cluster among the sorted clusters, shape (n,).

    Example:
        >>> cluster_numbers([("melt", 0), ("boil", 10), ("boil", 2), ("melt", 0)]).tolist()
        [2, 1, 0, 2]
    """
    distinct: set[Any] = set(clusters)
    numbers = {cluster: number for number, cluster in enumerate(sorted(distinct))}
    return np.array([numbers[cluster] for cluster in clusters], dtype=np.int64)


def check_resamples(n_resamples: int) -> None:
    """Refuse too few resamples for a 95% interval.

    Raises:
        InvalidConfigError: If there are fewer than 100.
    """
    if n_resamples < _LEAST_RESAMPLES:
        raise InvalidConfigError(
            f"n_resamples is {n_resamples}, must be at least {_LEAST_RESAMPLES}: a 95% interval needs draws beyond its ends"
        )


def enough_resamples(n_comparisons: int, *, at_least: int = N_RESAMPLES) -> int:
    """Resamples with which Holm's correction over so many comparisons can find something at 5%.

    The least p-value of n resamples is 2 / (n + 1). Times the number of comparisons it has to stay below 5%, or nothing could
    pass, whatever the data say.

    Args:
        n_comparisons: P-values that are corrected together.
        at_least: Resamples that are drawn anyway; the result is a multiple of it.

    Example:
        >>> enough_resamples(100), enough_resamples(276)
        (4000, 12000)
    """
    n_needed = 2 * n_comparisons / _LEVEL
    return at_least * max(1, math.ceil(n_needed / at_least))


def resample_counts(n_clusters: int, *, seed: int, n_resamples: int = N_RESAMPLES) -> Iterator[FloatArray]:
    """How often every cluster is drawn in each resample of C out of C; in blocks of shape (R, C), to bound memory.

    Args:
        n_clusters: C.
        seed: Equal seeds give equal counts; the first resamples are the same however many are asked for.
        n_resamples: How many in all blocks together.
    """
    is_small = n_clusters * n_resamples <= _MAX_KEPT_CELLS
    return iter((_kept if is_small else _blocks)(n_clusters, seed, n_resamples))


def all_counts(n_clusters: int, *, seed: int, n_resamples: int = N_RESAMPLES) -> FloatArray:
    """The blocks of `resample_counts` in one array, shape (n_resamples, C)."""
    return np.concatenate(list(resample_counts(n_clusters, seed=seed, n_resamples=n_resamples)))


@lru_cache(maxsize=8)
def _kept(n_clusters: int, seed: int, n_resamples: int) -> tuple[FloatArray, ...]:
    blocks = tuple(_blocks(n_clusters, seed, n_resamples))
    for block in blocks:
        block.flags.writeable = False
    return blocks


def _blocks(n_clusters: int, seed: int, n_resamples: int) -> Iterator[FloatArray]:
    rng = np.random.default_rng([_STREAM, seed, n_clusters])
    block = max(1, min(_BLOCK, _MAX_BLOCK_CELLS // n_clusters))
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(n_clusters, size=(size, n_clusters)) + n_clusters * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_clusters)
        yield counts.reshape(size, n_clusters).astype(np.float64)
