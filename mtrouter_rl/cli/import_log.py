"""`mtrouter-rl import`: a log of another program becomes a dataset."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml

from mtrouter_rl.errors import InvalidConfigError, unknown_name


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "import",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="turn a log of another program into a dataset",
        description=(
            "Reads files, folders and archives in place, converts them to a validated dataset, and reports what was left\n"
            "out and why. Every model of the log must be in the pool card, by name or alias, with its prices.\n"
            "An export (jsonl, minari) becomes the dataset that it was made of; it needs no pool.\n\n"
            "example: mtrouter-rl import openai-jsonl calls.jsonl --pool my-pool.yaml --out logs/mine\n"
            "example: mtrouter-rl import minari exports/minari --out logs/mine\n"
            "formats and their options: mtrouter-rl import --list"
        ),
    )
    parser.add_argument("format", nargs="?", metavar="FORMAT", help="log format, see --list")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files, folders or archives")
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card with the prices")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--id", metavar="NAME-vN", help="id of the dataset (default: FORMAT-v1)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the format; may be given often"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another dataset that lies there")
    parser.add_argument("--list", action="store_true", help="list the formats and their options, and stop")
    parser.set_defaults(run=run)


def parse_options(texts: Sequence[str]) -> dict[str, object]:
    """Options given as NAME=VALUE, the value in YAML.

    Raises:
        InvalidConfigError: If a text is not of that form.

    Example:
        >>> parse_options(["hidden_tokens=1000", "name=x"])
        {'hidden_tokens': 1000, 'name': 'x'}
    """
    options: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidConfigError(f"--option is '{text}', must be NAME=VALUE")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidConfigError(f"--option {name}: '{value}' is no YAML value: {error}") from error
    return options


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
    from mtrouter_rl.registry import IMPORTERS, RESTORERS

    if args.list:
        print(list_formats())
        return
    if args.format in RESTORERS.targets():
        _restore(args)
        return
    if args.format and args.format not in IMPORTERS.targets():
        raise unknown_name("log format", args.format, [*IMPORTERS.targets(), *RESTORERS.targets()])
    missing = [name for name in ("format", "paths", "pool", "out") if not getattr(args, name)]
    if missing:
        raise InvalidConfigError(f"missing: {', '.join(missing)}; see mtrouter-rl import --help")
    report = import_log(
        ImportRequest(
            format=args.format,
            paths=tuple(args.paths),
            pool=load_pool_card(args.pool),
            out=args.out,
            options=parse_options(args.option),
            dataset_id=args.id,
            overwrite=args.overwrite,
        )
    )
    print(f"{report}\ndataset: {args.out} (see mtrouter-rl inspect {args.out})")


def _restore(args: argparse.Namespace) -> None:
    from mtrouter_rl.exporters.base import restore_dataset

    needless = [f"--{name}" for name in ("pool", "id", "option") if getattr(args, name)]
    if needless:
        raise InvalidConfigError(
            f"{', '.join(needless)} given, but a {args.format} export says itself what it is; leave that out"
        )
    if len(args.paths) != 1 or args.out is None:
        raise InvalidConfigError(f"a {args.format} export needs one PATH and --out; see mtrouter-rl import --help")
    info = restore_dataset(args.format, args.paths[0], args.out, overwrite=args.overwrite)
    print(f"dataset '{info.dataset_id}': {args.out} (see mtrouter-rl inspect {args.out})")


def list_formats() -> str:
    """Every format with its description and options."""
    from mtrouter_rl.datasets.importers.base import Importer
    from mtrouter_rl.registry import IMPORTERS, RESTORERS

    lines: list[str] = []
    for name in sorted(IMPORTERS.targets()):
        kind = cast(type[Importer], IMPORTERS.load(name))
        lines.append(f"{name}: {kind.description}")
        for option, field in kind.options_model.model_fields.items():
            default = "required" if field.is_required() else f"default {field.default!r}"
            lines.append(f"    {option} ({default}): {field.description or ''}")
    lines += [
        f"{name}: what 'mtrouter-rl export {name}' wrote; needs no --pool" for name in sorted(RESTORERS.targets())
    ]
    return "\n".join(lines)
