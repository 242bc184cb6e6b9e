"""`mtrouter-rl lab calibrate`: fits a simulated pool to a table of single models."""

import argparse
from pathlib import Path

from mtrouter_rl.options import shared
from mtrouter_rl.options.command import Command, Option
from mtrouter_rl.options.environment import POOL, env
from mtrouter_rl.options.output import Output
from mtrouter_rl.studies.pool_calibration.complementarity_command import HINDSIGHT_GAP


def run(args: argparse.Namespace, output: Output) -> None:
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
    pool, rows = run_calibration(request, say=output.say)
    path = args.card or (None if args.out is None else args.out / "calibrated.yaml")
    if path is not None:
        card = calibrated_card(
            pool,
            rows,
            name=path.stem,
            target=target,
            extends=config.pool.name,
            fit_on=request.fit_on,
            command=shlex.join(["mtrouter-rl", "lab", "calibrate", *_told(args)]),
        )
        write_atomically(path, card.encode())
    output.show(
        f"\n{format_rows(rows)}\n\n{fitted_numbers(pool)}" + ("" if path is None else f"\n\ncard: {path}"),
        {"rows": rows, "pool": pool, "card": path},
    )


def _told(args: argparse.Namespace) -> list[str]:
    """Options that decide the numbers, as they were given."""
    names = ("env", "pool", "target", "seeds", "report_seeds", "per_task", "tolerance", "stuck", "complementarity")
    values = [(name, getattr(args, name)) for name in names]
    told = [word for name, value in values if value is not None for word in (f"--{name.replace('_', '-')}", str(value))]
    report_on = [] if args.report_on is None else ["--report-on", *args.report_on]
    return [*told, "--fit-on", *args.fit_on, *report_on]


COMMANDS = (
    Command(
        name="calibrate",
        summary="fit a simulated pool to a table of single models",
        description=(
            "Fits one ability and one output length a model, and one shared probability of being stuck, so that the single "
            "models (and uniform random routing) of a simulated pool reach the scores and relative costs of a table. Fits on "
            "the splits of --fit-on, compares on all splits or those of --report-on, prints the numbers and writes them as a "
            "pool card. With --out, what was played is kept there: run the same command again after a kill, and it goes on."
        ),
        examples=("--env hle --target envs/calibration/paper-hle.yaml --out runs/calibration",),
        options=(
            env(required=True),
            POOL,
            Option("--target", "YAML file with the table", required=True, type=Path, metavar="FILE"),
            shared.seeds(default=2, when=" while fitting"),
            Option(
                "--fit-on",
                "splits whose episodes are fitted to (default: train validation); a table of test scores is met best on test",
                nargs="+",
                choices=("train", "validation", "test"),
                default=["train", "validation"],
                metavar="SPLIT",
            ),
            shared.seeds("--report-seeds", default=6, when=" in the report"),
            Option(
                "--report-on",
                "splits that achieved and target are compared on afterwards (default: all)",
                nargs="+",
                choices=shared.SPLITS,
                metavar="SPLIT",
            ),
            shared.PER_TASK,
            Option(
                "--tolerance",
                "how near is near enough, as a share of the way from the worst end to full success (default: 0.004)",
                type=float,
                metavar="SHARE",
            ),
            Option(
                "--stuck",
                "give all models this probability of being stuck (default: fit it to random routing)",
                type=float,
                metavar="P",
            ),
            Option(
                "--complementarity", "fit at this complementarity (default: the pool card's)", type=float, metavar="C"
            ),
            shared.workers(),
            shared.out("keep what is played there, and write the card there", required=False),
            Option("--card", "write the card there (default: OUT/calibrated.yaml)", type=Path, metavar="FILE"),
        ),
        run=run,
    ),
    HINDSIGHT_GAP,
)
