"""`mtrouter-rl lab frontier`: one router at many cost weights beside routers that were trained for one each."""

import argparse

from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import refuse_paid


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.frontier.record import FRONTIER_FILE
    from mtrouter_rl.studies.frontier.run import compare_frontier
    from mtrouter_rl.workflows import EvaluateRequest

    config = environment_config(args)
    refuse_paid(config)
    request = EvaluateRequest(
        routers=(args.folder,),
        cache=args.out / "embeddings",
        **values(args, "split", "out", "per_task", "seed", "overwrite", n_seeds="seeds"),
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        comparison = compare_frontier(pool, request, args.against)
    output.show(f"{to_plain(comparison.table())}\n", comparison)
    output.say(f"every number: {args.out / FRONTIER_FILE}")


COMMAND = Command(
    name="frontier",
    summary="a router that is told the cost weight beside routers trained for one each",
    description=(
        "Runs a router that can be told a cost weight at the weight of every other router, and those, on the same "
        "episodes, and compares the two at each weight: score, cost, and the return at that weight. The rows are added to "
        "OUT/results.json, the comparison is OUT/frontier.json. See docs/cost-and-budget.md."
    ),
    examples=("routers/frontier --env corridor --against routers/fitted-q-w0 routers/fitted-q-w1 --out runs/frontier",),
    options=(
        *environment(),
        Option("folder", "folder of the router that can be told a cost weight", metavar="DIR"),
        Option("--against", "folders of routers trained for one weight each", metavar="DIR", nargs="+", required=True),
        *shared.EPISODES_OF_SPLIT,
        shared.seed("the bootstrap"),
        shared.workers(),
        shared.out("folder of the results"),
        shared.overwrite("results of other routers"),
    ),
    run=_run,
)
