"""`mtrouter-rl inspect`: what a dataset holds."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.check_dataset import load_sound
    from mtrouter_rl.datasets.summary import format_summary, summarize

    summary = summarize(load_sound(args.dataset)[0])
    output.show(format_summary(summary), summary)


COMMAND = Command(
    name="inspect",
    group=Group.REPORT,
    summary="say what a dataset holds, after checking that it is sound",
    description=(
        "Loads a dataset, checks every rule (a violation is named by file, episode, turn and field) and prints episodes, "
        "turns, spend, scores per task and model, propensities and error kinds."
    ),
    examples=("logs/corridor", "logs/corridor --json"),
    options=(Option("dataset", "folder of the dataset", Path, "DIR"),),
    run=_run,
)
