"""`mtrouter-rl lab headroom`: how much could any router gain in an environment with a simulated pool?"""

import argparse

from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.headroom.run import (
        COST_WEIGHTS,
        HEADROOM_FILE,
        HeadroomRequest,
        format_headroom,
        run_headroom,
    )

    request = HeadroomRequest(
        cost_weights=COST_WEIGHTS if args.cost_weights is None else tuple(args.cost_weights),
        **values(args, "split", "out", "per_task", "seed", "overwrite", n_seeds="seeds"),
    )
    with RolloutPool(environment_config(args), n_workers=args.workers) as pool:
        found = run_headroom(pool, request)
    output.show(f"{format_headroom(found)}\n", found)
    output.say(f"every number: {args.out / HEADROOM_FILE}")


COMMAND = Command(
    name="headroom",
    summary="what any router could gain: a reference that sees the simulator's hidden state",
    description=(
        "Runs a reference policy that sees what no router may see (which action is due, who would do it, who is stuck) "
        "and plans ahead, beside every single model and random routing, at several cost weights. No router is trained. "
        "What the reference earns is a lower bound on what could be earned with the hidden state. Run the same command "
        "again after a kill: it goes on where it stopped."
    ),
    examples=("--env corridor --cost-weights 0.4 --per-task 1 --out runs/headroom",),
    options=(
        *environment(has_cost_weight=False),
        Option("--cost-weights", "cost weights (default: 0 0.1 0.4 1 3)", float, "W", nargs="+"),
        *shared.EPISODES_OF_SPLIT,
        shared.seed("the bootstrap"),
        shared.workers(),
        shared.out("folder of the episodes and the table"),
        shared.overwrite("episodes of another setting"),
    ),
    run=_run,
)
