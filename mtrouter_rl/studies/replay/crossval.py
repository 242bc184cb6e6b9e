"""Nested cross-validation: what a family reaches on tasks that neither its policies nor the choice among them has seen.

Outer folds hold out whole groups (repositories), or what came later. Within the training tasks of a fold, inner folds by group
estimate what each price of money leads to; a goal chooses the price by those estimates alone; the policy of that price, learned
on all training tasks of the fold, is then worked out on the tasks that were held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.hull import Hulls
from mtrouter_rl.studies.replay.exact import NOBODY, IntArray, Legs
from mtrouter_rl.studies.replay.families import Family, Known, Policy, Singles

Scheme = Literal["groups", "time"]
Goal = Literal["save", "gain"]
GOALS: tuple[Goal, ...] = ("save", "gain")
PRICES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.5, 2.5)
"""Prices of money that policies are learned at: the score that the mean cost of the best single model's run is worth."""
BEST_SINGLE = len(PRICES)
"""Stands for the best single model of the training tasks, among the prices that a goal may choose."""
N_FOLDS = 5
N_INNER = 3
_N_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Tasks that are learned from, and tasks that are held out; as indices."""

    train: IntArray
    test: IntArray


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What a family did on held-out tasks.

    Attributes:
        tasks: Index of every held-out task, ascending, shape (H,).
        legs: Legs on them at every price, then those of the best single model; one `Legs` over (H,) tasks each.
        chosen: Goal -> price that was chosen in the fold of every task, as an index, shape (H,).
        told: Goal -> what the policy of each fold does, in words.
    """

    tasks: IntArray
    legs: tuple[Legs, ...]
    chosen: dict[Goal, IntArray]
    told: dict[Goal, tuple[str, ...]]

    def of_goal(self, goal: Goal) -> Legs:
        """Legs of the policies that a goal chose."""
        models = np.stack([legs.models for legs in self.legs])
        limits = np.stack([legs.limits for legs in self.legs])
        rows = np.arange(len(self.tasks))
        return Legs(models=models[self.chosen[goal], rows], limits=limits[self.chosen[goal], rows])


def group_folds(groups: Sequence[str], n_folds: int, *, seed: int) -> list[Fold]:
    """Folds of whole groups, the largest group first into the smallest fold; single tasks where there is one group alone."""
    names = np.array(groups)
    units, sizes = np.unique(names, return_counts=True)
    if len(units) < 2:
        numbers = np.random.default_rng(seed).permutation(len(names)) % n_folds
    else:
        n_used = min(n_folds, len(units))
        loads, fold_of = np.zeros(n_used), {}
        for unit in np.argsort(-sizes, kind="stable"):
            fold_of[units[unit]] = int(loads.argmin())
            loads[fold_of[units[unit]]] += sizes[unit]
        numbers = np.array([fold_of[name] for name in names])
    rows = np.arange(len(names))
    return [Fold(train=rows[numbers != k], test=rows[numbers == k]) for k in range(int(numbers.max()) + 1)]


def time_folds(groups: Sequence[str], orders: Sequence[float | None]) -> list[Fold]:
    """Within every group four blocks by time; the third and the fourth are held out, each learned from what came before.

    Empty where the order of a task is not known.
    """
    if any(order is None for order in orders):
        return []
    names, times = np.array(groups), np.array(orders, dtype=np.float64)
    blocks = np.zeros(len(names), dtype=np.int64)
    for group in np.unique(names):
        rows = np.flatnonzero(names == group)
        ranks = np.argsort(np.argsort(times[rows], kind="stable"))
        blocks[rows] = ranks * _N_BLOCKS // len(rows)
    rows = np.arange(len(names))
    folds = [Fold(train=rows[blocks < block], test=rows[blocks == block]) for block in range(_N_BLOCKS // 2, _N_BLOCKS)]
    return [fold for fold in folds if len(fold.train) and len(fold.test)]


def cross_validate(family: Family, known: Known, folds: Sequence[Fold], *, seed: int) -> HeldOut:
    """Learn, choose and apply in every fold."""
    parts: list[tuple[IntArray, list[Legs], dict[Goal, int], list[Policy]]] = []
    for fold in folds:
        train, test = known.part(fold.train), known.part(fold.test)
        weights = weights_of(train)
        chosen = choose(family, train, weights, seed=seed)
        policies = [*family.fit(train, weights), *Singles().fit(train, [0.0])]
        parts.append((fold.test, [policy.legs(test) for policy in policies], chosen, policies))
    tasks = np.concatenate([part[0] for part in parts])
    order = np.argsort(tasks)
    legs = tuple(_joined([part[1][price] for part in parts]).of(order) for price in range(len(PRICES) + 1))
    prices = {goal: np.concatenate([np.full(len(part[0]), part[2][goal]) for part in parts])[order] for goal in GOALS}
    told = {goal: tuple(part[3][part[2][goal]].told for part in parts) for goal in GOALS}
    return HeldOut(tasks=tasks[order], legs=_equally_long(legs), chosen=prices, told=told)


def weights_of(train: Known) -> list[float]:
    """The prices as scores per USD, by the cost of the training tasks' best single model."""
    suite = train.exact.suite
    unit = float(suite.costs_usd[:, suite.scores.mean(axis=0).argmax()].mean())
    return [price / max(unit, 1e-12) for price in PRICES]


def choose(family: Family, train: Known, weights: Sequence[float], *, seed: int) -> dict[Goal, int]:
    """Price for every goal, by inner cross-validation; `BEST_SINGLE` where no price does what the goal wants.

    "save" takes the cheapest policy that scores no less than the best single model and costs less; "gain" the one that scores
    highest above the blind mixture of single models at its own cost, if that is by more than one standard error.
    """
    suite = train.exact.suite
    scores, costs = np.zeros((len(weights), suite.n_tasks)), np.zeros((len(weights), suite.n_tasks))
    for fold in group_folds([task.group for task in suite.tasks], N_INNER, seed=seed):
        test = train.part(fold.test)
        for price, policy in enumerate(family.fit(train.part(fold.train), weights)):
            outcome = test.exact.value(policy.legs(test))
            scores[price, fold.test], costs[price, fold.test] = outcome.scores, outcome.costs_usd
    mean_scores, mean_costs = scores.mean(axis=1), costs.mean(axis=1)
    singles = suite.scores.mean(axis=0)
    best = int(singles.argmax())
    saves = (mean_scores >= singles[best] - 1e-12) & (mean_costs < suite.costs_usd[:, best].mean())
    save = int(np.where(saves, mean_costs, np.inf).argmin()) if saves.any() else BEST_SINGLE
    gains = np.array([cautious_gain(suite, scores[price], costs[price]) for price in range(len(weights))])
    gain = int(gains.argmax()) if gains.max() > 0 else BEST_SINGLE
    return {"save": save, "gain": gain}


def cautious_gain(suite: Suite, scores: FloatArray, costs_usd: FloatArray) -> float:
    """Mean score above the mixture of two single models that costs as much, less one standard error of the difference."""
    points = suite.costs_usd.mean(axis=0), suite.scores.mean(axis=0)
    cost = float(costs_usd.mean())
    vertices = Hulls.of(points[0][None], points[1][None]).vertices()
    after = int(np.searchsorted(vertices[:, 0], cost, side="right"))
    ends = [max(after - 1, 0), min(after, len(vertices) - 1)]
    left, right = (int(np.flatnonzero((points[0] == vertices[k, 0]) & (points[1] == vertices[k, 1]))[0]) for k in ends)
    width = points[0][right] - points[0][left]
    share = float(np.clip((cost - points[0][left]) / width, 0, 1)) if width > 0 else 0.0
    mixture = (1 - share) * suite.scores[:, left] + share * suite.scores[:, right]
    differences = scores - mixture
    return float(differences.mean() - differences.std() / np.sqrt(len(differences)))


def hull_heights(costs: FloatArray, scores: FloatArray, at: FloatArray) -> FloatArray:
    """Height of the hull of points, shapes (K,), at some costs; below the cheapest point, that point's own score."""
    tile = (len(at), 1)
    hulls = Hulls.of(np.tile(costs, tile), np.tile(scores, tile))
    return hulls.scores_at(np.maximum(at, hulls.costs_usd[:, 0]))


def _joined(parts: Sequence[Legs]) -> Legs:
    """Legs of several folds one after another, filled up to the longest."""
    padded = _equally_long(parts)
    return Legs(
        models=np.concatenate([part.models for part in padded]), limits=np.concatenate([part.limits for part in padded])
    )


def _equally_long(legs: Sequence[Legs]) -> tuple[Legs, ...]:
    """The same legs, all with as many columns."""
    longest = max(one.models.shape[1] for one in legs)
    return tuple(_padded(one, longest) for one in legs)


def _padded(legs: Legs, n_legs: int) -> Legs:
    more = ((0, 0), (0, n_legs - legs.models.shape[1]))
    return Legs(
        models=np.pad(legs.models, more, constant_values=NOBODY), limits=np.pad(legs.limits, more, constant_values=1)
    )
