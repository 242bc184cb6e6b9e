"""`mtrouter-rl lab calibrate` fits a simulated pool to a table of single models, `hindsight-gap` says how far models differ."""

import argparse
import dataclasses
import shlex
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import POOL, env


def _calibrate(args: argparse.Namespace, output: Output) -> None:
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
        fit_on=tuple(args.fit_on),
        report_on=None if args.report_on is None else tuple(args.report_on),
        tolerance=UTILITY_TOLERANCE if args.tolerance is None else args.tolerance,
        **values(args, "per_task", "stuck", n_seeds="seeds", n_report_seeds="report_seeds", n_workers="workers"),
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


CALIBRATE = Command(
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
        Option("--target", "YAML file with the table", Path, "FILE", required=True),
        shared.seeds(default=2, when=" while fitting"),
        Option(
            "--fit-on",
            "splits to fit to (default: train validation); a table of test scores is met best on test",
            metavar="SPLIT",
            nargs="+",
            choices=shared.SPLITS[:3],
            default=["train", "validation"],
        ),
        shared.seeds("--report-seeds", default=6, when=" in the report"),
        Option("--report-on", "splits to compare on (default: all)", metavar="SPLIT", nargs="+", choices=shared.SPLITS),
        shared.PER_TASK,
        Option(
            "--tolerance", "how near is near enough, as a share of the way to full success (default: 0.004)", float, "P"
        ),
        Option("--stuck", "probability of being stuck, of all models (default: it is fitted)", float, "P"),
        Option("--complementarity", "fit at this complementarity (default: the pool card's)", float, "C"),
        shared.workers(),
        shared.out("keep what is played there, and write the card there", required=False),
        Option("--card", "write the card there (default: OUT/calibrated.yaml)", Path, "FILE"),
    ),
    run=_calibrate,
)


def _hindsight_gap(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.studies.pool_calibration.complementarity import GapRequest, gap_of_log, gaps_of_pool, matching
    from mtrouter_rl.studies.pool_calibration.oracle_gap import GAP_HEADER, format_gap

    if not args.logs and args.env is None:
        raise InvalidConfigError("give folders of datasets, or --env with a simulated pool")
    output.tell(GAP_HEADER)
    logs: dict[str, object] = {}
    for folder in args.logs:
        gap, n_left_out = gap_of_log(folder, seed=args.seed, kind=args.kind)
        left_out = f"  ({n_left_out} failed or mixed episodes left out)" if n_left_out else ""
        output.tell(format_gap(folder.name, gap) + left_out)
        logs[str(folder)] = {**vars(gap), "n_left_out": n_left_out}
    found = {}
    text, value = "", None
    if args.env is not None:
        request = GapRequest(
            config=resolve_env(args.env, args.pool),
            complementarities=None if args.complementarity is None else tuple(args.complementarity),
            **values(args, "seed", n_seeds="seeds", n_workers="workers"),
            folder=None if args.out is None else args.out / "plays",
        )
        for complementarity, gap in gaps_of_pool(request):
            found[complementarity] = gap
            output.tell(format_gap(f"{request.config.pool.name} at {complementarity:g}", gap))
        if args.match is not None:
            value = matching(found, args.match)
            told = (
                "at none of the values or between two of them" if value is None else f"at complementarity {value:.2f}"
            )
            text = f"\na split-half gap of {args.match:g} is reached {told}"
    pool = [{"complementarity": complementarity, **vars(gap)} for complementarity, gap in found.items()]
    output.show(text, {"logs": logs, "pool": pool, "matching_complementarity": value})


HINDSIGHT_GAP = Command(
    name="hindsight-gap",
    summary="the best model per task in hindsight against the best single model",
    description=(
        "Of logs of models that played alone, or of a simulated pool whose single models are played on train at several "
        "complementarities. The raw gap is biased upward, since the best of noisy means is too high; the split-half gap "
        "chooses on one half of the variations and judges on the other. Tasks count alike."
    ),
    examples=(
        "logs/mixed",
        "logs/balrog --kind 'babaisai|.*'",
        "--env scienceworld --complementarity 0 1 2 --match 0.1 --out runs/gap",
    ),
    options=(
        Option("logs", "folders of datasets", Path, "LOG", nargs="*"),
        Option("--kind", "what this matches of a task's name is the task", metavar="REGEX", default=".*"),
        env("environment whose simulated pool is played"),
        POOL,
        Option("--complementarity", "values to play (default: the card's)", float, "C", nargs="+"),
        Option("--match", "say at which value the split-half gap is this utility", float, "GAP"),
        shared.seeds(),
        shared.seed("splits and bootstrap"),
        shared.workers(),
        shared.out("keep what is played there, so that a killed command goes on", required=False),
    ),
    run=_hindsight_gap,
)
