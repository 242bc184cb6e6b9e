"""`mtrouter-rl suite`: an environment of logged runs, from a table of outcomes."""

import argparse

from mtrouter_rl.options import Command, Group, Output, shared
from mtrouter_rl.options.suite import SUITE_OPTIONS, suite_request


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.importers.suites.folder import write_suite

    suite = write_suite(suite_request(args), args.out, overwrite=args.overwrite)
    told = [
        f"suite '{suite.head.name}': {suite.n_tasks} tasks in {len(suite.groups)} groups, {len(suite.models)} models, "
        f"{len(suite.turns)} runs turn by turn",
        *suite.head.notes,
        f"environment: {args.out / 'env.yaml'} (use it as --env; its pool lies beside it)",
    ]
    output.show("\n".join(told), suite.head)


COMMAND = Command(
    name="suite",
    group=Group.LOGS,
    summary="make an environment of runs in which every model ran every task",
    description=(
        "Reads outcomes (task, model, score, cost, turns) and, if they are given, task texts and trajectories, and writes "
        "a folder "
        "with the runs, an environment card and a pool card. In that environment the model that is called goes on along its "
        "logged run, and another one starts the task afresh. Costs are those of the log; no tokens are needed."
    ),
    examples=("outcomes.csv tasks.jsonl --out suites/mine",),
    options=(*SUITE_OPTIONS, shared.out("folder of the suite"), shared.overwrite("a suite that is in the folder")),
    run=_run,
)
