"""`mtrouter-rl calibrate`: fits a simulated pool to a table of single models."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "calibrate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="fit a simulated pool to a table of single models",
        description=(
            "Fits one ability and one output length a model, and one shared probability of being stuck, so that the single\n"
            "models (and uniform random routing) of a simulated pool reach the scores and relative costs of a table. Fits on\n"
            "train and validation, reports every split and prints the numbers, which go into the pool card by hand.\n\n"
            "example: mtrouter-rl calibrate --env hle --target envs/calibration/paper-hle.yaml"
        ),
    )
    parser.add_argument("--env", required=True, metavar="NAME|PATH", help="environment card")
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    parser.add_argument("--target", required=True, type=Path, metavar="FILE", help="YAML file with the table")
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="K", help="seeds per variation while fitting (default: 2)"
    )
    parser.add_argument(
        "--report-seeds", type=int, default=6, metavar="K", help="seeds per variation in the report (default: 6)"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.calibration import fitted_numbers, format_rows, load_target, run_calibration
    from mtrouter_rl.envs.factory import resolve_env

    pool, rows = run_calibration(
        resolve_env(args.env, args.pool),
        load_target(args.target),
        n_seeds=args.seeds,
        n_report_seeds=args.report_seeds,
        n_workers=args.workers,
        say=lambda text: print(text, flush=True),
    )
    print(f"\n{format_rows(rows)}\n\n{fitted_numbers(pool)}")
