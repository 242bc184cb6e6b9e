"""The paper's penalties for errors, taken off the return that its estimator regresses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from mtrouter_rl.records import Episode, FloatArray

Severity = Literal["high", "medium", "low"]
OTHER = "*"
"""Stands for every kind of error that is not named."""

_MULTIPLIERS: Mapping[Severity, float] = {"high": 1.0, "medium": 0.8, "low": 0.2}
_LEAST = 0.2
_SHARES, _WEIGHTS = (0.3, 0.7), (0.3, 1.0)
"""Shares of the expected turns, and what an error weighs there; between them the weight rises evenly."""


def expected_turns(episodes: Iterable[Episode]) -> float:
    """Mean number of turns of the completed episodes that have any."""
    lengths = [len(episode.turns) for episode in episodes if episode.status == "completed" and episode.turns]
    return float(np.mean(lengths))


def penalties_to_go(
    errors: Sequence[str], severities: Mapping[str, Severity], *, n_expected: float, gamma: float
) -> FloatArray:
    """Discounted sum of the penalties of one episode from each turn on.

    An error at turn t of expected N costs max(m w(t / N) / N, 0.2 / N): m is 1.0, 0.8 or 0.2 by severity, and w rises from 0.3
    to 1.0 between t / N = 0.3 and 0.7. In units of utility.

    Args:
        errors: Kind of error of every turn, "" for none, length T.
        severities: Kind of error -> severity; "*" is every other kind, and a kind that neither names costs nothing.
        n_expected: N, turns.
        gamma: Discount.

    Returns:
        Shape (T,).

    Source: MTRouter (2026), the target of its estimator. Deviations: turns count from 0, and a turn beyond N weighs as N; N is
    the log's mean number of turns, and the severity hangs on the environment's kind of error alone.

    Example:
        >>> penalties_to_go(["", "idle", ""], {"idle": "high"}, n_expected=10, gamma=1.0).round(3).tolist()
        [0.03, 0.03, 0.0]
    """
    penalties = np.zeros(len(errors))
    for turn, error in enumerate(errors):
        severity = severities.get(error, severities.get(OTHER)) if error else None
        if severity is not None:
            weight = float(np.interp(turn / n_expected, _SHARES, _WEIGHTS))
            penalties[turn] = max(_MULTIPLIERS[severity] * weight, _LEAST) / n_expected
    to_go = np.zeros(len(errors))
    for turn in reversed(range(len(errors))):
        later = to_go[turn + 1] if turn + 1 < len(errors) else 0.0
        to_go[turn] = penalties[turn] + gamma * later
    return to_go
