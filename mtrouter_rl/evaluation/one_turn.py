"""Metrics of one-turn suites, in which every model has answered every query, so that no outcome has to be estimated.

Notation: N queries, M models; s[i, m] is the score and c[i, m] the cost (USD) of model m on query i; w[i, m] is the
probability with which a router chooses m for i. Router accuracy A = mean_i sum_m w s, router cost C = mean_i sum_m w c;
(A_m, C_m) are those of a single model. "Best" is the single model of highest A_m (of several the cheapest), in hindsight
on the same queries.

Source: the names and meanings of LLMRouterBench (arXiv 2601.07206, README of github.com/ynulihao/LLMRouterBench: AvgAcc,
Gain@R, Gain@B, Gap@O, PerfGain, CostSave, ParetoDist, model-recall failure), whose release has no code for them and whose
exact formulas were not at hand. Where it leaves a choice, ours is in the docstring of the metric.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, RouterError
from mtrouter_rl.evaluation.hull import CostScore, hull_gain, upper_hull
from mtrouter_rl.evaluation.statistics import Interval, clustered_mean_interval
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import BoolArray, Episode, FloatArray, IntArray, Observation

SOLVED_SCORE = 1.0
"""A query is solved by a model whose score is at least this."""
DEFAULT_HARD_K = 2
DEFAULT_FOLDS = 5
_ROUTER_BATCH = 512
_SCORE_TOLERANCE = 1e-12
_PARETO_TOLERANCE = 1e-9
"""In ranges of the single models."""

QueryKey = tuple[str, int]
"""(task, variation)."""


@dataclass(frozen=True, kw_only=True)
class OneTurnTable:
    """Scores and costs of every model on every query.

    Attributes:
        models: Names in action order, length M.
        queries: (task, variation) of every query, length N, in the order of the dataset.
        scores: Scores, shape (N, M).
        costs_usd: Costs of the calls, USD, shape (N, M).
        examples: One episode of every query, whose start is what a router sees; length N.
    """

    models: tuple[str, ...]
    queries: tuple[QueryKey, ...]
    scores: FloatArray
    costs_usd: FloatArray
    examples: tuple[Episode, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "OneTurnTable":
        """Table of a dataset in which every model has answered every query exactly once.

        Args:
            dataset: Its completed episodes, each of one turn.

        Raises:
            DatasetError: If there is no query, an episode has another number of turns than one, another model answered
                than was chosen, a model answered a query twice, answers to one query show different starts, or an
                answer is missing; names the first.
        """
        answers: dict[QueryKey, dict[str, Episode]] = {}
        for episode in dataset.completed:
            _add_answer(answers, episode)
        if not answers:
            raise DatasetError(f"dataset '{dataset.info.dataset_id}' has no completed episode, so there is no query")
        models = dataset.info.model_names
        _check_complete(answers, models, dataset.info.dataset_id)
        rows = [[found[model] for model in models] for found in answers.values()]
        return cls(
            models=models,
            queries=tuple(answers),
            scores=np.array([[episode.utility for episode in row] for row in rows], dtype=np.float64),
            costs_usd=np.array([[episode.cost_usd for episode in row] for row in rows], dtype=np.float64),
            examples=tuple(row[0] for row in rows),
        )

    @property
    def n_queries(self) -> int:
        """N."""
        return len(self.queries)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task of every query, length N."""
        return tuple(task for task, _ in self.queries)

    @property
    def best_single(self) -> int:
        """Model of the highest mean score; of several the one of the lowest mean cost, then the first."""
        return _best(self.scores.mean(axis=0), self.costs_usd.mean(axis=0))

    @property
    def single_points(self) -> tuple[CostScore, ...]:
        """(mean cost, mean score) of every single model, length M."""
        costs, scores = self.costs_usd.mean(axis=0).tolist(), self.scores.mean(axis=0).tolist()
        return tuple(zip(costs, scores, strict=True))


def _add_answer(answers: dict[QueryKey, dict[str, Episode]], episode: Episode) -> None:
    where = f"episode '{episode.episode_id}'"
    if len(episode.turns) != 1:
        raise DatasetError(
            f"{where} has {len(episode.turns)} turns, must have 1; one-turn metrics are for query x model tables only"
        )
    turn = episode.turns[0]
    if turn.model != turn.served_model:
        raise DatasetError(
            f"{where}: model is '{turn.model}', but '{turn.served_model}' answered; leave the episode out, its outcome is "
            "not the chosen model's"
        )
    found = answers.setdefault((episode.task, episode.variation), {})
    if turn.model in found:
        raise DatasetError(
            f"{where}: model '{turn.model}' has answered task '{episode.task}', variation {episode.variation} before, in "
            f"episode '{found[turn.model].episode_id}'; keep one answer per query and model"
        )
    first = next(iter(found.values()), episode)
    if (first.task_text, first.first_observation) != (episode.task_text, episode.first_observation):
        raise DatasetError(
            f"{where}: its text differs from that of episode '{first.episode_id}', but both are task '{episode.task}', "
            f"variation {episode.variation}; give every query a variation of its own"
        )
    found[turn.model] = episode


def _check_complete(answers: Mapping[QueryKey, Mapping[str, Episode]], models: Sequence[str], dataset_id: str) -> None:
    missing = [(key, model) for key, found in answers.items() for model in models if model not in found]
    if missing:
        (task, variation), model = missing[0]
        raise DatasetError(
            f"dataset '{dataset_id}': task '{task}', variation {variation} has no answer of model '{model}' (first of "
            f"{len(missing)} missing pairs out of {len(answers) * len(models)}); every model of info.json must have "
            "answered every query: import with a pool card of fewer models, or filter the queries that lack one"
        )


# Ways to route. A routing is an array of choice probabilities, shape (N, M), whose rows sum to 1.


def routing_of(choices: IntArray, n_models: int) -> FloatArray:
    """Routing of fixed choices.

    Args:
        choices: Index of the chosen model of every query, shape (N,).
        n_models: M.

    Returns:
        Choice probabilities, 0 or 1, shape (N, M).

    Raises:
        InvalidConfigError: If a choice is no model index.

    Example:
        >>> routing_of(np.array([1, 0]), 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if choices.ndim != 1 or not np.issubdtype(choices.dtype, np.integer):
        raise InvalidConfigError(f"choices have shape {choices.shape} and type {choices.dtype}, must be (N,) integers")
    if len(choices) and not (choices.min() >= 0 and choices.max() < n_models):
        raise InvalidConfigError(
            f"choices lie in [{choices.min()}, {choices.max()}], must be indices of the {n_models} models"
        )
    return np.eye(n_models)[choices]


def single_routing(table: OneTurnTable, model: int) -> FloatArray:
    """Always the same model, shape (N, M)."""
    return routing_of(np.full(table.n_queries, model), len(table.models))


def random_routing(table: OneTurnTable) -> FloatArray:
    """Every model with the same probability: metrics are exact expectations, nothing is drawn; shape (N, M)."""
    return np.full(table.scores.shape, 1 / len(table.models))


def oracle_routing(table: OneTurnTable) -> FloatArray:
    """Per query the model of the best score, of several the cheapest; shape (N, M).

    Source: `get_highest_accuracy_lowest_cost` of RouterBench's code has the same rule.
    """
    return routing_of(_best_of_rows(table.scores, table.costs_usd), len(table.models))


def cheapest_correct_routing(table: OneTurnTable, *, solved_score: float = SOLVED_SCORE) -> FloatArray:
    """Per query the cheapest model that solves it; where none does, the cheapest of all, as nothing is gained; (N, M)."""
    solved = table.scores >= solved_score
    return routing_of(_best_of_rows(solved.astype(np.float64), table.costs_usd), len(table.models))


def task_table_routing(
    table: OneTurnTable, *, rng: np.random.Generator, n_folds: int = DEFAULT_FOLDS, usd_weight: float = 0.0
) -> FloatArray:
    """Per task the model that was best on the other folds: what knowing the task alone is worth, out of sample.

    Queries are dealt to folds at random. For each fold, every task gets the model of the highest mean score minus
    `usd_weight` times mean cost over its queries in the other folds (of several the cheaper); a task without queries there
    gets the model that is best over all of them.

    Args:
        table: Scores and costs.
        rng: Deals the queries.
        n_folds: From 2 to N.
        usd_weight: Score that one USD is worth, at least 0; 0 looks at scores alone.

    Returns:
        Choice probabilities, 0 or 1, shape (N, M).

    Raises:
        InvalidConfigError: If a number is out of range.

    Source: the "dataset oracle" (Max Expert) of LLMRouterBench takes the best model per data set in hindsight; here it is
    cross-validated.
    """
    if not 2 <= n_folds <= table.n_queries:
        raise InvalidConfigError(f"n_folds is {n_folds}, must be from 2 to the number of queries, {table.n_queries}")
    if not 0 <= usd_weight < np.inf:
        raise InvalidConfigError(f"usd_weight is {usd_weight}, must be a finite number of at least 0")
    folds = rng.permutation(table.n_queries) % n_folds
    tasks = np.unique(np.array(table.tasks), return_inverse=True)[1]
    choices = np.zeros(table.n_queries, dtype=np.int64)
    for fold in range(n_folds):
        is_out = folds == fold
        choices[is_out] = _table_choices(table, tasks, is_out, usd_weight)
    return routing_of(choices, len(table.models))


def _table_choices(table: OneTurnTable, tasks: IntArray, is_out: BoolArray, usd_weight: float) -> IntArray:
    """Choices for the queries of a fold, from all others."""
    counts = np.bincount(tasks[~is_out], minlength=tasks.max() + 1)
    values, costs = np.zeros((len(counts), len(table.models))), np.zeros((len(counts), len(table.models)))
    np.add.at(values, tasks[~is_out], (table.scores - usd_weight * table.costs_usd)[~is_out])
    np.add.at(costs, tasks[~is_out], table.costs_usd[~is_out])
    overall = _best(values.sum(axis=0), costs.sum(axis=0))
    best = np.where(counts > 0, _best_of_rows(values / np.maximum(counts, 1)[:, None], costs), overall)
    return best[tasks[is_out]]


def router_routing(table: OneTurnTable, router: Router, observations: Iterable[Observation]) -> FloatArray:
    """What a router does on every query.

    Args:
        table: Scores and costs.
        router: A router over the table's models, in their order.
        observations: What it sees before the turn of every query, length N.

    Returns:
        Its choice probabilities, shape (N, M).

    Raises:
        RouterError: If it returns anything but probabilities of that shape.
    """
    seen = list(observations)
    batches = [
        np.asarray(router.propensities(seen[start : start + _ROUTER_BATCH]), dtype=np.float64)
        for start in range(0, len(seen), _ROUTER_BATCH)
    ]
    routing = np.concatenate(batches) if batches else np.zeros((0, len(table.models)))
    if routing.shape != table.scores.shape:
        raise RouterError(
            f"router '{router.name}' returned probabilities of shape {routing.shape}, must be {table.scores.shape}"
        )
    if not _is_routing(routing):
        raise RouterError(
            f"router '{router.name}' returned rows that are no probabilities; each must be >= 0 and sum to 1"
        )
    return routing


def _is_routing(routing: FloatArray) -> bool:
    return bool((routing >= 0).all() and np.allclose(routing.sum(axis=1), 1.0, atol=1e-6))


# Metrics of a routing.


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
    _check_routing(table, routing)
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
        reaches_best=accuracy >= best - _SCORE_TOLERANCE,
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


def accuracy_interval(
    table: OneTurnTable, routing: FloatArray, *, rng: np.random.Generator, n_resamples: int
) -> Interval:
    """Bootstrap interval of A over queries.

    Raises:
        InvalidConfigError: As `one_turn_metrics` and `clustered_mean_interval`.
    """
    _check_routing(table, routing)
    values = (routing * table.scores).sum(axis=1)
    return clustered_mean_interval(values, range(table.n_queries), rng=rng, n_resamples=n_resamples)


def gain_interval(table: OneTurnTable, routing: FloatArray, *, rng: np.random.Generator, n_resamples: int) -> Interval:
    """Bootstrap interval of A - A_best over queries, paired.

    The best single model is that of the whole sample; that another would be best in a resample is not part of it.

    Raises:
        InvalidConfigError: As `one_turn_metrics` and `clustered_mean_interval`.
    """
    _check_routing(table, routing)
    values = (routing * table.scores).sum(axis=1) - table.scores[:, table.best_single]
    return clustered_mean_interval(values, range(table.n_queries), rng=rng, n_resamples=n_resamples)


# Comparison of everything that is always computed, and routers.


@dataclass(frozen=True, kw_only=True)
class OneTurnRow:
    """A policy and what it achieves.

    Attributes:
        name: Of the policy.
        metrics: See `one_turn_metrics`; the Pareto front is that of single models and all policies that do not look at
            outcomes.
        accuracy_interval: Bootstrap interval of accuracy.
        gain_interval: Bootstrap interval of the gain over the best single model.
    """

    name: str
    metrics: OneTurnMetrics
    accuracy_interval: Interval
    gain_interval: Interval


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """How policies are compared.

    Attributes:
        hard_k: See `hard_queries`.
        solved_score: See `hard_queries`.
        n_folds: See `task_table_routing`.
        usd_weight: See `task_table_routing`.
        n_resamples: Bootstrap resamples.
        seed: Of folds and bootstrap.
    """

    hard_k: int = DEFAULT_HARD_K
    solved_score: float = SOLVED_SCORE
    n_folds: int = DEFAULT_FOLDS
    usd_weight: float = 0.0
    n_resamples: int = 1000
    seed: int = 0


ORACLES = ("oracle", "cheapest correct")
"""Policies that look at outcomes; no router can, so they are no part of the Pareto front."""


def baseline_routings(table: OneTurnTable, settings: CompareSettings) -> dict[str, FloatArray]:
    """Name -> routing of every baseline: the single models, random, per-task table, and the two oracles.

    Raises:
        InvalidConfigError: As `task_table_routing`.
    """
    rng = np.random.default_rng(settings.seed)
    routings = {f"single:{name}": single_routing(table, index) for index, name in enumerate(table.models)}
    routings["random"] = random_routing(table)
    routings["task table (cross-validated)"] = task_table_routing(
        table, rng=rng, n_folds=settings.n_folds, usd_weight=settings.usd_weight
    )
    oracles = (oracle_routing(table), cheapest_correct_routing(table, solved_score=settings.solved_score))
    return routings | dict(zip(ORACLES, oracles, strict=True))


def compare(
    table: OneTurnTable, routings: Mapping[str, FloatArray], settings: CompareSettings
) -> tuple[OneTurnRow, ...]:
    """Metrics and intervals of several policies on the same queries.

    Args:
        table: Scores and costs.
        routings: Name -> choice probabilities, shape (N, M).
        settings: How.

    Raises:
        InvalidConfigError: As `one_turn_metrics`.
    """
    for routing in routings.values():
        _check_routing(table, routing)
    rivals = [point_of(table, routing) for name, routing in routings.items() if name not in ORACLES]
    rows = []
    for name, routing in routings.items():
        metrics = one_turn_metrics(
            table, routing, hard_k=settings.hard_k, solved_score=settings.solved_score, rivals=rivals
        )
        # The same draws for every policy, so that their intervals are comparable.
        draws = [np.random.default_rng([settings.seed, stream]) for stream in (1, 2)]
        rows.append(
            OneTurnRow(
                name=name,
                metrics=metrics,
                accuracy_interval=accuracy_interval(table, routing, rng=draws[0], n_resamples=settings.n_resamples),
                gain_interval=gain_interval(table, routing, rng=draws[1], n_resamples=settings.n_resamples),
            )
        )
    return tuple(rows)


def _check_routing(table: OneTurnTable, routing: FloatArray) -> None:
    if routing.shape != table.scores.shape:
        raise InvalidConfigError(
            f"routing has shape {routing.shape}, must be {table.scores.shape}: a row a query, a column a model"
        )
    if not _is_routing(routing):
        row = int(np.flatnonzero((routing < 0).any(axis=1) | ~np.isclose(routing.sum(axis=1), 1.0, atol=1e-6))[0])
        raise InvalidConfigError(f"row {row} of the routing is {routing[row].tolist()}, must be >= 0 and sum to 1")


def _recall(solved: BoolArray, routing: FloatArray, hard: BoolArray) -> float | None:
    return float((routing * solved).sum(axis=1)[hard].mean()) if hard.any() else None


def _share(difference: float, base: float) -> float | None:
    return difference / base if base > 0 else None


def _task_mean(expected: FloatArray, tasks: Sequence[str]) -> float:
    index = np.unique(np.array(tasks), return_inverse=True)[1]
    return float((np.bincount(index, weights=expected) / np.bincount(index)).mean())


def _best(scores: FloatArray, costs: FloatArray) -> int:
    return int(_best_of_rows(scores[None, :], costs[None, :])[0])


def _best_of_rows(scores: FloatArray, costs: FloatArray) -> IntArray:
    """Per row the column of the highest score, of several the one of the lowest cost, then the first; shape (rows,)."""
    is_top = scores >= scores.max(axis=1, keepdims=True) - _SCORE_TOLERANCE
    return np.asarray(np.where(is_top, costs, np.inf).argmin(axis=1), dtype=np.int64)
