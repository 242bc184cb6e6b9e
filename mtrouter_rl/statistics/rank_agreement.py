"""Choosing among policies by estimates: how good a choice it was where the truth is known, and which differences are real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray

MIN_POLICIES = 3
"""With fewer, a rank correlation says nothing."""


@dataclass(frozen=True, kw_only=True)
class SelectionQuality:
    """Estimates against the truth, for one quantity of which more is better.

    Attributes:
        n_policies: How many policies have both.
        rank_correlation: Spearman's; None with fewer than `MIN_POLICIES`, or if either side is constant.
        regret_at_1: True value of the best policy minus that of the one estimated highest.
        regret_at_3: The same for the best of the three estimated highest.
        regret_share_at_1: `regret_at_1` as a share of the range of the true values; 0 if they are all equal.
        regret_share_at_3: The same of `regret_at_3`.
        coverage: Share of policies whose interval holds the truth; None without intervals.
        error_mean: Mean of estimate minus truth.
    """

    n_policies: int
    rank_correlation: float | None
    regret_at_1: float
    regret_at_3: float
    regret_share_at_1: float
    regret_share_at_3: float
    coverage: float | None
    error_mean: float


def selection_quality(
    estimates: Mapping[str, float],
    truth: Mapping[str, float],
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> SelectionQuality:
    """Compare estimates with the truth, over the policies that have both.

    Args:
        estimates: By policy; larger is better.
        truth: By policy.
        intervals: (low, high) by policy; must hold every policy that is compared.

    Raises:
        InvalidConfigError: If no policy has both, or a number is not finite.

    Example:
        >>> quality = selection_quality({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.0, "b": 10.0, "c": 8.0})
        >>> quality.rank_correlation, quality.regret_at_1, quality.regret_at_3
        (0.5, 2.0, 0.0)
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    names = [name for name in estimates if name in truth]
    if not names:
        raise InvalidConfigError(
            f"no policy has both an estimate ({', '.join(estimates)}) and a true value ({', '.join(truth)}); "
            "give results of the same policies"
        )
    for what, numbers in (("estimate", estimates), ("true value", truth)):
        wrong = next((name for name in names if not np.isfinite(numbers[name])), None)
        if wrong is not None:
            raise InvalidConfigError(
                f"policy '{wrong}': its {what} is {numbers[wrong]}, must be finite; leave out what the log cannot tell"
            )
    guesses = np.array([estimates[name] for name in names])
    values = np.array([truth[name] for name in names])
    spread = float(values.max() - values.min())
    order = np.argsort(-guesses, kind="stable")
    regrets = [float(values.max() - values[order[:n]].max()) for n in (1, 3)]
    shares = [regret / spread if spread > 0 else 0.0 for regret in regrets]
    inside = [intervals[name][0] <= truth[name] <= intervals[name][1] for name in names] if intervals else None
    varies = spread > 0 and float(np.ptp(guesses)) > 0
    return SelectionQuality(
        n_policies=len(names),
        rank_correlation=float(spearmanr(guesses, values)[0]) if varies and len(names) >= MIN_POLICIES else None,
        regret_at_1=regrets[0],
        regret_at_3=regrets[1],
        regret_share_at_1=shares[0],
        regret_share_at_3=shares[1],
        coverage=None if inside is None else float(np.mean(inside)),
        error_mean=float((guesses - values).mean()),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted so that the chance of even one false finding among all of them is bounded.

    Raises:
        InvalidConfigError: If a p-value is not in [0, 1].

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    values = np.asarray(p_values, dtype=float)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise InvalidConfigError(f"p-value {bad[0]} is {values[bad[0]]}, must be in [0, 1]")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return tuple(float(value) for value in adjusted)


def bootstrap_p_value(draws: FloatArray) -> float:
    """Two-sided p-value of "the difference is 0", from bootstrap draws of the difference, shape (n_resamples,).

    Twice the share of draws on the rarer side of 0, counting one more on either, so that it is never 0.

    Raises:
        InvalidConfigError: If there is no draw, or one is not finite.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 4.2 (the one more), and 5.4 (the
    test that an interval of the same draws stands for).
    """
    n = len(draws)
    if n == 0 or not np.isfinite(draws).all():
        raise InvalidConfigError(
            f"{int((~np.isfinite(draws)).sum())} of {n} draws are not finite, must be at least one and all finite: there is no "
            "difference to test"
        )
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (n + 1))
