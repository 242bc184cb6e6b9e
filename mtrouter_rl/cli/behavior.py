"""`mtrouter-rl behavior`: how the policies of a run, or the behaviour policy of a dataset, route."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output, shared


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE
    from mtrouter_rl.evaluation.behavior_run import behavior_of_folder
    from mtrouter_rl.reporting.behavior_report import format_behavior

    behavior = behavior_of_folder(args.folder, seed=args.seed)
    output.show(format_behavior(behavior), behavior)
    if args.out is not None:
        behavior.write(args.out / BEHAVIOR_FILE)
        output.aside(f"every number: {args.out / BEHAVIOR_FILE}")


COMMAND = Command(
    name="behavior",
    group=Group.REPORT,
    summary="how policies route: switches, errors and their spread, what the choice depends on",
    description=(
        "Reads behavior.json of a run, or works it out from the episodes of a dataset (or of a run that has none). What "
        "every measure means, and how to read it: docs/routing-behavior.md."
    ),
    examples=("runs/mine",),
    options=(
        Option("folder", "folder of a run, or of a dataset", Path, "RUN|DATASET"),
        shared.out("write behavior.json there", required=False),
        shared.seed("bootstrap and shuffles"),
    ),
    run=_run,
)
