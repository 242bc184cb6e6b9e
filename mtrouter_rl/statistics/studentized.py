"""Studentised cluster bootstrap of estimates that are sums of ratios of sums over episodes.

A mean over episodes of clusters that differ in size is one ratio of sums; an estimator that weighs logged episodes is a sum of
one or more. Scores lie in heaps at both ends, costs are skewed, weights are heavy-tailed: a sample that happened not to draw
the few episodes that decide looks too sure. So a percentile interval is too short, and on one side, most with few clusters.
Instead, every resample's distance from the estimate is measured in standard errors of that resample, t* = (v* - v) / s*, and
laid off from the estimate in its own standard errors, on the other side (bootstrap-t):

    draw = v - c s t*,   c = t_nu(0.975) / z(0.975),

whose 2.5% and 97.5% quantiles are the ends of the interval, and whose differences between two policies on the same resamples
serve differences. Deviations from the plain bootstrap-t, each of which was measured:

* s is the jackknife's standard error (leave out one cluster), s* the linearised one, which is cheaper and a little smaller;
* c widens for the chance of s itself: nu = 2 / (sum z^4 / (sum z^2)^2 - 1/C), but C - 1 at most, are Satterthwaite's degrees
  of freedom of a variance, z the influences of the C clusters;
* s* counts as at least s / 3: where a resample's weight lies on a handful of clusters it is next to nothing, and t* endless.

Measured on made-up scores, costs, returns and differences of 12, 24 and 73 clusters (`scripts/bench/interval_coverage.py`,
1,000 studies each), share of 95% intervals that hold the exact mean: 92.7 to 97.5%, percentile 83 to 95%. With s / 2 as the
least s* and without the limit C - 1, scores of which most are 100 came to 89% with 12 clusters of 1 to 5 episodes. Scores of
which most are -100 and hardly any is 100 have too wide intervals, 97.6 to 99.2% with 12 and 24 clusters: there the spread hangs
on the mean, which makes t* long-tailed. A larger or a smoother least s* mends that and breaks the others (costs to 91%);
cutting t* off at 3 does not mend it.

Measured with s / 2 on the random tabular tasks of `mtrouter_rl.studies.ope_coverage` (three tasks, 3 turns, 200 episodes, 500
logs each, effective samples of 50 to 70 episodes): percentile 88 to 93% for IS, 89 to 90% for WIS, 90 to 93% for PDIS;
BCa 90 to 94%; normal with the jackknife's error 88 to 94%; bootstrap-t 91 to 95%; with c 94% of IS, WIS and PDIS, and 93 to 96%
of the others (one task). `scripts/bench/ope_coverage.py` measures it anew.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 11 (jackknife) and 12.5 (bootstrap-t);
Satterthwaite, An Approximate Distribution of Estimates of Variance Components (1946); Davison and Hinkley, Bootstrap Methods
and their Application (1997), section 3.8 (clusters).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import CONFIDENCE
from mtrouter_rl.statistics.resamples import N_RESAMPLES, resample_counts

LEAST_ERROR = 1 / 3
"""Least standard error of a resample, as a share of that of the sample."""
_LEAST_FREEDOM = 2.0
_LEAST_REST = 1e-9
"""A cluster that leaves less than this share of a term's weight to the others cannot be left out of it."""


@dataclass(frozen=True, kw_only=True)
class RatioSum:
    """sum_f (sum_c numerators_cf) / (sum_c denominators_cf): F terms over C clusters, for K quantities at once.

    Attributes:
        numerators: Shape (C, F, K).
        denominators: At least 0, shape (C, F); a term whose denominators are all 0 counts as 0.
    """

    numerators: FloatArray
    denominators: FloatArray

    @classmethod
    def of_episodes(
        cls, numerators: FloatArray, denominators: FloatArray, clusters: npt.NDArray[np.int64]
    ) -> "RatioSum":
        """Sum numbers of episodes, shapes (E, F, K) and (E, F), by their clusters, shape (E,)."""
        numbers = np.unique(clusters, return_inverse=True)[1]
        n_clusters = int(numbers.max()) + 1
        by_cluster = np.zeros((n_clusters, *numerators.shape[1:]))
        np.add.at(by_cluster, numbers, numerators)
        weights = np.zeros((n_clusters, denominators.shape[1]))
        np.add.at(weights, numbers, denominators)
        return cls(numerators=by_cluster, denominators=weights)

    def value(self) -> FloatArray:
        """Shape (K,)."""
        value: FloatArray = self._scaled().numerators.sum(axis=(0, 1))
        return value

    def draws(self, *, seed: int, n_resamples: int = N_RESAMPLES) -> FloatArray:
        """Studentised draws; see the module.

        Args:
            seed: Seed of the resamples, which are those of `mtrouter_rl.statistics.resamples`.
            n_resamples: How many.

        Returns:
            Shape (n_resamples, K); their quantiles are the ends of confidence intervals.

        Raises:
            InvalidConfigError: If there is one cluster, from which no spread can be told.
        """
        n_clusters = len(self.denominators)
        if n_clusters < 2:
            raise InvalidConfigError(
                "the log has 1 cluster (task, variation), must have at least 2: an interval cannot be told from one"
            )
        scaled = self._scaled()
        value = scaled.value()
        error, widening = scaled._spread()
        draws = []
        for counts in resample_counts(n_clusters, seed=seed, n_resamples=n_resamples):
            drawn, errors = scaled._of_resamples(counts)
            draws.append(value - widening * error * distances(drawn - value, errors, error))
        return np.concatenate(draws)

    def _scaled(self) -> "RatioSum":
        """The same with denominators that sum to 1 (or 0), since products of many ratios are huge or tiny."""
        totals = self.denominators.sum(axis=0)
        inverse = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        return RatioSum(
            numerators=self.numerators * inverse[:, None],
            denominators=self.denominators * inverse,
        )

    def _spread(self) -> tuple[FloatArray, FloatArray]:
        """Jackknife standard error and the factor c, both of shape (K,); of a scaled sum."""
        n_clusters = len(self.denominators)
        influences = self.numerators - self.denominators[..., None] * self.numerators.sum(axis=0)
        rest = 1 - self.denominators
        rest = np.divide(1.0, rest, out=np.zeros_like(rest), where=rest > _LEAST_REST)
        left_out = np.einsum("cfk,cf->ck", influences, rest)
        error = np.sqrt((left_out**2).sum(axis=0) * (n_clusters - 1) / n_clusters)
        return error, widening(influences.sum(axis=1))

    def _of_resamples(self, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values and linearised standard errors of resamples, each of shape (R, K); counts of shape (R, C)."""
        n_clusters, _, n_columns = self.numerators.shape
        totals = counts @ self.denominators
        inverse = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        values, errors = np.empty((len(counts), n_columns)), np.empty((len(counts), n_columns))
        for column in range(n_columns):
            numerators = np.ascontiguousarray(self.numerators[:, :, column])
            ratios = (counts @ numerators) * inverse
            influences = inverse @ numerators.T - (ratios * inverse) @ self.denominators.T
            values[:, column] = ratios.sum(axis=1)
            errors[:, column] = np.sqrt((counts * influences**2).sum(axis=1) * n_clusters / (n_clusters - 1))
        return values, errors


def widening(influences: FloatArray) -> FloatArray:
    """Factor c for influences of shape (C, K); see the module. Shape (K,).

    Example:
        >>> light, heavy = np.tile([1.0, -1.0], 50), np.append(np.zeros(98), [1.0, -1.0])
        >>> widening(np.stack([light, heavy], axis=1)).round(2)
        array([1.01, 1.41])
    """
    squares = influences**2
    totals = squares.sum(axis=0)
    shares = np.divide((squares**2).sum(axis=0), totals**2, out=np.zeros_like(totals), where=totals > 0)
    beyond = np.maximum(shares - 1 / len(influences), np.finfo(float).tiny)
    return t_widening(np.minimum(2 / beyond, len(influences) - 1))


def t_widening(freedom: FloatArray) -> FloatArray:
    """t(0.975) / z(0.975) by degrees of freedom, which count as 2 at least.

    Example:
        >>> t_widening(np.array([1.0, 10.0, 1e6])).round(2)
        array([2.2 , 1.14, 1.  ])
    """
    level = (1 + CONFIDENCE) / 2
    factors: FloatArray = np.asarray(stdtrit(np.maximum(freedom, _LEAST_FREEDOM), level) / ndtri(level))
    return factors


def distances(differences: FloatArray, errors: FloatArray, error: FloatArray) -> FloatArray:
    """t* = (v* - v) / s* of resamples, with s* at least `LEAST_ERROR` s; 0 where both errors are 0.

    Args:
        differences: v* - v, shape (R, K).
        errors: s*, shape (R, K).
        error: s, shape (K,).
    """
    floored = np.maximum(errors, LEAST_ERROR * error)
    found: FloatArray = np.divide(differences, floored, out=np.zeros_like(differences), where=floored > 0)
    return found
