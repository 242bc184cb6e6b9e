"""Metrics of one-turn suites, in which every model has answered every query, so that no outcome has to be estimated.

Notation: N queries, M models; s[i, m] is the score and c[i, m] the cost (USD) of model m on query i; w[i, m] is the
probability with which a router chooses m for i. Router accuracy A = mean_i sum_m w s, router cost C = mean_i sum_m w c;
(A_m, C_m) are those of a single model. "Best" is the single model of highest A_m (of several the cheapest), in hindsight
on the same queries.

Source: the names and meanings of LLMRouterBench (arXiv 2601.07206, README of github.com/ynulihao/LLMRouterBench: AvgAcc,
Gain@R, Gain@B, Gap@O, PerfGain, CostSave, ParetoDist, model-recall failure), whose release has no code for them and whose
exact formulas were not at hand. Where it leaves a choice, ours is in the docstring of the metric.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import BoolArray, FloatArray
from mtrouter_rl.statistics.cluster_bootstrap import mean_estimate
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.hull import CostScore, hull_gain, upper_hull
from mtrouter_rl.studies.query_tables.routings import check_routing
from mtrouter_rl.studies.query_tables.table import SCORE_TOLERANCE, SOLVED_SCORE, OneTurnTable

DEFAULT_HARD_K = 2
_PARETO_TOLERANCE = 1e-9
"""In ranges of the single models."""


@dataclass(frozen=True, kw_only=True)
class OneTurnMetrics:
    """What a routing achieves; see `one_turn_metrics` for every formula.

    Attributes:
        accuracy: A, mean score over queries.
        task_mean_accuracy: Mean over tasks of the mean score within each (AvgAcc).
        cost_usd: C, mean cost of a query, USD.
        gain_over_random: A minus that of uniform choice (Gain@R, absolute).
        gain_over_best: A minus that of the best single model (Gain@B and PerfGain, absolute).
        relative_gain_over_random: `gain_over_random` / accuracy of uniform choice; None if that is not above 0.
        relative_gain_over_best: `gain_over_best` / accuracy of the best single model; None if that is not above 0.
        gap_to_oracle: Accuracy of the oracle minus A, at least 0 (Gap@O, absolute).
        relative_gap_to_oracle: `gap_to_oracle` / accuracy of the oracle; None if that is not above 0.
        cost_saved_at_equal_performance: Share of cost saved against single models that perform as well (CostSave).
        reaches_best: Whether A is at least the best single model's accuracy, which CostSave takes for granted.
        performance_gained_at_equal_cost: A above the hull of single models at cost C.
        pareto_distance: Distance to the Pareto front, 0 on it (ParetoDist).
        recall_on_hard: Share of hard queries that the chosen model solves; None if no query is hard.
        n_hard: Hard queries: solved by 1 to k models.
    """

    accuracy: float
    task_mean_accuracy: float
    cost_usd: float
    gain_over_random: float
    gain_over_best: float
    relative_gain_over_random: float | None
    relative_gain_over_best: float | None
    gap_to_oracle: float
    relative_gap_to_oracle: float | None
    cost_saved_at_equal_performance: float | None
    reaches_best: bool
    performance_gained_at_equal_cost: float
    pareto_distance: float
    recall_on_hard: float | None
    n_hard: int


def one_turn_metrics(
    table: OneTurnTable,
    routing: FloatArray,
    *,
    hard_k: int = DEFAULT_HARD_K,
    solved_score: float = SOLVED_SCORE,
    rivals: Sequence[CostScore] = (),
) -> OneTurnMetrics:
    """All metrics of a routing.

    With the notation of the module:

    * gain over random: A - mean_{i,m} s[i, m]; over the best single model: A - A_best; gap to the oracle:
      mean_i max_m s[i, m] - A. Each is given absolute, and relative to what it is compared with.
    * cost saved, performance gained, Pareto distance, recall: see the functions of these names.

    Args:
        table: Scores and costs.
        routing: Choice probabilities, shape (N, M); `routing_of` makes them of model indices.
        hard_k: See `hard_queries`.
        solved_score: See `hard_queries`.
        rivals: (cost, accuracy) of other routers, for the Pareto front.

    Raises:
        InvalidConfigError: If the routing has another shape or its rows are no probabilities, or an argument is out of
            range.
    """
    check_routing(table, routing)
    expected = (routing * table.scores).sum(axis=1)
    accuracy, cost_usd = float(expected.mean()), expected_cost(table, routing)
    best = float(table.scores.mean(axis=0)[table.best_single])
    random, oracle = float(table.scores.mean()), float(table.scores.max(axis=1).mean())
    hard = hard_queries(table, hard_k=hard_k, solved_score=solved_score)
    return OneTurnMetrics(
        accuracy=accuracy,
        task_mean_accuracy=_task_mean(expected, table.tasks),
        cost_usd=cost_usd,
        gain_over_random=accuracy - random,
        gain_over_best=accuracy - best,
        relative_gain_over_random=_share(accuracy - random, random),
        relative_gain_over_best=_share(accuracy - best, best),
        gap_to_oracle=oracle - accuracy,
        relative_gap_to_oracle=_share(oracle - accuracy, oracle),
        cost_saved_at_equal_performance=cost_saved(cost_usd, accuracy, singles=table.single_points),
        reaches_best=accuracy >= best - SCORE_TOLERANCE,
        performance_gained_at_equal_cost=hull_gain(accuracy, cost_usd, points=table.single_points),
        pareto_distance=pareto_distance((cost_usd, accuracy), singles=table.single_points, rivals=rivals),
        recall_on_hard=_recall(table.scores >= solved_score, routing, hard),
        n_hard=int(hard.sum()),
    )


def expected_cost(table: OneTurnTable, routing: FloatArray) -> float:
    """C, mean cost of a query under a routing, USD."""
    return float((routing * table.costs_usd).sum(axis=1).mean())


def point_of(table: OneTurnTable, routing: FloatArray) -> CostScore:
    """(C, A) of a routing."""
    return expected_cost(table, routing), float((routing * table.scores).sum(axis=1).mean())


def cost_saved(cost_usd: float, accuracy: float, *, singles: Sequence[CostScore]) -> float | None:
    """Cost saved at equal performance: 1 - C / c(A).

    c(a) is what accuracy a costs without routing: linear between the vertices of the single models' upper hull (drawing
    one of two models per query), the best single model's cost where a is at or above its accuracy, and the cheapest
    vertex's where a is below that one's. So a router that reaches the best single model is compared with it, which is
    LLMRouterBench's CostSave, and a weaker one with the mixture that is as weak. Negative where routing is dearer.

    Args:
        cost_usd: C.
        accuracy: A.
        singles: (cost, accuracy) of every single model.

    Returns:
        Share of cost, at most 1; None if c(A) is 0.

    Example:
        >>> cost_saved(1.0, 0.5, singles=[(1.0, 0.0), (3.0, 1.0)])
        0.5
    """
    vertices = upper_hull(singles)
    without = float(np.interp(accuracy, vertices[:, 1], vertices[:, 0]))
    return None if without == 0 else 1 - cost_usd / without


def pareto_distance(point: CostScore, *, singles: Sequence[CostScore], rivals: Sequence[CostScore] = ()) -> float:
    """Distance of a router to the Pareto front of the single models and all routers compared.

    0 if no other point costs at most as much and scores at least as well, one of both strictly. Else the smallest, over the
    points (c, s) of the front, of sqrt(max(0, (C - c) / dC)^2 + max(0, (s - A) / dS)^2): how far the router is worse
    than the nearest point that counts. dC and dS are the ranges of cost and accuracy over the single models (1 where they
    are all alike), so that both axes weigh the same and the distance does not depend on the currency.

    Source: the one-sided distance d+ of Ishibuchi, Masuda, Tanigaki and Nojima (Modified Distance Calculation in Generational
    Distance and Inverted Generational Distance, EMO 2015). LLMRouterBench's ParetoDist averages a distance to the front over
    a router's operating points; its scaling is not known to us.

    Example:
        >>> pareto_distance((2.0, 0.5), singles=[(1.0, 0.5), (3.0, 1.0)])
        0.5
    """
    span = np.ptp(np.array(singles, dtype=np.float64), axis=0)
    span[span == 0] = 1.0
    front = _pareto_front(np.array([*singles, *rivals], dtype=np.float64) / span)
    excess = _excess(np.array(point) / span, front)
    if not _is_dominated(excess).any():
        return 0.0
    return float(np.linalg.norm(np.maximum(excess, 0), axis=1).min())


def _excess(point: FloatArray, others: FloatArray) -> FloatArray:
    """How much more a point costs, and how much less it scores, than each of the others, shape (n, 2)."""
    return np.asarray((point - others) * np.array([1.0, -1.0]))


def _is_dominated(excess: FloatArray) -> BoolArray:
    # Means of the same numbers in another order differ by rounding; a point is not dominated by itself for that.
    at_least, more = excess >= -_PARETO_TOLERANCE, excess > _PARETO_TOLERANCE
    return np.asarray(at_least.all(axis=1) & more.any(axis=1))


def _pareto_front(points: FloatArray) -> FloatArray:
    """Points (cost, score) that no other dominates, shape (n, 2)."""
    return points[[not _is_dominated(_excess(point, points)).any() for point in points]]


def hard_queries(table: OneTurnTable, *, hard_k: int = DEFAULT_HARD_K, solved_score: float = SOLVED_SCORE) -> BoolArray:
    """Which queries are hard: at least one model and at most `hard_k` solve them (score >= `solved_score`), shape (N,).

    Recall on hard queries is the mean over them of the probability that the chosen model solves it: sum_m w[i, m]
    [s[i, m] >= solved_score]. It is low where a router fails to recall the few models that could have helped, which
    LLMRouterBench finds to be most of the gap to the oracle.

    Raises:
        InvalidConfigError: If `hard_k` is below 1.
    """
    if hard_k < 1:
        raise InvalidConfigError(
            f"hard_k is {hard_k}, must be at least 1: a query that no model solves recalls nothing"
        )
    n_solvers = (table.scores >= solved_score).sum(axis=1)
    return np.asarray((n_solvers >= 1) & (n_solvers <= hard_k))


def default_hard_k(table: OneTurnTable) -> int:
    """`DEFAULT_HARD_K`, or less where that would call a query hard that all models solve; at least 1."""
    return max(1, min(DEFAULT_HARD_K, len(table.models) - 1))


def accuracy_interval(table: OneTurnTable, routing: FloatArray, *, seed: int, n_resamples: int) -> Estimate:
    """Bootstrap interval of A over queries.

    Raises:
        InvalidConfigError: As `one_turn_metrics` and `mean_estimate`.
    """
    check_routing(table, routing)
    values = (routing * table.scores).sum(axis=1)
    return mean_estimate(values, range(table.n_queries), seed=seed, n_resamples=n_resamples)


def gain_interval(table: OneTurnTable, routing: FloatArray, *, seed: int, n_resamples: int) -> Estimate:
    """Bootstrap interval of A - A_best over queries, paired.

    The best single model is that of the whole sample; that another would be best in a resample is not part of it.

    Raises:
        InvalidConfigError: As `one_turn_metrics` and `mean_estimate`.
    """
    check_routing(table, routing)
    values = (routing * table.scores).sum(axis=1) - table.scores[:, table.best_single]
    return mean_estimate(values, range(table.n_queries), seed=seed, n_resamples=n_resamples)


def _recall(solved: BoolArray, routing: FloatArray, hard: BoolArray) -> float | None:
    return float((routing * solved).sum(axis=1)[hard].mean()) if hard.any() else None


def _share(difference: float, base: float) -> float | None:
    return difference / base if base > 0 else None


def _task_mean(expected: FloatArray, tasks: Sequence[str]) -> float:
    index = np.unique(np.array(tasks), return_inverse=True)[1]
    return float((np.bincount(index, weights=expected) / np.bincount(index)).mean())
