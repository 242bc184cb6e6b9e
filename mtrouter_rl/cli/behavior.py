"""`mtrouter-rl behavior`: how the policies of a run, or the behaviour policy of a dataset, route."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "behavior",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="how policies route: switches, errors and recoveries, what the choice depends on, every model's part",
        description=(
            "Reads behavior.json of a run, or works it out from the episodes of a dataset (or of a run that has none).\n"
            "What every measure means, and how to read it: docs/routing-behavior.md.\n\n"
            "example: mtrouter-rl behavior runs/quick"
        ),
    )
    parser.add_argument("folder", type=Path, metavar="RUN|DATASET", help="folder of a run, or of a dataset")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write behavior.json there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--seed", type=int, default=0, help="seed of bootstrap and shuffles (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import sys

    from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE
    from mtrouter_rl.evaluation.behavior_run import behavior_of_folder
    from mtrouter_rl.reporting.behavior_report import format_behavior

    behavior = behavior_of_folder(args.folder, seed=args.seed)
    print(behavior.model_dump_json(indent=2, by_alias=True) if args.json else format_behavior(behavior))
    if args.out is not None:
        behavior.save(args.out / BEHAVIOR_FILE)
        print(f"every number: {args.out / BEHAVIOR_FILE}", file=sys.stderr)
