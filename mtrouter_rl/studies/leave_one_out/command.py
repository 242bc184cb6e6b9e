"""`mtrouter-rl lab leave-one-out`: what happens when a model leaves the pool, or joins it with little or no data."""

import argparse

from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import refuse_paid


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.leave_one_out.record import LEAVE_ONE_OUT_FILE, format_leave_one_out
    from mtrouter_rl.studies.leave_one_out.run import LeaveOneOutRequest, run_leave_one_out
    from mtrouter_rl.workflows import load_agent

    config = environment_config(args)
    refuse_paid(config)
    request = LeaveOneOutRequest(
        agent=load_agent(args.agent, config.card),
        models=tuple(args.models),
        **values(args, "dataset", "out", "history", "split", "per_task", "seed", "encoder", "overwrite"),
        **values(args, n_few_episodes="few_episodes", n_seeds="seeds"),
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        found = run_leave_one_out(pool, request, n_workers=args.workers)
    output.show(f"{format_leave_one_out(found)}\n", found)
    output.say(f"every number: {args.out / LEAVE_ONE_OUT_FILE}")


COMMAND = Command(
    name="leave-one-out",
    summary="a model leaves the pool, joins by its card alone, or with few episodes",
    description=(
        "For every held-out model four routers run the same episodes: trained and run without it; the same router asked "
        "for the whole pool, which judges the model by its card ALONE (an extrapolation, flagged as one); trained with "
        "its turns of few logged episodes; trained on the whole log. Beside them random routing and every single model. "
        "Run the same command again after a kill: it goes on where it stopped. See docs/change-the-pool.md."
    ),
    examples=("--env corridor --dataset logs/corridor --out runs/leave-one-out",),
    options=(
        *environment(),
        shared.given_dataset("log of the whole pool to learn from", metavar="LOG"),
        shared.agent(),
        Option("--models", "models to hold out (default: every one)", nargs="+", default=[], metavar="MODEL"),
        Option("--few-episodes", "episodes of a model that joins with few", int, "N", default=20),
        Option(
            "--history",
            "keep turns that follow one of it, or cut episodes there",
            default="keep",
            choices=("keep", "cut"),
        ),
        *shared.EPISODES_OF_SPLIT,
        shared.encoder(),
        shared.seed("trainings, draws and bootstrap"),
        shared.workers(),
        shared.out("folder of routers, episodes and results"),
        shared.overwrite("a study of another setting"),
    ),
    run=_run,
)
