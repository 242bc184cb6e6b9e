"""Rows of a one-turn suite as a table for readers, and as data for scripts."""

import dataclasses
from collections.abc import Sequence

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.studies.query_tables.run import CompareSettings, OneTurnRow
from mtrouter_rl.studies.query_tables.table import OneTurnTable


def as_data(
    table: OneTurnTable, rows: Sequence[OneTurnRow], *, settings: CompareSettings, info: DatasetInfo
) -> dict[str, object]:
    """Everything as JSON values."""
    return {
        "dataset_id": info.dataset_id,
        "assumptions": list(info.assumptions),
        "n_queries": table.n_queries,
        "n_tasks": len(set(table.tasks)),
        "models": list(table.models),
        "best_single": table.models[table.best_single],
        "settings": dataclasses.asdict(settings),
        "policies": [
            {
                "name": row.name,
                **dataclasses.asdict(row.metrics),
                "accuracy_interval": row.accuracy_interval.ends,
                "gain_over_best_interval": row.gain_interval.ends,
            }
            for row in rows
        ],
    }


_COLUMNS = (
    "accuracy",
    "95%",
    "by task",
    "USD/query",
    "> random",
    "> best",
    "95%",
    "< oracle",
    "saved",
    "at cost",
    "Pareto",
    "hard",
)


def format_rows(table: OneTurnTable, rows: Sequence[OneTurnRow], settings: CompareSettings) -> str:
    """Text table, one line a policy, and what its columns mean."""
    cells = [("policy", *_COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]
    n_hard = rows[0].metrics.n_hard if rows else 0
    return "\n".join(
        [
            f"{table.n_queries} queries of {len(set(table.tasks))} tasks, {len(table.models)} models; best single model in "
            f"hindsight: {table.models[table.best_single]}",
            "",
            *lines,
            "",
            "accuracy: mean score; by task: mean over tasks of it; > random, > best: gain over uniform choice and over the",
            "best single model; < oracle: gap to the best answer to every query; saved: cost saved against single models",
            "that perform as well; at cost: score above the hull of single models at the same cost; Pareto: distance to the",
            f"Pareto front, 0 on it; hard: share solved of the {n_hard} queries that 1 to {settings.hard_k} models solve",
        ]
    )


def _cells(row: OneTurnRow) -> tuple[str, ...]:
    metrics = row.metrics
    return (
        row.name,
        f"{metrics.accuracy:.4f}",
        _ends(row.accuracy_interval.ends, sign=""),
        f"{metrics.task_mean_accuracy:.4f}",
        f"{metrics.cost_usd:.3g}",
        _signed(metrics.gain_over_random),
        _signed(metrics.gain_over_best),
        _ends(row.gain_interval.ends, sign="+"),
        f"{metrics.gap_to_oracle:.4f}",
        _percent(metrics.cost_saved_at_equal_performance),
        _signed(metrics.performance_gained_at_equal_cost),
        f"{metrics.pareto_distance:.4f}",
        _percent(metrics.recall_on_hard),
    )


def _ends(ends: tuple[float, float] | None, *, sign: str) -> str:
    return "-" if ends is None else f"[{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{round(share, 3) + 0.0:.1%}"  # no "-0.0%"


def _signed(difference: float) -> str:
    return f"{round(difference, 4) + 0.0:+.4f}"
