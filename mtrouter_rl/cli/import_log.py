"""`mtrouter-rl import`: a log of another program becomes a dataset. `mtrouter-rl suite`: runs become an environment."""

import argparse
from pathlib import Path
from typing import cast

from mtrouter_rl.cli.formats import describe_format, format_list, parse_options
from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.options import Command, Group, Option, Output, shared, values
from mtrouter_rl.options.suite import SUITE_OPTIONS, suite_request


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.datasets.importers.run import ImportRequest, check_left_out, import_log
    from mtrouter_rl.registry import IMPORTERS, RESTORERS

    if args.list:
        formats = _formats()
        output.show(format_list(formats), formats)
        return
    if args.format in RESTORERS.targets():
        _restore(args, output)
        return
    if args.format and args.format not in IMPORTERS.targets():
        raise unknown_name("log format", args.format, [*IMPORTERS.targets(), *RESTORERS.targets()])
    missing = [name for name in ("format", "paths", "pool", "out") if not getattr(args, name)]
    if missing:
        raise InvalidConfigError(f"missing: {', '.join(missing)}; see mtrouter-rl import --help")
    report = import_log(
        ImportRequest(
            paths=tuple(args.paths),
            pool=load_pool_card(args.pool),
            options=parse_options(args.option),
            scores=tuple(args.scores),
            **values(args, "format", "out", "overwrite", dataset_id="id"),
        )
    )
    output.show(report, {**report.to_json(), "dataset": args.out})
    output.say(f"dataset: {args.out} (see mtrouter-rl inspect {args.out})")
    check_left_out(report.to_json(), max_share=args.max_left_out, out=args.out)


def _restore(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.exporters.base import restore_dataset

    needless = [f"--{name}" for name in ("pool", "id", "option") if getattr(args, name)]
    needless += ["--scores"] if args.scores else []
    if needless:
        raise InvalidConfigError(
            f"{', '.join(needless)} given, but a {args.format} export says itself what it is; leave that out"
        )
    if len(args.paths) != 1 or args.out is None:
        raise InvalidConfigError(f"a {args.format} export needs one PATH and --out; see mtrouter-rl import --help")
    info = restore_dataset(args.format, args.paths[0], args.out, overwrite=args.overwrite)
    output.show(
        f"dataset '{info.dataset_id}': {args.out} (see mtrouter-rl inspect {args.out})",
        {"dataset_id": info.dataset_id, "dataset": args.out},
    )


def _formats() -> list[dict[str, object]]:
    from mtrouter_rl.datasets.importers.base import Importer
    from mtrouter_rl.registry import IMPORTERS, RESTORERS

    kinds = [(name, cast(type[Importer], kind)) for name, kind in IMPORTERS.load_all().items()]
    return [describe_format(name, kind.description, kind.options_model) for name, kind in kinds] + [
        describe_format(name, f"what 'mtrouter-rl export {name}' wrote; needs no --pool")
        for name in sorted(RESTORERS.targets())
    ]


COMMAND = Command(
    name="import",
    group=Group.LOGS,
    summary="turn a log of another program into a dataset",
    description=(
        "Reads files, folders and archives in place, converts them to a validated dataset, and reports what was left out and "
        "why. Every model of the log must be in the pool card, by name or alias, with its prices. An export (jsonl, minari) "
        "becomes the dataset that it was made of; it needs no pool."
    ),
    examples=(
        "openai-jsonl calls.jsonl --pool my-pool.yaml --out logs/mine",
        "openai-jsonl calls.jsonl --scores scores.csv --pool my-pool.yaml --out logs/mine",
        "jsonl exports/corridor.jsonl --out logs/corridor-again",
        "--list",
    ),
    options=(
        shared.FORMAT,
        Option("paths", "files, folders or archives", Path, "PATH", nargs="*"),
        Option("--pool", "model-pool card with the prices", metavar="NAME|PATH"),
        shared.out("folder of the dataset", required=False),
        shared.dataset_id("id of the dataset (default: FORMAT-v1)"),
        shared.FORMAT_OPTION,
        shared.SCORES,
        shared.MAX_LEFT_OUT,
        shared.overwrite("another dataset"),
        shared.LIST,
    ),
    run=_run,
)


def _make_suite(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.importers.suites.folder import write_suite

    suite = write_suite(suite_request(args), args.out, overwrite=args.overwrite)
    told = [
        f"suite '{suite.head.name}': {suite.n_tasks} tasks in {len(suite.groups)} groups, {len(suite.models)} models, "
        f"{len(suite.turns)} runs turn by turn",
        *suite.head.notes,
        f"environment: {args.out / 'env.yaml'} (use it as --env; its pool lies beside it)",
    ]
    output.show("\n".join(told), suite.head)


SUITE = Command(
    name="suite",
    group=Group.LOGS,
    summary="make an environment of runs in which every model ran every task",
    description=(
        "Reads outcomes (task, model, score, cost, turns) and, if they are given, task texts and trajectories, and writes "
        "a folder "
        "with the runs, an environment card and a pool card. In that environment the model that is called goes on along its "
        "logged run, and another one starts the task afresh. Costs are those of the log; no tokens are needed."
    ),
    examples=("outcomes.csv tasks.jsonl --out suites/mine",),
    options=(*SUITE_OPTIONS, shared.out("folder of the suite"), shared.overwrite("a suite that is in the folder")),
    run=_make_suite,
)
