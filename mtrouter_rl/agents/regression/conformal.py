"""Split-conformal thresholds: a quantile of held-out scores whose coverage holds for any score and any sample size."""

import math

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError


def conformal_rank(n_scores: int, alpha: float) -> int:
    """Rank of the threshold among n scores, counted from 1: ceil((n + 1) (1 - alpha)). Above n there is no threshold.

    Example:
        >>> [conformal_rank(n, 0.1) for n in (8, 9, 99)]
        [9, 9, 90]
    """
    return math.ceil((n_scores + 1) * (1 - alpha) - 1e-9)


def conformal_threshold(scores: npt.NDArray[np.float64], *, alpha: float, what: str) -> float:
    """Smallest score threshold that a further score is at or below with a probability of at least 1 - alpha.

    If the n scores and a further one are exchangeable, P(further <= threshold) >= 1 - alpha, over the draw of all n + 1;
    without ties it is at most 1 - alpha + 1 / (n + 1).

    Args:
        scores: Scores that were held out from whatever made the score, shape (n,).
        alpha: Tolerated share, in (0, 1).
        what: What the scores are of, for the error message.

    Raises:
        InvalidConfigError: If there are too few scores for this alpha; it takes (1 - alpha) / alpha of them.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Papadopoulos et al., Inductive
    Confidence Machines for Regression (2002).
    """
    rank = conformal_rank(len(scores), alpha)
    if rank > len(scores):
        needed = math.ceil((1 - alpha) / alpha - 1e-9)
        raise InvalidConfigError(
            f"{what}: {len(scores)} scores with alpha {alpha}, must be at least {needed}; log more episodes, or raise alpha"
        )
    return float(np.sort(scores)[rank - 1])
