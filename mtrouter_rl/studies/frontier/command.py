"""`mtrouter-rl frontier`: one router at many cost weights beside routers that were trained for one each."""

import argparse
from pathlib import Path

from mtrouter_rl.options.environment import add_environment, environment_config


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "frontier",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="run a router that is told the cost weight beside routers trained for one each",
        description=(
            "Runs a router that was trained for many cost weights at the weight of every other router, and those, on the\n"
            "same episodes, and compares the two at each weight: score, cost, and the return at that weight. The rows are\n"
            "added to OUT/results.json, the comparison is OUT/frontier.json. See docs/cost-and-budget.md.\n\n"
            "example: mtrouter-rl frontier routers/frontier --against routers/fitted-q-w0 routers/fitted-q-w1 --out runs/f"
        ),
    )
    add_environment(parser)
    parser.add_argument("folder", metavar="DIR", help="folder of the router that can be told a cost weight")
    parser.add_argument(
        "--against",
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of routers that were trained for one weight each",
    )
    parser.add_argument("--split", default="test", choices=["train", "validation", "test", "ood"], help="default: test")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds per variation (default: 1)")
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results of other routers that lie there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.frontier.record import FRONTIER_FILE
    from mtrouter_rl.studies.frontier.run import compare_frontier
    from mtrouter_rl.workflows import EvaluateRequest

    request = EvaluateRequest(
        routers=(args.folder,),
        split=args.split,
        n_seeds=args.seeds,
        out=args.out,
        per_task=args.per_task,
        seed=args.seed,
        cache=args.out / "embeddings",
        overwrite=args.overwrite,
    )
    with RolloutPool(environment_config(args), n_workers=args.workers) as pool:
        comparison = compare_frontier(pool, request, args.against)
    print(f"{to_plain(comparison.table())}\n\nevery number: {args.out / FRONTIER_FILE}")
