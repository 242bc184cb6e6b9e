"""`mtrouter-rl headroom`: how much could any router gain in an environment with a simulated pool?"""

import argparse
from pathlib import Path

from mtrouter_rl.options.environment import add_environment


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "headroom",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="how much could any router gain here: a reference that sees the simulator's hidden state",
        description=(
            "Runs a reference policy that sees what no router may see (which action is due, who would do it, who is stuck)\n"
            "and plans ahead, beside every single model and random routing, at several cost weights. No router is trained.\n"
            "What the reference earns is a lower bound on what could be earned with the hidden state. Run the same command\n"
            "again after a kill: it goes on where it stopped.\n\n"
            "example: mtrouter-rl headroom --env corridor --split test --seeds 3 --out runs/headroom"
        ),
    )
    add_environment(parser, has_cost_weight=False)
    parser.add_argument(
        "--cost-weights", type=float, nargs="+", metavar="W", help="cost weights (default: 0 0.1 0.4 1 3)"
    )
    parser.add_argument("--split", default="test", choices=["train", "validation", "test", "ood"], help="default: test")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds per variation (default: 1)")
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the episodes and the table")
    parser.add_argument("--overwrite", action="store_true", help="replace episodes of another setting that lie there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.headroom.run import (
        COST_WEIGHTS,
        HEADROOM_FILE,
        HeadroomRequest,
        format_headroom,
        run_headroom,
    )

    config = resolve_env(args.env, args.pool, max_turns=args.max_turns, budget_usd=args.budget_usd)
    request = HeadroomRequest(
        split=args.split,
        n_seeds=args.seeds,
        out=args.out,
        cost_weights=COST_WEIGHTS if args.cost_weights is None else tuple(args.cost_weights),
        per_task=args.per_task,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        found = run_headroom(pool, request)
    print(f"{format_headroom(found)}\n\nevery number: {args.out / HEADROOM_FILE}")
