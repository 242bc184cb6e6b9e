"""`mtrouter-rl lab one-turn`: exact metrics of routers on a table of queries x models."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.options import Command, Option, shared, values
from mtrouter_rl.options.output import Output

if TYPE_CHECKING:
    from mtrouter_rl.datasets.info import DatasetInfo
    from mtrouter_rl.records import FloatArray
    from mtrouter_rl.studies.query_tables.run import CompareSettings, OneTurnRow
    from mtrouter_rl.studies.query_tables.table import OneTurnTable


_IN_SAMPLE = (
    "a router that was trained on these queries has seen their outcomes; compare those that were trained on others"
)


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.studies.query_tables.metrics import default_hard_k, hard_queries
    from mtrouter_rl.studies.query_tables.run import CompareSettings, baseline_routings, compare
    from mtrouter_rl.studies.query_tables.table import OneTurnTable

    dataset = Dataset.load(args.dataset)
    table = OneTurnTable.of(dataset)
    settings = CompareSettings(
        hard_k=default_hard_k(table) if args.k is None else args.k,
        **values(args, "usd_weight", "seed", solved_score="solved", n_folds="folds", n_resamples="resamples"),
    )
    hard_queries(table, hard_k=settings.hard_k, solved_score=settings.solved_score)  # refuses before the long part
    routings = baseline_routings(table, settings) | _router_routings(table, dataset.info, args.router, args.cache)
    rows = compare(table, routings, settings)
    notes = [f"note: {_IN_SAMPLE}"] if args.router else []
    notes += [f"assumed: {assumption}" for assumption in dataset.info.assumptions]
    output.show(
        "\n".join([format_rows(table, rows, settings), *notes]),
        _as_data(table, rows, settings=settings, info=dataset.info),
    )


def _router_routings(
    table: "OneTurnTable", info: "DatasetInfo", texts: Sequence[str], cache: Path | None
) -> dict[str, "FloatArray"]:
    if not texts:
        return {}
    from mtrouter_rl.agents.resolve import resolve_router
    from mtrouter_rl.datasets.logged import logged_pool
    from mtrouter_rl.embeddings.history_sources import observations_of
    from mtrouter_rl.studies.query_tables.routings import router_routing

    pool = logged_pool(info)
    observations = [observations_of(episode, pool)[0] for episode in table.examples]
    return {
        f"router:{text}": router_routing(table, resolve_router(text, pool, cache=cache), observations) for text in texts
    }


def _as_data(
    table: "OneTurnTable", rows: Sequence["OneTurnRow"], *, settings: "CompareSettings", info: "DatasetInfo"
) -> dict[str, object]:
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


def format_rows(table: "OneTurnTable", rows: Sequence["OneTurnRow"], settings: "CompareSettings") -> str:
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


def _cells(row: "OneTurnRow") -> tuple[str, ...]:
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


COMMAND = Command(
    name="one-turn",
    summary="metrics of routers on a one-turn suite, where every model answered every query",
    description=(
        "Compares the single models, random choice, a per-task table (cross-validated), two oracles, and the routers that "
        "are given: accuracy, cost, gain over the best single model and over random, gap to the oracle, cost saved at "
        "equal performance, performance gained at equal cost, distance to the Pareto front, recall on hard queries. "
        "Nothing is estimated: every outcome is in the table. A router that was trained on these queries knows them."
    ),
    examples=("logs/suite", "logs/suite-test --router runs/suite/fitted-q"),
    options=(
        Option("dataset", "folder of an imported query x model table", Path, "DATASET"),
        Option("--router", "folders of trained routers, or policies", nargs="+", default=[], metavar="NAME|DIR"),
        Option("--k", "a query is hard if 1 to K models solve it (default: 2; 1 if there are 2 models)", int, "K"),
        Option("--solved", "score from which a query counts as solved", float, "S", default=1.0),
        Option("--folds", "folds of the per-task table", int, "F", default=5),
        Option("--usd-weight", "score that the per-task table gives up for 1 USD", float, "W", default=0.0),
        Option("--resamples", "bootstrap resamples", int, "N", default=1000),
        shared.seed("folds and bootstrap"),
        Option("--cache", "folder of the embedding cache", Path, "DIR"),
    ),
    run=_run,
)
