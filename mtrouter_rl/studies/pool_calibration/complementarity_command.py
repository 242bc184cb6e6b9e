"""`mtrouter-rl hindsight-gap`: how far models complement each other, in a log or in a simulated pool."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "hindsight-gap",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="the best model per task in hindsight against the best single model",
        description=(
            "Of logs of models that played alone, or of a simulated pool whose single models are played on train at several\n"
            "complementarities. The raw gap is biased upward, since the best of noisy means is too high; the split-half gap\n"
            "chooses on one half of the variations and judges on the other. Tasks count alike.\n\n"
            "example: mtrouter-rl hindsight-gap logs/balrog --kind 'babaisai|.*'\n"
            "example: mtrouter-rl hindsight-gap --env scienceworld --complementarity 0 1 2 --match 0.1 --out runs/gap"
        ),
    )
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG", help="folders of datasets")
    parser.add_argument(
        "--kind",
        default=".*",
        metavar="REGEX",
        help="what it matches of a task's name is the task; 'babaisai|.*' takes all of babaisai/... for one (default: .*)",
    )
    parser.add_argument("--env", metavar="NAME|PATH", help="environment whose simulated pool is played")
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    parser.add_argument(
        "--complementarity", type=float, nargs="+", metavar="C", help="values to play (default: the card's)"
    )
    parser.add_argument(
        "--match", type=float, metavar="GAP", help="say at which value the split-half gap is this utility"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds per variation (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits and bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep what is played there, so that a killed command goes on"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.studies.pool_calibration.complementarity import GapRequest, gap_of_log, gaps_of_pool, matching
    from mtrouter_rl.studies.pool_calibration.oracle_gap import GAP_HEADER, format_gap

    if not args.logs and args.env is None:
        raise InvalidConfigError("give folders of datasets, or --env with a simulated pool")
    print(GAP_HEADER, flush=True)
    for folder in args.logs:
        gap, n_left_out = gap_of_log(folder, seed=args.seed, kind=args.kind)
        print(
            format_gap(folder.name, gap) + (f"  ({n_left_out} failed or mixed episodes left out)" if n_left_out else "")
        )
    if args.env is None:
        return
    request = GapRequest(
        config=resolve_env(args.env, args.pool),
        complementarities=None if args.complementarity is None else tuple(args.complementarity),
        n_seeds=args.seeds,
        seed=args.seed,
        n_workers=args.workers,
        folder=None if args.out is None else args.out / "plays",
    )
    found = {}
    for complementarity, gap in gaps_of_pool(request):
        found[complementarity] = gap
        print(format_gap(f"{request.config.pool.name} at {complementarity:g}", gap), flush=True)
    if args.match is not None:
        value = matching(found, args.match)
        told = "at none of the values or between two of them" if value is None else f"at complementarity {value:.2f}"
        print(f"\na split-half gap of {args.match:g} is reached {told}")
