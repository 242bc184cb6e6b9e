"""Where only the total of a run is known: how its cost is laid out over its turns, and how the rule is fitted.

The prompt of an agent grows by about the same amount every turn, so that turn t costs in proportion to 1 + rate * t (from 0).
`flat` and `quadratic` are there to see how much hangs on that: every turn alike, and in proportion to (1 + rate * t)^2.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray, Frozen

Shape = Literal["flat", "linear", "quadratic"]
SHAPES: tuple[Shape, ...] = ("flat", "linear", "quadratic")
_POWERS: dict[Shape, int] = {"flat": 0, "linear": 1, "quadratic": 2}
_RATES = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 161)])


class Layout(Frozen):
    """A rule.

    Attributes:
        shape: How the cost of a turn grows.
        rate: By which share of the first turn's cost it grows every turn; not used by "flat".
    """

    shape: Shape = "linear"
    rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def shares(self, n_turns: int) -> FloatArray:
        """Share of the run's cost that each of its turns has, shape (n_turns,); sums to 1.

        Example:
            >>> Layout(shape="linear", rate=1.0).shares(3).round(3).tolist()
            [0.167, 0.333, 0.5]
        """
        if n_turns < 1:
            raise InvalidConfigError(f"n_turns is {n_turns}, must be at least 1")
        weights = (1.0 + self.rate * np.arange(n_turns)) ** _POWERS[self.shape]
        return np.asarray(weights / weights.sum())


def fit_rate(runs: Sequence[FloatArray]) -> tuple[float, float]:
    """Growth that fits runs whose turns are known best: least squares of what share of the cost was spent by each turn.

    Args:
        runs: Cost of every turn of each run, USD; runs of one turn or without cost say nothing and are passed over.

    Returns:
        The rate of `Layout(shape="linear")`, and the root mean square error of the shares that it leaves.

    Raises:
        InvalidConfigError: If no run says anything.

    Example:
        >>> rate, error = fit_rate([np.array([1.0, 1.1, 1.2, 1.3])])
        >>> abs(rate - 0.1) < 0.005 and error < 0.001
        True
    """
    known = [run for run in runs if len(run) > 1 and run.sum() > 0]
    if not known:
        raise InvalidConfigError(
            "no run of more than one turn has a cost per turn, so no growth can be fitted; give it as a number"
        )
    errors = [_error(known, float(rate)) for rate in _RATES]
    best = int(np.argmin(errors))
    return float(_RATES[best]), errors[best]


def _error(runs: Sequence[FloatArray], rate: float) -> float:
    """Root mean square error of the shares spent."""
    layout = Layout(shape="linear", rate=rate)
    squares = [(np.cumsum(run) / run.sum() - np.cumsum(layout.shares(len(run)))) ** 2 for run in runs]
    return float(np.concatenate(squares).mean() ** 0.5)
