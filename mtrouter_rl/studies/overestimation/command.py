"""`mtrouter-rl overestimation`: predicted minus achieved return of the routers of a run."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "overestimation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="do the routers' Q-values come true: predicted minus achieved return, per router and learner",
        description=(
            "Asks the routers of finished runs again about every turn of their own episodes, and compares the Q-value of the\n"
            "model that was called with what the episode went on to earn. Nothing is run. Writes overestimation.json into\n"
            "every RUN, and prints one table of all of them. What it means: docs/learners.md.\n\n"
            "example: mtrouter-rl overestimation runs/quick"
        ),
    )
    parser.add_argument(
        "run_folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of an evaluation or a study (holds results.json)",
    )
    parser.add_argument(
        "--router",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        dest="routers",
        help="folders of the routers that were evaluated (default: RUN/routers, where a study puts them)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.studies.overestimation.run import OVERESTIMATION_FILE, measure_overestimation, overestimation_table

    found = [(str(folder), measure_overestimation(folder, routers=args.routers)) for folder in args.run_folders]
    for folder, (_, one) in zip(args.run_folders, found, strict=True):
        one.save(folder)
    print(to_plain(overestimation_table(found)))
    for name, one in found:
        if one.without_values:
            print(f"\n{name}, without Q-values or without a router folder: {', '.join(one.without_values)}")
        print(f"\nevery number: {Path(name) / OVERESTIMATION_FILE}")
