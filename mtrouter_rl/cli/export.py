"""`mtrouter-rl export`: a dataset in a standard format of the field."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from mtrouter_rl.cli.formats import describe_format, format_list, parse_options
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared

if TYPE_CHECKING:
    from mtrouter_rl.exporters.base import Exporter
    from mtrouter_rl.records import Frozen


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.exporters.base import export_dataset, load_exporter
    from mtrouter_rl.registry import EXPORTERS

    if args.list:
        exporters = [(name, cast("Exporter[Frozen]", one)) for name, one in EXPORTERS.load_all().items()]
        formats = [describe_format(name, one.description, one.options_model) for name, one in exporters]
        output.show(format_list(formats), formats)
        return
    missing = [name for name in ("format", "dataset", "out") if not getattr(args, name)]
    if missing:
        raise InvalidConfigError(f"missing: {', '.join(missing)}; see mtrouter-rl export --help")
    options = parse_options(args.option)
    if args.encoder is not None:
        options["encoder"] = args.encoder
    export_dataset(args.format, args.dataset, args.out, options)
    summary = load_exporter(args.format).summary
    told = "" if summary is None else f"\n{summary(args.out)}"
    output.show(f"export: {args.out}{told}", {"format": args.format, "export": args.out})


COMMAND = Command(
    name="export",
    group=Group.LOGS,
    summary="write a dataset in a standard format",
    description=(
        "Writes jsonl, minari, d3rlpy, huggingface or distillation. The first two lose nothing: 'mtrouter-rl import FORMAT "
        "PATH --out DIR' makes an equal dataset of them again."
    ),
    examples=(
        "jsonl logs/corridor --out exports/corridor.jsonl",
        "distillation logs/corridor --out exports/distillation",
        "--list",
    ),
    options=(
        shared.FORMAT,
        replace(shared.LOG_FOLDER, nargs="?"),
        shared.out("file (jsonl), or new or empty folder (all others)", metavar="PATH", required=False),
        Option("--encoder", "text encoder; short for --option encoder=NAME", metavar="NAME"),
        shared.FORMAT_OPTION,
        shared.LIST,
    ),
    run=_run,
)
