"""`mtrouter-rl lab hindsight-gap`: how far models complement each other, in a log or in a simulated pool."""

import argparse
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import shared
from mtrouter_rl.options.command import Command, Option
from mtrouter_rl.options.environment import POOL, env
from mtrouter_rl.options.output import Output


def run(args: argparse.Namespace, output: Output) -> None:
    """Run the command."""
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
            n_seeds=args.seeds,
            seed=args.seed,
            n_workers=args.workers,
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
        Option("logs", "folders of datasets", nargs="*", type=Path, metavar="LOG"),
        Option(
            "--kind",
            "what it matches of a task's name is the task; 'babaisai|.*' takes all of babaisai/... for one (default: .*)",
            default=".*",
            metavar="REGEX",
        ),
        env("environment whose simulated pool is played"),
        POOL,
        Option("--complementarity", "values to play (default: the card's)", type=float, nargs="+", metavar="C"),
        Option("--match", "say at which value the split-half gap is this utility", type=float, metavar="GAP"),
        shared.seeds(),
        shared.seed("splits and bootstrap"),
        shared.workers(),
        shared.out("keep what is played there, so that a killed command goes on", required=False),
    ),
    run=run,
)
