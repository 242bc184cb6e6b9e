"""`mtrouter-rl lab overestimation`: predicted minus achieved return of the routers of a run."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, shared


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.studies.overestimation.run import OVERESTIMATION_FILE, measure_overestimation, overestimation_table

    found = [(str(folder), measure_overestimation(folder, routers=args.routers)) for folder in args.run_folders]
    for folder, (_, one) in zip(args.run_folders, found, strict=True):
        one.save(folder)
    missing = [
        f"\n{name}, without Q-values or without a router folder: {', '.join(one.without_values)}"
        for name, one in found
        if one.without_values
    ]
    output.show("\n".join([to_plain(overestimation_table(found)), *missing]), dict(found))
    for name, _ in found:
        output.say(f"\nevery number: {Path(name) / OVERESTIMATION_FILE}")


COMMAND = Command(
    name="overestimation",
    summary="whether Q-values come true: predicted minus achieved return of every router",
    description=(
        "Asks the routers of finished runs again about every turn of their own episodes, and compares the Q-value of the "
        "model that was called with what the episode went on to earn. Nothing is run. Writes overestimation.json into "
        "every RUN, and prints one table of all of them. What it means: docs/learners.md."
    ),
    examples=("runs/mine --router routers/fitted-q",),
    options=(
        shared.RUN_FOLDERS,
        Option("--router", "their folders (default: RUN/routers)", Path, "DIR", nargs="+", default=[], dest="routers"),
    ),
    run=_run,
)
