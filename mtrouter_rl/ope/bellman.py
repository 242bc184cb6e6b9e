"""Whether fitted values may be believed: they are held against logged turns that they were not fitted to.

The Bellman residual of a turn is r_t + V(h_{t+1}) - Q(h_t, m_t). If Q is the policy's value and h_t tells all that matters,
its mean is 0 over the turns in which the policy would have made the logged choice, and also over those in which it would have
made the logged choice at the turn before as well. The second needs the first, and that the past matters only through the
history features: a model that is stuck for a reason that the history does not show breaks it.

Source of the second: partial-history importance weights, Hu and Wager, Off-Policy Evaluation in Partially Observed Markov
Decision Processes under Sequential Ignorability (2023), with a history of two turns, here of residuals instead of rewards.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray

N_CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True)
class BellmanCheck:
    """How far fitted values contradict the turns that they were not fitted to, for one policy, in units of the quantity.

    Attributes:
        bias: Weighted residuals summed over the turns of an episode, mean over episodes. It says by how much the estimate is
            too low if states are met as often as in the log.
        bias_error: Its standard error over clusters.
        rmse: Root of the mean squared residual of one turn; chance is in it too.
        calibration: Root of the mean squared residual averaged over bins of the predicted value, a turn.
        memory_bias: `bias` over the turns whose logged choice and the one before were both the policy's: what the values
            miss because the history does not show it. Noisy for greedy policies: few turns are left.
        memory_bias_error: Its standard error over clusters.
    """

    bias: float
    bias_error: float
    rmse: float
    calibration: float
    memory_bias: float
    memory_bias_error: float


def bellman_check(
    residuals: FloatArray,
    predicted: FloatArray,
    weights: FloatArray,
    turns: npt.NDArray[np.int64],
    *,
    cluster_of_turn: npt.NDArray[np.int64],
    n_episodes: int,
) -> BellmanCheck:
    """Check values of one policy and quantity.

    Args:
        residuals: Shape (N,).
        predicted: Values of the logged actions, shape (N,).
        weights: pi / propensity of every turn, or pi where propensities are unknown, shape (N,).
        turns: Turn index, from 0 in every episode, shape (N,).
        cluster_of_turn: Shape (N,).
        n_episodes: E.

    Raises:
        InvalidConfigError: If no turn has any weight.
    """
    if not weights.sum() > 0:
        raise InvalidConfigError(
            "no logged turn has an action that the policy would take; its values cannot be checked"
        )
    bias, bias_error = _episode_sum(weights, residuals, cluster_of_turn, n_episodes=n_episodes)
    both = weights * np.where(turns > 0, np.roll(weights, 1), 1.0)
    memory_bias, memory_bias_error = _episode_sum(both, residuals, cluster_of_turn, n_episodes=n_episodes)
    edges = np.quantile(predicted[weights > 0], np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, predicted)
    totals = np.bincount(bins, weights=weights * residuals, minlength=N_CALIBRATION_BINS)
    masses = np.bincount(bins, weights=weights, minlength=N_CALIBRATION_BINS)
    means = np.divide(totals, masses, out=np.zeros(len(masses)), where=masses > 0)
    share = masses / masses.sum()
    return BellmanCheck(
        bias=bias,
        bias_error=bias_error,
        rmse=float(np.sqrt((weights * residuals**2).sum() / weights.sum())),
        calibration=float(np.sqrt((share * means**2).sum())),
        memory_bias=memory_bias,
        memory_bias_error=memory_bias_error,
    )


def _episode_sum(
    weights: FloatArray, residuals: FloatArray, cluster_of_turn: npt.NDArray[np.int64], *, n_episodes: int
) -> tuple[float, float]:
    """Weighted mean residual of a turn, times the turns of an episode, and its standard error over clusters.

    Weights are normalised to the number of turns, so that without propensities the sum over an episode means the same. Where no
    turn has any weight the mean is 0 and the error infinite.
    """
    if not weights.sum() > 0:
        return 0.0, float("inf")
    scale = len(weights) / weights.sum() / n_episodes
    mean = float((weights * residuals).sum() * scale)
    centered = weights * (residuals - (weights * residuals).sum() / weights.sum()) * scale
    n_clusters = int(cluster_of_turn.max()) + 1
    by_cluster = np.bincount(cluster_of_turn, weights=centered, minlength=n_clusters)
    by_cluster = by_cluster[np.bincount(cluster_of_turn, minlength=n_clusters) > 0]
    error = float(by_cluster.std(ddof=1) * np.sqrt(len(by_cluster))) if len(by_cluster) > 1 else float("inf")
    return mean, error
