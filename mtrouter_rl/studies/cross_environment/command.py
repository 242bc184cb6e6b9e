"""`mtrouter-rl lab study-cross`: one router for several environments against one for each."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, given, shared, switch, values
from mtrouter_rl.options.environment import COST_WEIGHT
from mtrouter_rl.options.money import refuse_paid


def _run(args: argparse.Namespace, output: Output) -> None:
    from dataclasses import replace

    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.studies.cross_environment.report import JSON_FILE, MARKDOWN_FILE
    from mtrouter_rl.studies.cross_environment.run import CrossStudyRequest, run_cross_study
    from mtrouter_rl.workflows.quick_study import quick_size

    configs = [resolve_env(env, cost_weight=args.cost_weight) for env in args.envs]
    for config in configs:
        refuse_paid(config)
    changes = given(args, n_episodes="episodes", n_test_seeds="test_seeds")
    sizes = [replace(quick_size(config.card), **changes) for config in configs]
    request = replace(
        CrossStudyRequest.of(configs, sizes, out=args.out, collects=args.episodes is not None),
        agents=tuple(args.agents),
        leaves_out=not args.no_leave_out,
        draws=not args.no_plots,
        **values(args, "log_shares", "seed", "encoder", n_workers="workers"),
    )
    report = run_cross_study(request, say=output.say)
    output.show(f"\n{report.to_text()}", report)
    output.say(
        f"Everything lies in {args.out}:\n"
        f"  {args.out / JSON_FILE}, {args.out / MARKDOWN_FILE}   the tables above\n"
        f"  {args.out}/ENV   log, results and report of every environment\n"
        f"  {args.out}/routers   the trained routers"
    )


COMMAND = Command(
    name="study-cross",
    summary="one router for several environments against one for each",
    description=(
        "Trains each agent on a log of every environment alone, of all together and, for every environment, of all the "
        "others, and runs all of them on the test split of every environment beside random, cheapest and strongest. The "
        "environments need the same models. Logs are taken or collected as `study` does. Steps that are done are "
        "skipped; a killed study goes on where it stopped."
    ),
    examples=("--envs babyai hle --out runs/cross",),
    options=(
        Option(
            "--envs", "environment cards", metavar="NAME|PATH", nargs="+", default=["babyai", "hle", "scienceworld"]
        ),
        COST_WEIGHT,
        shared.agents("agent cards to train", ["fitted-q"]),
        switch("--no-leave-out", "train no router on all environments but one (of three or more)"),
        shared.LOG_SHARES,
        shared.episodes(
            "collect a log of N episodes in every environment (default: the log that ships, else as many as `study`)"
        ),
        shared.TEST_SEEDS,
        switch("--no-plots", "draw no plots, TensorBoard and reports, which takes minutes"),
        shared.seed("collection, training and bootstrap"),
        shared.workers(),
        shared.encoder(),
        shared.out("folder of the run", required=False, default=Path("runs/cross")),
    ),
    run=_run,
)
