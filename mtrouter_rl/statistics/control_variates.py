"""Takes known luck out of outcomes, so that their means are told more sharply.

A simulator knows what it drew and what it could have drawn. What was drawn above its expectation has mean 0 whatever the
policy does, so a multiple of it can be taken off every outcome without moving the expected mean. With the right multiple the
outcomes spread less.

Source: Owen, Monte Carlo Theory, Methods and Examples (2013), section 8.9 (control variates). The multiples of a fold come from
the other folds, so that the mean stays unbiased: Avramidis and Wilson, A Splitting Scheme for Control Variates (1993).
"""

from collections.abc import Hashable, Sequence

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.resamples import cluster_numbers

N_FOLDS = 5
_SMALLEST = 1e-9


def without_luck(
    outcomes: FloatArray, luck: FloatArray, clusters: Sequence[Hashable], *, n_folds: int = N_FOLDS
) -> FloatArray:
    """Outcomes without what luck explains of them, shape (n,).

    Args:
        outcomes: One number per episode, shape (n,).
        luck: Draws minus their expectations, each of mean 0, shape (n, C).
        clusters: The cluster of each episode, length n; they can be sorted. The clusters of a fold get the multiples that
            the other folds give; with fewer than two clusters nothing is taken off.
        n_folds: Folds of the clusters, at least 2.

    Raises:
        InvalidConfigError: If lengths differ, or there are fewer than two folds.

    Example:
        >>> luck = np.array([[-1.0], [1.0], [1.0], [-1.0]])
        >>> without_luck(5 + 2 * luck[:, 0], luck, ["a", "b", "c", "d"], n_folds=2)
        array([5., 5., 5., 5.])
    """
    if not len(outcomes) == len(luck) == len(clusters):
        raise InvalidConfigError(
            f"there are {len(outcomes)} outcomes, luck of {len(luck)} and {len(clusters)} clusters; each needs one per episode"
        )
    if n_folds < 2:
        raise InvalidConfigError(f"n_folds is {n_folds}, must be at least 2")
    if not len(outcomes):
        return outcomes
    folds = cluster_numbers(clusters) % n_folds
    cleaned = outcomes.astype(np.float64)
    for fold in np.unique(folds):
        inside = folds == fold
        if not inside.all():
            cleaned[inside] -= luck[inside] @ _multiples(outcomes[~inside], luck[~inside])
    return cleaned


def _multiples(outcomes: FloatArray, luck: FloatArray) -> FloatArray:
    """Least squares with an intercept, shape (C,); 0 for luck that never varied."""
    centred = luck - luck.mean(axis=0)
    varies = centred.std(axis=0) > _SMALLEST
    multiples = np.zeros(luck.shape[1])
    if varies.any():
        multiples[varies] = np.linalg.lstsq(centred[:, varies], outcomes - outcomes.mean(), rcond=None)[0]
    return multiples
