"""Comparison of routers on a one-turn suite with everything that is always computed: single models, random, oracles.

The table, the ways to route and the metrics have modules of their own: `one_turn_table`, `one_turn_routings`,
`one_turn_metrics`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.query_tables.metrics import (
    DEFAULT_HARD_K,
    OneTurnMetrics,
    accuracy_interval,
    gain_interval,
    one_turn_metrics,
    point_of,
)
from mtrouter_rl.studies.query_tables.routings import (
    DEFAULT_FOLDS,
    cheapest_correct_routing,
    check_routing,
    oracle_routing,
    random_routing,
    single_routing,
    task_table_routing,
)
from mtrouter_rl.studies.query_tables.table import SOLVED_SCORE, OneTurnTable


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
    accuracy_interval: Estimate
    gain_interval: Estimate


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
    routings = {single_policy(name): single_routing(table, index) for index, name in enumerate(table.models)}
    routings["random"] = random_routing(table)
    routings["task table (cross-validated)"] = task_table_routing(
        table, seed=settings.seed, n_folds=settings.n_folds, usd_weight=settings.usd_weight
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
        check_routing(table, routing)
    rivals = [point_of(table, routing) for name, routing in routings.items() if name not in ORACLES]
    rows = []
    for name, routing in routings.items():
        metrics = one_turn_metrics(
            table, routing, hard_k=settings.hard_k, solved_score=settings.solved_score, rivals=rivals
        )
        # The same draws for every policy, so that their intervals are comparable.
        rows.append(
            OneTurnRow(
                name=name,
                metrics=metrics,
                accuracy_interval=accuracy_interval(
                    table, routing, seed=settings.seed, n_resamples=settings.n_resamples
                ),
                gain_interval=gain_interval(table, routing, seed=settings.seed, n_resamples=settings.n_resamples),
            )
        )
    return tuple(rows)
