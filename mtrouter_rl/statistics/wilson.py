"""Interval of a share of independent trials."""

import math
from statistics import NormalDist

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.estimate import CONFIDENCE


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
