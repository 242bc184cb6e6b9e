"""How estimates from logs stand to exact values: bias and coverage over many logs of tabular tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.ope.estimates import training_noise
from mtrouter_rl.ope.sequential import ESTIMATORS, Estimator, Values, diagnose, estimate
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import studentized_ends
from mtrouter_rl.studies.ope_coverage.tabular import COLUMNS, TabularLogs, TabularTask

UNBIASED: tuple[Estimator, ...] = ("is", "pdis", "dr")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One estimator and quantity over many logs.

    Attributes:
        estimator: Which.
        column: Utility, cost_usd or return.
        truth: Exact value.
        bias: Mean estimate minus the truth.
        bias_error: Standard error of that mean over the logs.
        coverage: Share of logs whose 95% interval holds the truth.
        width: Median width of the intervals.
    """

    estimator: Estimator
    column: str
    truth: float
    bias: float
    bias_error: float
    coverage: float
    width: float

    @property
    def bias_in_errors(self) -> float:
        """Bias in standard errors; within 3 of them it may be chance."""
        return self.bias / self.bias_error


@dataclass(frozen=True, kw_only=True)
class Design:
    """A task, a policy, and logs to estimate it from.

    Attributes:
        task: The task.
        policy: Evaluation policy, shape (S, M).
        q_values: Model of its values, shape (T, S, M, 3), such as exact ones, or wrong ones.
        logs: Logs of the task.
    """

    task: TabularTask
    policy: FloatArray
    q_values: FloatArray
    logs: TabularLogs

    def probabilities(self, number: int) -> FloatArray:
        """The policy at the turns of a log, shape (N, M)."""
        return self.policy[self.logs.states[self.logs.turns_of(number)]]

    def values(self, number: int) -> Values:
        """The model of the values at the turns of a log."""
        part = self.logs.turns_of(number)
        q_values = self.q_values[self.logs.turns[part], self.logs.states[part]]
        return Values.of(q_values, self.probabilities(number), self.logs.actions[part])


def measure(
    design: Design, *, seed: int, n_resamples: int, estimators: Sequence[Estimator] = ESTIMATORS
) -> tuple[Measured, ...]:
    """Estimate the policy from every log, and compare with its exact value.

    Args:
        design: Task, policy and logs.
        seed: Of the first log's bootstrap; every further log has the next one.
        n_resamples: Bootstrap resamples.
        estimators: Which.
    """
    shape = (len(estimators), design.logs.n_logs, len(COLUMNS))
    found, ends = np.zeros(shape), np.zeros((*shape, 2))
    for number in range(design.logs.n_logs):
        estimates = estimate(
            design.logs.log(number),
            design.probabilities(number),
            values=design.values(number),
            seed=seed + number,
            estimators=estimators,
            n_resamples=n_resamples,
        )
        for row, name in enumerate(estimators):
            found[row, number] = estimates[name].value
            ends[row, number] = [estimates[name].interval(column) for column in range(len(COLUMNS))]
    truth = design.task.value(design.policy)
    is_inside = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    return tuple(
        Measured(
            estimator=name,
            column=quantity,
            truth=float(truth[column]),
            bias=float(found[row, :, column].mean() - truth[column]),
            bias_error=float(found[row, :, column].std(ddof=1) / np.sqrt(shape[1])),
            coverage=float(is_inside[row, :, column].mean()),
            width=float(np.median(ends[row, :, column, 1] - ends[row, :, column, 0])),
        )
        for row, name in enumerate(estimators)
        for column, quantity in enumerate(COLUMNS)
    )


def difference_coverage(
    design: Design, other: Design, *, seed: int, n_resamples: int, estimator: Estimator
) -> FloatArray:
    """Share of logs whose interval of the difference of two policies holds the exact difference, shape (3,).

    Args:
        design: One policy and its values.
        other: The other, on the same logs.
        seed: Of the first log's bootstrap; both policies share it.
        n_resamples: Bootstrap resamples.
        estimator: Which.
    """
    truth = design.task.value(design.policy) - other.task.value(other.policy)
    inside = np.zeros(len(COLUMNS))
    for number in range(design.logs.n_logs):
        one, two = (
            estimate(
                each.logs.log(number),
                each.probabilities(number),
                values=each.values(number),
                seed=seed + number,
                estimators=(estimator,),
                n_resamples=n_resamples,
            )[estimator]
            for each in (design, other)
        )
        ends = [studentized_ends(column) for column in (one.draws - two.draws).T]
        inside += [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
    return inside / design.logs.n_logs


def fitted_dm_coverage(design: Design, *, seed: int, n_resamples: int, n_repeats: int = 2) -> FloatArray:
    """Share of logs whose DM interval holds the exact value, with values fitted to halves of the log, shape (3,).

    As `mtrouter_rl.ope.run` does it with networks: every episode's values come from a tabular fit to the half of the
    clusters that it is not in, and the gap between the halves is added to the draws.

    Args:
        design: Task, policy and logs; its model of the values is not used.
        seed: Of halves and bootstrap.
        n_resamples: Bootstrap resamples.
        n_repeats: How often a log is halved anew.
    """
    truth, inside = design.task.value(design.policy), np.zeros(len(COLUMNS))
    rng = np.random.default_rng(seed)
    for number in range(design.logs.n_logs):
        log, pi = design.logs.log(number), design.probabilities(number)
        states = np.zeros((len(log.actions), len(COLUMNS)))
        gaps = np.zeros((n_repeats, len(COLUMNS)))
        for repeat in range(n_repeats):
            half = rng.permutation(np.arange(log.clusters.max() + 1) % 2)[log.clusters]
            for part in (0, 1):
                found = _fitted_values(design, number, half != part)
                states += np.where(np.repeat(half == part, log.lengths)[:, None], found, 0.0) / n_repeats
                gaps[repeat] += (1 - 2 * part) * found[log.starts].mean(axis=0)
        values = Values(logged=np.zeros_like(states), states=states)
        one = estimate(log, pi, values=values, seed=seed + number, estimators=("dm",), n_resamples=n_resamples)["dm"]
        draws = one.draws + training_noise(gaps, n_resamples=n_resamples, seed=seed + number)
        ends = [studentized_ends(column) for column in draws.T]
        inside += [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
    return inside / design.logs.n_logs


def _fitted_values(design: Design, number: int, members: npt.NDArray[np.bool_]) -> FloatArray:
    """Values of a log's states by a tabular fit to some of its episodes, shape (N, 3)."""
    part = design.logs.turns_of(number)
    q_values = design.logs.fitted_task(number, members).q_values(design.policy)
    of_turns = q_values[design.logs.turns[part], design.logs.states[part]]
    values: FloatArray = (design.probabilities(number)[:, :, None] * of_turns).sum(axis=1)
    return values


def effective_sample_sizes(design: Design) -> FloatArray:
    """Effective sample size of every log, shape (n_logs,)."""
    numbers = range(design.logs.n_logs)
    return np.array([diagnose(design.logs.log(i), design.probabilities(i)).effective_sample_size for i in numbers])
