"""`mtrouter-rl lab one-turn`: exact metrics of routers on a table of queries x models."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.options import Command, Option, Output, shared, values

if TYPE_CHECKING:
    from mtrouter_rl.datasets.info import DatasetInfo
    from mtrouter_rl.records import FloatArray
    from mtrouter_rl.studies.query_tables.table import OneTurnTable


_IN_SAMPLE = (
    "a router that was trained on these queries has seen their outcomes; compare those that were trained on others"
)


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.studies.query_tables.metrics import default_hard_k, hard_queries
    from mtrouter_rl.studies.query_tables.report import as_data, format_rows
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
        as_data(table, rows, settings=settings, info=dataset.info),
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
