"""`mtrouter-rl export`: a dataset in a standard format of the field."""

import argparse
from pathlib import Path

from mtrouter_rl.cli.import_log import parse_options
from mtrouter_rl.errors import InvalidConfigError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="write a dataset in a standard format",
        description=(
            "Writes jsonl, minari, d3rlpy or huggingface. The first two lose nothing: 'mtrouter-rl import FORMAT PATH\n"
            "--out DIR' makes an equal dataset of them again.\n\n"
            "example: mtrouter-rl export minari logs/mine --encoder hashing --out exports/minari\n"
            "formats and their options: mtrouter-rl export --list"
        ),
    )
    parser.add_argument("format", nargs="?", metavar="FORMAT", help="export format, see --list")
    parser.add_argument("dataset", nargs="?", type=Path, metavar="DATASET", help="folder of the dataset")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file (jsonl), or new or empty folder (all others)")
    parser.add_argument("--encoder", metavar="NAME", help="text encoder; short for --option encoder=NAME")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the format; may be given often"
    )
    parser.add_argument("--list", action="store_true", help="list the formats and their options, and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.exporters.base import export_dataset

    if args.list:
        print(list_formats())
        return
    missing = [name for name in ("format", "dataset", "out") if not getattr(args, name)]
    if missing:
        raise InvalidConfigError(f"missing: {', '.join(missing)}; see mtrouter-rl export --help")
    options = parse_options(args.option)
    if args.encoder is not None:
        options["encoder"] = args.encoder
    export_dataset(args.format, args.dataset, args.out, options)
    print(f"export: {args.out}")


def list_formats() -> str:
    """Every format with its description and options."""
    from mtrouter_rl.exporters.base import load_exporter
    from mtrouter_rl.registry import EXPORTERS

    lines: list[str] = []
    for name in sorted(EXPORTERS.targets()):
        exporter = load_exporter(name)
        lines.append(f"{name}: {exporter.description}")
        for option, field in exporter.options_model.model_fields.items():
            default = "required" if field.is_required() else f"default {field.default!r}"
            lines.append(f"    {option} ({default}): {field.description or ''}")
    return "\n".join(lines)
