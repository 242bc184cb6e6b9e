"""Ways to route the queries of a one-turn suite, from one model throughout to an oracle.

A routing is an array of choice probabilities, shape (N, M), whose rows sum to 1; N queries, M models.
"""

from collections.abc import Iterable

import numpy as np

from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import BoolArray, FloatArray, IntArray, Observation
from mtrouter_rl.studies.query_tables.table import SOLVED_SCORE, OneTurnTable, best_model, best_of_rows

DEFAULT_FOLDS = 5
_ROUTER_BATCH = 512


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
    return routing_of(best_of_rows(table.scores, table.costs_usd), len(table.models))


def cheapest_correct_routing(table: OneTurnTable, *, solved_score: float = SOLVED_SCORE) -> FloatArray:
    """Per query the cheapest model that solves it; where none does, the cheapest of all, as nothing is gained; (N, M)."""
    solved = table.scores >= solved_score
    return routing_of(best_of_rows(solved.astype(np.float64), table.costs_usd), len(table.models))


def task_table_routing(
    table: OneTurnTable, *, seed: int, n_folds: int = DEFAULT_FOLDS, usd_weight: float = 0.0
) -> FloatArray:
    """Per task the model that was best on the other folds: what knowing the task alone is worth, out of sample.

    Queries are dealt to folds at random. For each fold, every task gets the model of the highest mean score minus
    `usd_weight` times mean cost over its queries in the other folds (of several the cheaper); a task without queries there
    gets the model that is best over all of them.

    Args:
        table: Scores and costs.
        seed: Deals the queries.
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
    folds = np.random.default_rng(seed).permutation(table.n_queries) % n_folds
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
    overall = best_model(values.sum(axis=0), costs.sum(axis=0))
    best = np.where(counts > 0, best_of_rows(values / np.maximum(counts, 1)[:, None], costs), overall)
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
        np.asarray(router.action_probabilities(seen[start : start + _ROUTER_BATCH]), dtype=np.float64)
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


def check_routing(table: OneTurnTable, routing: FloatArray) -> None:
    """Make sure that an array is a routing of a table.

    Raises:
        InvalidConfigError: If it has another shape, or its rows are no probabilities.
    """
    if routing.shape != table.scores.shape:
        raise InvalidConfigError(
            f"routing has shape {routing.shape}, must be {table.scores.shape}: a row a query, a column a model"
        )
    if not _is_routing(routing):
        row = int(np.flatnonzero((routing < 0).any(axis=1) | ~np.isclose(routing.sum(axis=1), 1.0, atol=1e-6))[0])
        raise InvalidConfigError(f"row {row} of the routing is {routing[row].tolist()}, must be >= 0 and sum to 1")


def _is_routing(routing: FloatArray) -> bool:
    return bool((routing >= 0).all() and np.allclose(routing.sum(axis=1), 1.0, atol=1e-6))
