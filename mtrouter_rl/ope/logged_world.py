"""An approximate model of a logged environment and its models: what a log shows, as something that can be played.

It is made of what a log tells well. A *path* for every (task, variation): the useful turns of its best episode, with the kind
of action that was due at each and the utility that it gained. How often every model does what is due, and how models get
stuck, as the factored router learns it. How often a turn of a kind ends the episode without success, by model. What a call
costs, by task, turn and model. It leaves out detours, and that a bad turn may make the rest of a task harder or impossible.

What is due is told by networks that have not seen the turn's (task, variation). All else is tables, so the model can be made
anew without a part of the log, which its error is worked out from.

Source: off-policy evaluation by an approximate model, Voloshin, Le, Jiang and Yue, Empirical Study of Off-Policy Policy
Evaluation for Reinforcement Learning (2021); the factors are those of `mtrouter_rl.agents.factored`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.agents.factored.shrinkage import SuccessTable, success_table, success_tables_without
from mtrouter_rl.agents.factored.stuck import PRIORS, Stuckness, likeliest
from mtrouter_rl.ope.logged_turns import IntArray, WorldTurns
from mtrouter_rl.records import BoolArray, FloatArray

_NEVER = 1e-6
_PRIOR_CALLS = 20.0
"""Calls that the prior of a rate of (kind, model) counts as."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The way through every (task, variation), V in all, of at most L useful turns.

    Attributes:
        clusters: Number of the (task, variation), shape (V,).
        weights: Its share of the logged episodes, shape (V,).
        tasks: Number of the task, shape (V,).
        lengths: Useful turns, at least 1, shape (V,).
        is_finished: Whether the task ended with the last of them; else turns beyond it gain nothing, shape (V,).
        due: Probability of every kind at each, shape (V, L, K).
        gains: Utility that each gains, shape (V, L).
    """

    clusters: IntArray
    weights: FloatArray
    tasks: IntArray
    lengths: IntArray
    is_finished: BoolArray
    due: FloatArray
    gains: FloatArray

    @classmethod
    def of(cls, log: WorldTurns) -> "Paths":
        """Of every (task, variation) the episode of the highest gains, of several the one of the fewest useful turns."""
        first = np.flatnonzero(log.turns == 0)
        ends = np.append(first[1:], len(log.turns))
        is_step = log.is_useful | (log.gains > 0)
        best: dict[int, tuple[tuple[float, int], int]] = {}
        counts: dict[int, int] = {}
        for number, (start, end) in enumerate(zip(first.tolist(), ends.tolist(), strict=True)):
            cluster = int(log.clusters[start])
            worth = (
                round(float(np.maximum(log.gains[start:end], 0).sum()), 6),
                -max(int(is_step[start:end].sum()), 1),
            )
            counts[cluster] = counts.get(cluster, 0) + 1
            if cluster not in best or worth > best[cluster][0]:
                best[cluster] = (worth, number)
        chosen = [(cluster, *_steps(log, is_step, first[at], ends[at])) for cluster, (_, at) in sorted(best.items())]
        n, longest = len(chosen), max(len(steps) for _, steps, _ in chosen)
        due, gains = np.zeros((n, longest, log.due.shape[1])), np.zeros((n, longest))
        for row, (_, steps, _) in enumerate(chosen):
            due[row, : len(steps)] = log.due[steps]
            gains[row, : len(steps)] = np.maximum(log.gains[steps], 0)
        clusters = np.array([cluster for cluster, _, _ in chosen])
        return cls(
            clusters=clusters,
            weights=np.array([counts[cluster] for cluster in clusters.tolist()]) / len(first),
            tasks=np.array([log.tasks[steps[0]] for _, steps, _ in chosen]),
            lengths=np.array([len(steps) for _, steps, _ in chosen]),
            is_finished=np.array([finished for *_, finished in chosen]),
            due=due,
            gains=gains,
        )


def _steps(log: WorldTurns, is_step: BoolArray, start: int, end: int) -> tuple[IntArray, bool]:
    """Useful turns of an episode (its last turn, if it has none), and whether the task ended well with the last of them."""
    steps = start + np.flatnonzero(is_step[start:end])
    if not len(steps):
        return np.array([end - 1]), False
    return steps, bool(log.ended[steps[-1]] and log.gains[steps[-1]] >= 0)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How turns end an episode without success.

    Attributes:
        rates: Probability by kind and model, shape (K, M).
        utility: Utility of the whole episode then; None where it is what was earned before plus `change`.
        change: See `utility`.
    """

    rates: FloatArray
    utility: float | None
    change: float

    @classmethod
    def of(cls, log: WorldTurns) -> "Ending":
        """Learn from a log: turns with which the task ended, and that gained nothing or lost something.

        What such an episode comes to is told by its whole utility or by the change, whichever is the more alike.
        """
        failed = log.ended & (log.gains <= 0) & ~_ends_well(log)
        numbers = np.cumsum(log.turns == 0) - 1
        totals = np.bincount(numbers, weights=log.gains)[numbers[failed]]
        changes = log.gains[failed]
        is_level = len(totals) > 0 and totals.var() <= changes.var()
        return cls(
            rates=shrunken_rates(log, failed.astype(np.float64)),
            utility=float(totals.mean()) if is_level else None,
            change=float(changes.mean()) if len(changes) else 0.0,
        )


def _ends_well(log: WorldTurns) -> BoolArray:
    """Turns that gain nothing and end an episode of full utility."""
    numbers = np.cumsum(log.turns == 0) - 1
    totals = np.bincount(numbers, weights=log.gains)
    ends_well: BoolArray = totals[numbers] >= 1 - 1e-6
    return ends_well


def shrunken_rates(log: WorldTurns, happened: FloatArray) -> FloatArray:
    """How often something happens by kind and model, shape (K, M), shrunk to the rate of the kind times that of the model.

    Source: Lindley and Smith, Bayes Estimates for the Linear Model (1972), for the shrinkage.
    """
    kinds, n_kinds, n_models = log.kinds, log.due.shape[1], log.costs.shape[1]
    cells = kinds * n_models + log.actions
    calls = np.bincount(cells, minlength=n_kinds * n_models).reshape(n_kinds, n_models)
    sums = np.bincount(cells, weights=happened, minlength=n_kinds * n_models).reshape(n_kinds, n_models)
    of_kind = (sums.sum(axis=1) + happened.mean()) / (calls.sum(axis=1) + 1)
    expected = (calls * of_kind[:, None]).sum(axis=0)
    of_model = np.where(expected > 0, sums.sum(axis=0) / np.maximum(expected, 1e-12), 1.0)
    prior = np.clip(of_kind[:, None] * of_model, 0.0, 0.95)
    rates: FloatArray = (sums + _PRIOR_CALLS * prior) / (calls + _PRIOR_CALLS)
    return rates


@dataclass(frozen=True, kw_only=True)
class LoggedWorld:
    """The model of a logged world; see the module.

    Attributes:
        paths: Ways through the tasks.
        success: How often a model that is not stuck does what is due on them, shape (V, L, M).
        kinds: The kind that is due there, shape (V, L).
        stuckness: How models get stuck.
        ending: How turns end an episode without success.
        costs: Expected cost of a call, USD, by task, turn and model, shape (tasks, T, M).
    """

    paths: Paths
    success: FloatArray
    kinds: IntArray
    stuckness: Stuckness
    ending: Ending
    costs: FloatArray

    @classmethod
    def of(cls, log: WorldTurns, success: SuccessTable, stuckness: Stuckness, *, n_turns: int) -> "LoggedWorld":
        """Put the tables of a log together.

        Args:
            log: The turns.
            success: See `success_and_stuckness`.
            stuckness: Likewise.
            n_turns: T, the turn limit.
        """
        paths = Paths.of(log)
        n, longest, n_kinds = paths.due.shape
        known = success(paths.due.reshape(-1, n_kinds))
        unstuck = stuckness.unstuck(known.T).T.reshape(n, longest, -1)
        return cls(
            paths=paths,
            success=unstuck,
            kinds=np.asarray(paths.due.argmax(axis=2), dtype=np.int64),
            stuckness=stuckness,
            ending=Ending.of(log),
            costs=_costs(log, n_turns=n_turns),
        )


def _costs(log: WorldTurns, *, n_turns: int) -> FloatArray:
    """Mean expected costs by task, turn and model; where a task has fewer than six turns of a number, those of all tasks."""
    n_tasks, n_models = int(log.tasks.max()) + 1, log.costs.shape[1]
    turns = np.minimum(log.turns, n_turns - 1)
    sums, counts = np.zeros((n_tasks, n_turns, n_models)), np.zeros((n_tasks, n_turns, 1))
    np.add.at(sums, (log.tasks, turns), log.costs)
    np.add.at(counts, (log.tasks, turns), 1.0)
    known = counts.sum(axis=0)
    of_all = sums.sum(axis=0) / np.maximum(known, 1)
    reached = np.flatnonzero(known[:, 0])
    of_all = of_all[reached[np.maximum(np.searchsorted(reached, np.arange(n_turns), side="right") - 1, 0)]]
    costs: FloatArray = np.where(counts > 5, sums / np.maximum(counts, 1), of_all)
    return costs


def success_and_stuckness(log: WorldTurns) -> tuple[SuccessTable, Stuckness]:
    """How often models do what is due, and how they get stuck, as the factored router learns it; perhaps they never do."""
    table = success_table(log.due, log.actions, log.use, n_models=log.costs.shape[1])
    priors = (_NEVER, *PRIORS)
    stuckness = likeliest(log.due, log.actions, log.use, table(log.due), log.turns == 0, priors=priors)
    return table, stuckness


def worlds_without(
    log: WorldTurns, success: SuccessTable, stuckness: Stuckness, groups: IntArray, *, n_turns: int
) -> Sequence[LoggedWorld]:
    """The world of the log without each group of turns in its turn; how models get stuck stays as it was.

    Args:
        log: The turns.
        success: Of all of them.
        stuckness: Likewise.
        groups: Group of every turn, from 0, whole (task, variation) each, shape (N,).
        n_turns: See `LoggedWorld.of`.
    """
    tables = success_tables_without(success, log.due, log.actions, log.use, groups)
    return [
        LoggedWorld.of(log.where(groups != number), table, stuckness, n_turns=n_turns)
        for number, table in enumerate(tables)
    ]
