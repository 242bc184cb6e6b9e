"""How long a policy keeps one model, against how long the log ever does.

What happens when a model is called again and again shows only in a log in which that happened: a model that is stuck stays
stuck, and nothing in the history may say so. A uniform log of M models has k calls of one model in a row with probability
M^(1 - k), so that of tens of thousands of turns hardly any follow five of them. A policy that stays with a model for longer
lives in histories that the log does not hold, and fitted values there are guesses.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.ope.trajectory_arrays import TurnLog
from mtrouter_rl.records import FloatArray

LEAST_TURNS = 30
"""Logged turns that a length of run needs to count as logged."""
LONG_RUNS_FIX = (
    "a log that keeps one model for longer, such as of 'mtrouter-rl collect --policy sticky:0.2' or 'mixed:0.375'"
)
"""What to collect where a policy is refused for it."""


@dataclass(frozen=True, kw_only=True)
class CallRuns:
    """Runs of calls of one model.

    Attributes:
        stay_probability: Probability that the policy calls the model of its last turn again, mean over the logged turns whose
            model before was the policy's choice; 0 if there is none.
        longest_logged: Largest k such that at least `LEAST_TURNS` logged turns are the k-th or a later one of a run.
        beyond_share: Share of the policy's turns that follow that many calls of one model, or more, in a row.
    """

    stay_probability: float
    longest_logged: int
    beyond_share: float


def call_runs(log: TurnLog, probabilities: FloatArray) -> CallRuns:
    """Hold the runs of a policy against those of the log.

    The share beyond is p^k times the share of logged turns that have k turns before them, as if the policy stayed with
    probability p at every turn.

    Args:
        log: The logged turns; without propensities all turns weigh as if they were drawn uniformly.
        probabilities: The policy's probability of every model at every logged state, shape (N, M).
    """
    turns = np.arange(len(log.actions))
    ratios = probabilities[turns, log.actions]
    if log.propensities is not None:
        ratios = ratios / log.propensities
    later = np.flatnonzero(log.turns > 0)
    weights = ratios[later - 1]
    stays = probabilities[later, log.actions[later - 1]]
    stay = float((weights * stays).sum() / weights.sum()) if weights.sum() > 0 else 0.0
    longest = _longest_logged(log)
    return CallRuns(
        stay_probability=stay,
        longest_logged=longest,
        beyond_share=float(stay**longest * (log.turns >= longest).mean()),
    )


def _longest_logged(log: TurnLog) -> int:
    counts = np.bincount(run_positions(log.actions, log.turns))
    at_least = counts[::-1].cumsum()[::-1]  # falls from place to place; there is no place 0
    return max(1, int((at_least[1:] >= LEAST_TURNS).sum()))


def run_positions(actions: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Place of every turn in its run of calls of one model, from 1, shape (N,); a run ends with its episode.

    Example:
        >>> run_positions(np.array([2, 2, 2, 0, 0, 0]), np.array([0, 1, 2, 3, 0, 1]))
        array([1, 2, 3, 1, 1, 2])
    """
    indices = np.arange(len(actions))
    is_first = np.ones(len(actions), dtype=bool)
    is_first[1:] = (actions[1:] != actions[:-1]) | (turns[1:] == 0)
    starts = np.maximum.accumulate(np.where(is_first, indices, 0))
    positions: npt.NDArray[np.int64] = indices - starts + 1
    return positions
