"""A number with its 95% interval: the one record of both, and how ends are read off bootstrap draws.

There are two kinds of ends, and one function for each:

* **studentised** (`studentized_ends`), for means, their differences and ratios, which have a standard error of their own: the
  quantiles of draws that `mtrouter_rl.statistics.studentized` has laid off in standard errors;
* **percentile** (`percentile_ends`), for what has none, such as the height of a hull, an area or a share of a gap.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 5.2 (studentised) and 5.3 (percentile).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import AliasChoices, Field

from mtrouter_rl.records import Ends, FloatArray

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2
FEWEST_CLUSTERS = 6
"""With fewer, no test by sign changes of the clusters can reach 5% (2^(1 - 5) is 6%), so a difference is not called one."""


SCORE_RANGE: Ends = (-100.0, 100.0)
COST_RANGE: Ends = (0.0, float("inf"))
RETURN_RANGE: Ends = (-float("inf"), 1.0)
"""What a mean can be: utility is in [-1, 1], money is never below 0, and a return is at most the utility."""


def within(ends: Ends | None, possible: Ends) -> Ends | None:
    """An interval without what the number cannot be: with few clusters, ends are laid off far beyond it.

    Nothing is lost by it, since the number is in `possible`: the interval holds it just as often.

    Example:
        >>> within((51.9, 109.8), SCORE_RANGE), within((-0.2, 0.3), COST_RANGE), within(None, COST_RANGE)
        ((51.9, 100.0), (0.0, 0.3), None)
    """
    if ends is None:
        return None
    low, high = possible
    return min(max(ends[0], low), high), max(min(ends[1], high), low)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95% interval over (task, variation) clusters.

    Attributes:
        value: The number; -inf or inf where something is out of reach (a cost that no mixture is as low as, say), NaN where it
            is not defined. Files call it "mean".
        low: Lower end; -inf where resamples below it are out of reach; None with fewer than two clusters, from which no spread
            can be told.
        high: Upper end, inf or None likewise.
        n_episodes: Episodes (or pairs of episodes) behind it; of several policies, those of the one that has fewest.
        n_clusters: (task, variation) clusters behind it.
    """

    value: Annotated[float, Field(validation_alias=AliasChoices("mean", "value"), serialization_alias="mean")]
    low: float | None
    high: float | None
    n_episodes: int
    n_clusters: int

    @property
    def ends(self) -> Ends | None:
        """(low, high), or None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def bounds(self) -> Ends:
        """The same; (-inf, inf) if there is no interval."""
        return self.ends or (-np.inf, np.inf)

    @property
    def half_width(self) -> float:
        """Half the width of the interval; inf if there is none."""
        low, high = self.bounds
        return (high - low) / 2

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.bounds[0] > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.bounds[1] < 0


def studentized_ends(draws: FloatArray) -> Ends:
    """2.5% and 97.5% quantile of studentised draws, shape (n_resamples,)."""
    low, high = np.quantile(draws, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def percentile_ends(value: float, draws: FloatArray) -> Ends:
    """Percentile ends of a number that was worked out anew in every resample.

    The interval reaches farther by twice the bias of the resamples (median of the draws minus value) on the side that the
    bias leads away from; the other end stays. The height of a hull is a maximum: where points differ by chance alone, the
    sample's is too high, and a resample's is so once more.

    A draw of NaN, where the number is not defined, counts as -inf for the lower end and as inf for the upper one.

    Args:
        value: The number itself.
        draws: The number in every resample, shape (n_resamples,).

    Source: Davison and Hinkley (1997), sections 2.2.1 (bias) and 5.3; extending one end alone is ours.
    """
    low = _quantile(np.where(np.isnan(draws), -np.inf, draws), _TAIL, is_lower=True)
    high = _quantile(np.where(np.isnan(draws), np.inf, draws), 1 - _TAIL, is_lower=False)
    bias = _bias(draws, value)
    return low - 2 * max(bias, 0.0), high - 2 * min(bias, 0.0)


def _quantile(draws: FloatArray, share: float, *, is_lower: bool) -> float:
    """A quantile; where draws are infinite, one of them instead of a number between two."""
    if np.isfinite(draws).all():
        return float(np.quantile(draws, share))
    index = share * (len(draws) - 1)
    return float(np.sort(draws)[int(np.floor(index) if is_lower else np.ceil(index))])


def _bias(draws: FloatArray, value: float) -> float:
    """Median of the finite draws minus the value; 0 where either is unknown."""
    finite = draws[np.isfinite(draws)]
    return float(np.median(finite)) - value if finite.size and np.isfinite(value) else 0.0


def bounded(means: Sequence[Estimate]) -> list[Estimate]:
    """Means of score, cost and return, in this order, with their ends `within` what each can be."""
    ranges = (SCORE_RANGE, COST_RANGE, RETURN_RANGE)
    found = []
    for one, possible in zip(means, ranges, strict=True):
        low, high = within(one.ends, possible) or (one.low, one.high)
        found.append(replace(one, low=low, high=high))
    return found
