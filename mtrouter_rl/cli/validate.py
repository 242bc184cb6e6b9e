"""`mtrouter-rl validate`: whether a dataset keeps every rule; its upgrade; the schema itself."""

import argparse
import json
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "validate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="check every rule of a dataset, upgrade it, or print the schema",
        description=(
            "Checks every rule of a dataset, and that it does not leak into splits that lie beside it (DIR/train, DIR/test).\n"
            "A violation is named by file, episode, turn and field, with the rule and what to do.\n\n"
            "example: mtrouter-rl validate logs/mine --upgrade logs/mine-new"
        ),
    )
    parser.add_argument("dataset", nargs="?", type=Path, metavar="DATASET", help="folder of the dataset")
    parser.add_argument("--upgrade", type=Path, metavar="OUT", help="write it in the present schema version to OUT")
    parser.add_argument("--schema", action="store_true", help="print the schema as JSON, and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.datasets.check_dataset import check_dataset
    from mtrouter_rl.datasets.rewrite import upgrade_dataset
    from mtrouter_rl.datasets.schema import dataset_schema

    if args.schema:
        print(json.dumps(dataset_schema(), indent=2, ensure_ascii=False))
        return
    if args.dataset is None:
        raise InvalidConfigError("missing: DATASET; give the folder of a dataset, or --schema")
    print(check_dataset(args.dataset))
    if args.upgrade is not None:
        info = upgrade_dataset(args.dataset, args.upgrade)
        print(f"upgraded: {args.upgrade}, schema version {info.schema_version}")
