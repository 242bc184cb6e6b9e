"""`mtrouter-rl study-cross`: one router for several environments against one for each."""

import argparse
from pathlib import Path

from mtrouter_rl.registry import DEFAULT_ENCODER


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "study-cross",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="compare one router for several environments with one for each",
        description=(
            "Trains each agent on a log of every environment alone, of all together and, for every environment, of all the\n"
            "others, and runs all of them on the test split of every environment beside random, cheapest and strongest. The\n"
            "environments need the same models. Logs are taken or collected as `study` does. Steps that are done are\n"
            "skipped; a killed study goes on where it stopped.\n\n"
            "example: mtrouter-rl study-cross --envs babyai hle --out runs/cross"
        ),
    )
    parser.add_argument(
        "--envs",
        nargs="+",
        default=["babyai", "hle", "scienceworld"],
        metavar="NAME|PATH",
        help="environment cards (default: babyai hle scienceworld)",
    )
    parser.add_argument(
        "--cost-weight", type=float, metavar="W", help="utility per cost unit in all of them (default: each card's)"
    )
    parser.add_argument("--agents", nargs="+", default=["fitted-q"], metavar="AGENT", help="default: fitted-q")
    parser.add_argument(
        "--no-leave-out", action="store_true", help="train no router on all environments but one (of three or more)"
    )
    parser.add_argument(
        "--log-shares",
        choices=["equal", "by-turns"],
        default="equal",
        help="mini-batches hold the same share of each environment, or every turn counts the same (default: equal)",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="collect a log of N episodes in every environment (default: the log that ships, else as many as `study`)",
    )
    parser.add_argument(
        "--test-seeds", type=int, metavar="K", help="seeds per test variation (default: as many as `study`)"
    )
    parser.add_argument(
        "--no-plots", action="store_true", help="draw no plots, TensorBoard and reports, which takes minutes"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of collection, training and bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help=f"text encoder (default: {DEFAULT_ENCODER})")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/cross"), metavar="DIR", help="folder of the run (default: runs/cross)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from dataclasses import replace

    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.studies.cross_environment.report import JSON_FILE, MARKDOWN_FILE
    from mtrouter_rl.studies.cross_environment.run import CrossStudyRequest, run_cross_study
    from mtrouter_rl.workflows.quick_study import quick_size

    configs = [resolve_env(env, cost_weight=args.cost_weight) for env in args.envs]
    given = {"n_episodes": args.episodes, "n_test_seeds": args.test_seeds}
    changes = {name: value for name, value in given.items() if value is not None}
    sizes = [replace(quick_size(config.card), **changes) for config in configs]
    request = replace(
        CrossStudyRequest.of(configs, sizes, out=args.out, collects=args.episodes is not None),
        agents=tuple(args.agents),
        leaves_out=not args.no_leave_out,
        log_shares=args.log_shares,
        draws=not args.no_plots,
        seed=args.seed,
        n_workers=args.workers,
        encoder=args.encoder,
    )
    report = run_cross_study(request, say=lambda text: print(text, flush=True))
    print(
        f"\n{report.to_text()}\n"
        f"Everything lies in {args.out}:\n"
        f"  {args.out / JSON_FILE}, {args.out / MARKDOWN_FILE}   the tables above\n"
        f"  {args.out}/ENV   log, results and report of every environment\n"
        f"  {args.out}/routers   the trained routers"
    )
