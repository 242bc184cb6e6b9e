"""Fits all factors of the router to a log: numbers in, numbers out, no text and no network."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.factored.kinds import agreement
from mtrouter_rl.agents.factored.shrinkage import EffectTable, SuccessTable, effect_table, ridge, success_table
from mtrouter_rl.agents.factored.stuck import PRIORS, TOGETHER, Stuckness, chances_of_log, likeliest
from mtrouter_rl.records import FloatArray

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Part = Literal["due", "stuck", "together", "effects"]
PARTS: tuple[Part, ...] = ("due", "stuck", "together", "effects")
"""What can be left out: what is due, who is stuck, that models are stuck together, what models lose and gain beside that."""

_NEVER = 1e-9
_PENALTY = 1.0
_WORTH_SD_SHARE = 0.5
_VALUE_TREES, _VALUE_LEARNING_RATE, _VALUE_LEAVES, _VALUE_LEAF_PENALTY = 200, 0.05, 31, 10.0
_MOST_ROWS_PER_LEAF, _ROWS_PER_LEAF_SHARE, _FEWEST_ROWS_PER_LEAF = 100, 200, 5


@dataclass(frozen=True, kw_only=True)
class LoggedTurns:
    """N turns of a log, episode after episode, as the factors are fitted to them.

    Attributes:
        due: Probability of every kind before the turn, by networks that have not seen the turn's variation, shape (N, K).
        kinds: Kind that was done, shape (N,).
        is_error: Reported as an error, shape (N,).
        actions: Model that was called, shape (N,).
        masks: Models that were allowed, shape (N, M).
        gains: Utility gained, shape (N,).
        costs: Cost of the turn in units of utility, shape (N,).
        episodes: Number of the episode, shape (N,).
        folds: Fold of the episode, shape (N,).
        tasks: Number of the task, shape (N,).
    """

    due: FloatArray
    kinds: IntArray
    is_error: BoolArray
    actions: IntArray
    masks: BoolArray
    gains: FloatArray
    costs: FloatArray
    episodes: IntArray
    folds: IntArray
    tasks: IntArray

    @property
    def starts(self) -> BoolArray:
        """True at the first turn of every episode, shape (N,)."""
        return np.concatenate([[True], self.episodes[1:] != self.episodes[:-1]])

    @property
    def ends(self) -> BoolArray:
        """True at the last turn of every episode, shape (N,)."""
        return np.concatenate([self.starts[1:], [True]])

    @property
    def shares(self) -> FloatArray:
        """How often every model was called where it was allowed, shape (M,)."""
        calls = np.bincount(self.actions, minlength=self.masks.shape[1])
        rates = calls / np.maximum(self.masks.sum(axis=0), 1)
        shares: FloatArray = rates / rates.sum()
        return shares


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What a `FactoredRouter` knows, networks and prices apart.

    Attributes:
        success: How often models do what is due.
        effects: What they change beside that: losses that they run into, and gains.
        stuckness: How models get stuck.
        use_value: What one useful turn is worth, in units of utility.
        level: Value of a history under the logging policy: ridge regression on `level_columns`, shape (K + 3,).
        shares: See `LoggedTurns.shares`.
    """

    success: SuccessTable
    effects: EffectTable
    stuckness: Stuckness
    use_value: float
    level: FloatArray
    shares: FloatArray

    def advantages(self, due: FloatArray, stuck: FloatArray, costs: FloatArray) -> FloatArray:
        """What calling a model is worth above doing nothing, in units of utility, shape (B, M).

        Args:
            due: Shape (B, K).
            stuck: Probability of every model to be stuck, shape (B, M).
            costs: Expected cost of a call in units of utility, shape (B, M).
        """
        use = self.stuckness.unstuck(self.success(due)) * (1 - stuck)
        advantages: FloatArray = self.use_value * use + self.effects(due) - costs
        return advantages

    def q_values(self, due: FloatArray, stuck: FloatArray, costs: FloatArray, turns: FloatArray) -> FloatArray:
        """Return of calling a model now and going on as the log did, shape (B, M); `turns` so far, shape (B,)."""
        advantages = self.advantages(due, stuck, costs)
        level = level_columns(due, stuck, turns) @ self.level
        values: FloatArray = level[:, None] + advantages - (advantages @ self.shares)[:, None]
        return values


def level_columns(due: FloatArray, stuck: FloatArray, turns: FloatArray) -> FloatArray:
    """What a history's value is regressed on, shape (B, K + 3)."""
    return np.column_stack([due, stuck.mean(axis=1), np.log1p(turns), np.ones(len(due))])


def fit_factors(log: LoggedTurns, costs: FloatArray, *, seed: int, parts: Collection[Part] = PARTS) -> Factors:
    """Fit one factor after the other.

    The long-run outcome of a turn is noisy, and what a model changes in it is small but for rare losses. So the outcome is
    split: how often a turn is of use is counted, what one useful turn is worth is one number for all models (`_worth`), and
    what is left over is a table that is shrunk to 0 wherever the log shows nothing.

    Args:
        log: The turns.
        costs: Expected cost of a call of every model in units of utility, shape (N, M).
        seed: Of the regression of values.
        parts: What is learned; all else is left out of the router, to see what it is worth.

    Source: Athey, Chetty, Imbens and Kang, The Surrogate Index (2019), for the use of short-term outcomes; the effects are
    centred by the probability of the call, as in Robinson, Root-N-Consistent Semiparametric Regression (1988).
    """
    n_models = log.masks.shape[1]
    rows = np.arange(len(log.actions))
    use = agreement(log.due, log.kinds, log.is_error)
    success = success_table(log.due, log.actions, use, n_models=n_models)
    expected = success(log.due)
    priors = PRIORS if "stuck" in parts else (_NEVER,)
    together = TOGETHER if {"stuck", "together"} <= {*parts} else (0.0,)
    stuckness = likeliest(log.due, log.actions, use, expected, log.starts, priors=priors, together=together)
    stuck = chances_of_log(log.due, log.actions, use, expected, log.starts, stuckness)
    expected = stuckness.unstuck(expected) * (1 - stuck)
    values = _values(log, use, stuck, seed=seed)
    following = np.where(log.ends, 0.0, np.append(values[1:], 0.0))
    change = log.gains + following - values

    base = np.column_stack([log.due, stuck, np.ones(len(rows))])
    surprise = use - expected[rows, log.actions]
    losses = np.minimum(log.gains, 0.0)
    beside = np.column_stack([losses - losses.mean(), base])
    slope, _ = _slope(surprise, beside, change, log.episodes)
    left_over = change - slope * surprise
    left_over -= base @ ridge(base, left_over, _PENALTY)
    centred = np.eye(n_models)[log.actions] - _probabilities(log)
    turns = _counted(np.ones(len(rows)), log.starts)
    level = ridge(level_columns(log.due, stuck, turns), _returns(log), _PENALTY)
    return Factors(
        success=success,
        effects=effect_table(log.due, centred, left_over if "effects" in parts else np.zeros(len(rows))),
        stuckness=stuckness,
        use_value=_worth(log, surprise, beside, use, values),
        level=level,
        shares=log.shares,
    )


def _worth(log: LoggedTurns, surprise: FloatArray, beside: FloatArray, use: FloatArray, values: FloatArray) -> float:
    """What one useful turn is worth, in units of utility.

    Whole returns tell it without bias and with much noise. Differences of values have little noise, but values of a small log
    hardly follow the episode, and what they do not follow is missing. So whole returns are used, with the values as baseline,
    and the estimate is shrunk to the rate at which the log earns utility by useful turns. That rate is what one is worth where
    turns are scarce. The prior's standard deviation is half of it, so that 0 is not far.

    Args:
        log: The turns.
        surprise: Use above what was expected of the model, shape (N,).
        beside: What else explains the return, shape (N, C).
        use: Shape (N,).
        values: Value before every turn, shape (N,).

    Source: Lindley and Smith, Bayes Estimates for the Linear Model (1972), for the shrinkage.
    """
    slope, variance = _slope(surprise, beside, _returns(log) + log.costs - values, log.episodes)
    rate = np.maximum(log.gains, 0.0).sum() / max(use.sum(), 1.0)
    if rate == 0.0:
        return max(slope, 0.0)
    prior_variance = (_WORTH_SD_SHARE * rate) ** 2
    return max(float((slope * prior_variance + rate * variance) / (prior_variance + variance)), 0.0)


def _slope(column: FloatArray, beside: FloatArray, outcomes: FloatArray, episodes: IntArray) -> tuple[float, float]:
    """Weight of a column in the ridge regression on it and others, and its variance, robust to clusters (episodes).

    Source: Liang and Zeger, Longitudinal Data Analysis Using Generalized Linear Models (1986), for the variance.
    """
    columns = np.column_stack([column, beside])
    weights = ridge(columns, outcomes, _PENALTY)
    alone = column - beside @ ridge(beside, column, _PENALTY)
    sums = np.bincount(episodes, weights=alone * (outcomes - columns @ weights))
    return float(weights[0]), float((sums**2).sum() / max((alone**2).sum(), 1e-12) ** 2)


def _probabilities(log: LoggedTurns) -> FloatArray:
    """How likely every model was to be called, shape (N, M): its share among those that were allowed."""
    open_shares = log.masks * log.shares
    probabilities: FloatArray = open_shares / np.maximum(open_shares.sum(axis=1, keepdims=True), 1e-12)
    return probabilities


def _returns(log: LoggedTurns) -> FloatArray:
    """Utility minus cost from every turn on, shape (N,)."""
    rewards = log.gains - log.costs
    totals = np.cumsum(rewards[::-1])[::-1]
    after = np.append(totals[1:], 0.0)[np.flatnonzero(log.ends)]
    returns: FloatArray = totals - after[np.cumsum(log.starts) - 1]
    return returns


def _counted(amounts: FloatArray, starts: BoolArray) -> FloatArray:
    """Sum of amounts over the earlier turns of the episode, shape (N,)."""
    before = np.cumsum(amounts) - amounts
    sums: FloatArray = before - before[starts][np.cumsum(starts) - 1]
    return sums


def _values(log: LoggedTurns, use: FloatArray, stuck: FloatArray, *, seed: int) -> FloatArray:
    """Value of the state before every turn under the logging policy, each fold by trees that were grown on the others.

    The trees may read what a router cannot see, such as the score so far: they only take noise off the training.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    returns = _returns(log)
    turns = _counted(np.ones(len(use)), log.starts)
    useful = _counted(use, log.starts)
    since_gain = _since(log.gains > 0, log.starts)
    seen = [
        *(_counted(log.gains, log.starts), turns, useful, useful / np.maximum(turns, 1), since_gain),
        *(_counted(log.is_error.astype(np.float64), log.starts), stuck.mean(axis=1), stuck.min(axis=1)),
    ]
    columns = np.column_stack([*seen, log.due])
    values = np.zeros(len(use))
    for fold in np.unique(log.folds):
        held_out = log.folds == fold
        grown = ~held_out if not held_out.all() else held_out
        means = _task_means(log.tasks[grown], returns[grown], n_tasks=int(log.tasks.max()) + 1)
        whole = np.column_stack([columns, means[log.tasks]])
        trees = HistGradientBoostingRegressor(
            max_iter=_VALUE_TREES,
            learning_rate=_VALUE_LEARNING_RATE,
            max_leaf_nodes=_VALUE_LEAVES,
            min_samples_leaf=int(
                np.clip(grown.sum() // _ROWS_PER_LEAF_SHARE, _FEWEST_ROWS_PER_LEAF, _MOST_ROWS_PER_LEAF)
            ),
            l2_regularization=_VALUE_LEAF_PENALTY,
            early_stopping=False,
            random_state=seed,
        )
        values[held_out] = trees.fit(whole[grown], returns[grown]).predict(whole[held_out])
    return values


def _task_means(tasks: IntArray, returns: FloatArray, *, n_tasks: int) -> FloatArray:
    """Mean return of the turns of every task, that of all for a task without turns, shape (n_tasks,)."""
    counts = np.bincount(tasks, minlength=n_tasks)
    sums = np.bincount(tasks, weights=returns, minlength=n_tasks)
    return np.where(counts > 0, sums / np.maximum(counts, 1), returns.mean())


def _since(happened: BoolArray, starts: BoolArray) -> FloatArray:
    """Turns since something last happened in the episode, or since its start, shape (N,)."""
    since = np.zeros(len(happened))
    for row in range(1, len(happened)):
        since[row] = 0.0 if starts[row] or happened[row - 1] else since[row - 1] + 1
    return since
