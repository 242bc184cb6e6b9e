"""`mtrouter-rl study-log`: single-turn routers on a log of real models, trained and estimated out of sample."""

import argparse
from dataclasses import replace

from mtrouter_rl.options import Command, Group, Option, Output, shared, values
from mtrouter_rl.options.environment import COST_WEIGHT


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.studies.real_logs.run import DEFAULT_AGENTS, LogStudyRequest, study_log

    request = LogStudyRequest(
        agents=tuple(args.agents or DEFAULT_AGENTS),
        **values(args, "dataset", "out", "cost_weight", "cost_unit_usd", "seed", "encoder", "instance_pattern"),
        **values(args, n_folds="folds", n_repeats="repeats"),
    )
    results = study_log(request, say=output.say)
    notes = (f"note: {note}" for note in results.notes)
    output.show("\n".join([f"\n{format_table(results, 'test')}\n", *notes]), results)
    output.say(f"report: {args.out / 'report.html'}")


COMMAND = Command(
    name="study-log",
    group=Group.LOGS,
    summary="train and compare routers on a log that cannot be run again",
    description=(
        "For logs in which one model played each episode. Routers choose once per episode from the task text; they are "
        "trained on all folds but one and estimated on that one, by importance sampling stratified by task. What the log "
        "cannot tell is refused, with the reason."
    ),
    examples=("logs/mixed --cost-weight 0.4 --agents task-table --repeats 1 --out runs/log",),
    options=(
        replace(shared.LOG_FOLDER, metavar="DIR"),
        replace(COST_WEIGHT, help="utility that one cost unit is worth", required=True),
        replace(shared.COST_UNIT, help="a cost unit (default: an episode of the strongest model)"),
        shared.agents("agent cards (default: five single-turn ones)"),
        Option("--folds", "folds", int, "K", default=3),
        Option("--repeats", "divide into folds anew R times and average", int, "R", default=3),
        shared.seed("folds, training and bootstrap"),
        shared.encoder(),
        Option(
            "--instance-pattern",
            "finds in observations which instance was played; tasks where models played different ones are flagged",
            metavar="REGEX",
            default="",
        ),
        shared.out("folder of the run"),
    ),
    run=_run,
)
