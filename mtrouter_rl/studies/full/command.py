"""`mtrouter-rl study --full`: options and output of the full study."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtrouter_rl.envs.factory import EnvConfig

DEFAULT_OUT = Path("runs/full")


def add_full_study(parser: argparse.ArgumentParser) -> None:
    """Add what only the full study takes."""
    parser.add_argument(
        "--full",
        action="store_true",
        help="the full study, hours instead of minutes: every router, the cost-score frontier, other markets, budgets",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("headroom", "main", "ablations", "markets", "budgets", "pool-change"),
        metavar="PART",
        help="with --full: headroom, main, ablations, markets, budgets, pool-change (default: all, in this order)",
    )


def run_full(args: argparse.Namespace, *, config: "EnvConfig", say: Callable[[str], None]) -> None:
    """Run the full study and print what it found."""
    import dataclasses

    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.studies.full.claims import CLAIMS_FILE, Claims
    from mtrouter_rl.studies.full.report import claims_text
    from mtrouter_rl.studies.full.request import PARTS, FullStudyRequest, full_size
    from mtrouter_rl.studies.full.run import HEADROOM_FOLDER, run_full_study
    from mtrouter_rl.workflows.quick_study import expand_agents

    for option in ("collect", "reference"):
        if getattr(args, option):
            raise InvalidConfigError(f"--{option} is part of every full study; leave it out")
    size = full_size(config.card)
    if args.episodes is not None:
        size = dataclasses.replace(size, n_episodes=args.episodes)
    if args.test_seeds is not None:
        names = ("n_narrow_seeds", "n_key_seeds", "n_curve_seeds", "n_other_seeds")
        size = dataclasses.replace(size, **dict.fromkeys(names, args.test_seeds))
    request = FullStudyRequest(
        config=config,
        out=args.out or DEFAULT_OUT,
        size=size,
        seed=args.seed,
        n_workers=args.workers,
        encoder=args.encoder,
        parts=tuple(args.parts or PARTS),
    )
    if args.agents:
        request = dataclasses.replace(request, agents=expand_agents(args.agents))
    results = run_full_study(request, say=say)
    if results is None:
        print(f"\nThe tables lie in {request.out / HEADROOM_FOLDER}")
        return
    for split in results.splits:
        print(f"\n{format_table(results, split)}")
    print(f"\n{claims_text(Claims.load(request.out / CLAIMS_FILE))}")
    print(
        f"\nEverything lies in {request.out}:\n"
        f"  {request.out / 'report.html'}   the report, for a browser\n"
        f"  {request.out / 'claims.md'}     what of it holds\n"
        f"  {request.out / 'results.json'}  every number of the main part"
    )
