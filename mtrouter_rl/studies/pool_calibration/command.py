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
            "the splits of --fit-on, compares on all splits or those of --report-on, prints the numbers and writes them as a\n"
            "pool card. With --out, what was played is kept there: run the same command again after a kill, and it goes on.\n\n"
            "example: mtrouter-rl calibrate --env hle --target envs/calibration/paper-hle.yaml --out runs/calibration"
        ),
    )
    parser.add_argument("--env", required=True, metavar="NAME|PATH", help="environment card")
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    parser.add_argument("--target", required=True, type=Path, metavar="FILE", help="YAML file with the table")
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="K", help="seeds per variation while fitting (default: 2)"
    )
    parser.add_argument(
        "--fit-on",
        nargs="+",
        choices=("train", "validation", "test"),
        default=["train", "validation"],
        metavar="SPLIT",
        help="splits whose episodes are fitted to (default: train validation); a table of test scores is met best on test",
    )
    parser.add_argument(
        "--report-seeds", type=int, default=6, metavar="K", help="seeds per variation in the report (default: 6)"
    )
    parser.add_argument(
        "--report-on",
        nargs="+",
        choices=("train", "validation", "test", "ood"),
        metavar="SPLIT",
        help="splits that achieved and target are compared on afterwards (default: all)",
    )
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="how near is near enough, as a share of the way from the worst end to full success (default: 0.004)",
    )
    parser.add_argument(
        "--stuck",
        type=float,
        metavar="P",
        help="give all models this probability of being stuck (default: fit it to random routing)",
    )
    parser.add_argument(
        "--complementarity", type=float, metavar="C", help="fit at this complementarity (default: the pool card's)"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep what is played there, and write the card there")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the card there (default: OUT/calibrated.yaml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import dataclasses
    import shlex

    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.files import write_atomically
    from mtrouter_rl.studies.pool_calibration.card import calibrated_card, with_complementarity
    from mtrouter_rl.studies.pool_calibration.run import (
        UTILITY_TOLERANCE,
        CalibrationRequest,
        fitted_numbers,
        format_rows,
        load_target,
        run_calibration,
    )

    config = resolve_env(args.env, args.pool)
    target = load_target(args.target)
    request = CalibrationRequest(
        config=dataclasses.replace(config, pool=with_complementarity(config.pool, args.complementarity)),
        target=target,
        n_seeds=args.seeds,
        n_report_seeds=args.report_seeds,
        fit_on=tuple(args.fit_on),
        report_on=None if args.report_on is None else tuple(args.report_on),
        per_task=args.per_task,
        tolerance=UTILITY_TOLERANCE if args.tolerance is None else args.tolerance,
        stuck=args.stuck,
        n_workers=args.workers,
        folder=None if args.out is None else args.out / "plays",
        show_progress=True,
    )
    pool, rows = run_calibration(request, say=lambda text: print(text, flush=True))
    print(f"\n{format_rows(rows)}\n\n{fitted_numbers(pool)}")
    path = args.card or (None if args.out is None else args.out / "calibrated.yaml")
    if path is not None:
        card = calibrated_card(
            pool,
            rows,
            name=path.stem,
            target=target,
            extends=config.pool.name,
            fit_on=request.fit_on,
            command=shlex.join(["mtrouter-rl", "calibrate", *_told(args)]),
        )
        write_atomically(path, card.encode())
        print(f"\ncard: {path}")


def _told(args: argparse.Namespace) -> list[str]:
    """Options that decide the numbers, as they were given."""
    names = ("env", "pool", "target", "seeds", "report_seeds", "per_task", "tolerance", "stuck", "complementarity")
    values = [(name, getattr(args, name)) for name in names]
    told = [word for name, value in values if value is not None for word in (f"--{name.replace('_', '-')}", str(value))]
    report_on = [] if args.report_on is None else ["--report-on", *args.report_on]
    return [*told, "--fit-on", *args.fit_on, *report_on]
