"""`mtrouter-rl validate`: whether a dataset keeps every rule; its upgrade; the schema itself."""

import argparse
from dataclasses import replace
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared, switch, to_json


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.check_dataset import check_dataset
    from mtrouter_rl.datasets.rewrite import upgrade_dataset
    from mtrouter_rl.datasets.schema import dataset_schema

    if args.schema:
        schema = dataset_schema()
        output.show(to_json(schema), schema)
        return
    if args.dataset is None:
        raise InvalidConfigError("missing: DATASET; give the folder of a dataset, or --schema")
    report = check_dataset(args.dataset)
    text = str(report)
    if args.upgrade is not None:
        info = upgrade_dataset(args.dataset, args.upgrade)
        text += f"\nupgraded: {args.upgrade}, schema version {info.schema_version}"
    output.show(text, {**vars(report), "upgraded": args.upgrade})


COMMAND = Command(
    name="validate",
    group=Group.LOGS,
    summary="check every rule of a dataset, upgrade it, or print the schema",
    description=(
        "Checks every rule of a dataset, and that it does not leak into splits that lie beside it (DIR/train, DIR/test). A "
        "violation is named by file, episode, turn and field, with the rule and what to do."
    ),
    examples=("logs/corridor", "logs/corridor --upgrade logs/corridor-new"),
    options=(
        replace(shared.LOG_FOLDER, nargs="?"),
        Option("--upgrade", "write it in the present schema version to OUT", Path, "OUT"),
        switch("--schema", "print the schema as JSON, and stop"),
    ),
    run=_run,
)
