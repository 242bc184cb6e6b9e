"""`mtrouter-rl lab replay`: what restarting and routing are worth on logged runs in which every model ran every task."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Output, shared
from mtrouter_rl.options.suite import SUITE_OPTIONS, suite_request


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.studies.replay.report import write_report
    from mtrouter_rl.studies.replay.run import ReplayRequest, run_replay

    request = ReplayRequest(suite=suite_request(args), out=args.out, seed=args.seed)
    results = run_replay(request, say=output.aside)
    page = write_report(results, args.out)
    output.show("\n".join(results.answers), results)
    output.say(f"report: {page}")


COMMAND = Command(
    name="replay",
    summary="routing on real logs in which every model ran every task: exact, nothing simulated",
    description=(
        "Reads outcomes (task, model, score, cost, turns; any order of columns) and, if they are given, task texts and "
        "trajectories. Compares rules that restart with another model, a learned one, single-turn routers on the task text, "
        "budgets and a cascade with single models and their blind mixtures, on tasks that were held out by group and by time. "
        "Says what is shown, what is not, and how many tasks it would take. What it means: docs/real-models.md."
    ),
    examples=("outcomes.csv tasks.jsonl --out runs/replay",),
    options=(
        *SUITE_OPTIONS,
        shared.out("folder of results.json, report.html and the figures", required=False, default=Path("runs/replay")),
        shared.seed("folds and bootstrap"),
    ),
    run=_run,
)
