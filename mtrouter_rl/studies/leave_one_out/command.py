"""`mtrouter-rl leave-one-out`: what happens when a model leaves the pool, or joins it with little or no data."""

import argparse
from pathlib import Path

from mtrouter_rl.options.environment import add_environment, environment_config
from mtrouter_rl.registry import DEFAULT_ENCODER


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "leave-one-out",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="hold every model out of the training in turn: it leaves the pool, joins by its card, with few episodes",
        description=(
            "For every held-out model four routers run the same episodes: trained and run without it; the same router asked\n"
            "for the whole pool, which judges the model by its card ALONE (an extrapolation, flagged as one); trained with\n"
            "its turns of few logged episodes; trained on the whole log. Beside them random routing and every single model.\n"
            "Run the same command again after a kill: it goes on where it stopped. See docs/change-the-pool.md.\n\n"
            "example: mtrouter-rl leave-one-out --env corridor --dataset logs/corridor --out runs/leave-one-out"
        ),
    )
    add_environment(parser)
    parser.add_argument(
        "--dataset", type=Path, required=True, metavar="LOG", help="log of the whole pool to learn from"
    )
    parser.add_argument("--agent", default="fitted-q", metavar="NAME|PATH", help="agent card (default: fitted-q)")
    parser.add_argument(
        "--models", nargs="+", default=[], metavar="MODEL", help="models to hold out (default: every one)"
    )
    parser.add_argument(
        "--few-episodes",
        type=int,
        default=20,
        metavar="N",
        help="episodes of a model that joins with few (default: 20)",
    )
    parser.add_argument(
        "--history",
        default="keep",
        choices=["keep", "cut"],
        help="learn from turns that follow one of the held-out model, or cut episodes before it (default: keep)",
    )
    parser.add_argument("--split", default="test", choices=["train", "validation", "test", "ood"], help="default: test")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds per variation (default: 1)")
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help=f"text encoder: hashing or minilm (default: {DEFAULT_ENCODER})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of trainings, draws and bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of routers, episodes and results"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what lies there of another setting")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.studies.leave_one_out.record import LEAVE_ONE_OUT_FILE, format_leave_one_out
    from mtrouter_rl.studies.leave_one_out.run import LeaveOneOutRequest, run_leave_one_out
    from mtrouter_rl.workflows import load_agent

    config = environment_config(args)
    request = LeaveOneOutRequest(
        agent=load_agent(args.agent, config.card),
        dataset=args.dataset,
        out=args.out,
        models=tuple(args.models),
        n_few_episodes=args.few_episodes,
        history=args.history,
        split=args.split,
        n_seeds=args.seeds,
        per_task=args.per_task,
        seed=args.seed,
        encoder=args.encoder,
        overwrite=args.overwrite,
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        found = run_leave_one_out(pool, request, n_workers=args.workers)
    print(f"{format_leave_one_out(found)}\n\nevery number: {args.out / LEAVE_ONE_OUT_FILE}")
