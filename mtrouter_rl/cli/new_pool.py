"""`mtrouter-rl new-pool`: a pool card for a log."""

import argparse
from pathlib import Path

from mtrouter_rl.cli.formats import parse_options
from mtrouter_rl.options import Command, Group, Option, Output, shared


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.importers.new_pool import propose_pool, scan_models, write_pool
    from mtrouter_rl.datasets.importers.recognize import recognize
    from mtrouter_rl.errors import MissingDependencyError
    from mtrouter_rl.pools.price_list import load_price_list

    log_format = args.format or recognize(args.paths).format
    models, report = scan_models(log_format, args.paths, parse_options(args.option), scores=args.scores)
    try:
        prices, why_none = load_price_list(), ""
    except MissingDependencyError as error:
        prices, why_none = None, str(error)
        output.aside(f"warning: {why_none}")
    new = propose_pool(models, report, prices, why_none=why_none)
    path = write_pool(new, args.out, overwrite=args.overwrite)
    lines = [f"{path}: {len(new.models)} models of a log of format {log_format}"]
    for model, row in zip(new.models, new.listed, strict=True):
        told = f"looked up: {row.input:g} in, {row.output:g} out" if row else "no price found: fill it in"
        lines.append(f"  {model.name}: {model.n_calls} calls; {told}")
    if new.without_price:
        lines.append(f"write what is marked FILL_IN into {path} by hand: {', '.join(new.without_price)}")
    lines.append(f"confirm the prices in {path}: every cost in USD is tokens times these prices")
    if new.skipped:
        lines.append(f"not read:\n{new.skipped}")
    output.show(
        "\n".join(lines),
        {"pool": path, "format": log_format, "models": new.models, "without_price": new.without_price},
    )


COMMAND = Command(
    name="new-pool",
    group=Group.LOGS,
    summary="write a pool card for a log: its models, and prices looked up",
    description=(
        "Reads a log, lists its models, and writes a pool card with an alias for every other name of a model (vendor's prefix, "
        "date). Prices and limits are looked up in the list that LiteLLM ships (pip install 'mtrouter-rl[prices]') and marked: "
        "confirm them. What is not found is marked FILL_IN."
    ),
    examples=("calls.jsonl --out my-pool.yaml",),
    options=(
        Option("paths", "files, folders or archives", Path, "PATH", nargs="+"),
        Option("--format", "log format (default: what the log looks like)", metavar="FORMAT"),
        shared.FORMAT_OPTION,
        shared.SCORES,
        shared.out("the card", metavar="FILE"),
        shared.overwrite("another card"),
    ),
    run=_run,
)
"""The command."""
