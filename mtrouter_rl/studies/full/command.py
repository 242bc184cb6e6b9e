"""`mtrouter-rl study --full`: options and output of the full study."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Option, Output, switch, values

if TYPE_CHECKING:
    from mtrouter_rl.envs.factory import EnvConfig

DEFAULT_OUT = Path("runs/full")

_PARTS = ("headroom", "main", "ablations", "markets", "budgets", "pool-change")
FULL_STUDY = (
    switch("--full", "the full study, in hours: every router, the whole frontier, other markets, budgets"),
    Option("--parts", f"with --full: {', '.join(_PARTS)} (default: all)", metavar="PART", nargs="+", choices=_PARTS),
)
"""What only the full study takes."""


def run_full(args: argparse.Namespace, output: Output, *, config: "EnvConfig") -> None:
    """Run the full study and print what it found."""
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
        parts=tuple(args.parts or PARTS),
        **values(args, "seed", "encoder", n_workers="workers"),
    )
    if args.agents:
        request = dataclasses.replace(request, agents=expand_agents(args.agents))
    results = run_full_study(request, say=output.say)
    if results is None:
        tables = request.out / HEADROOM_FOLDER
        output.show(f"\nThe tables lie in {tables}", {"headroom": tables})
        return
    claims = Claims.load(request.out / CLAIMS_FILE)
    text = "".join(f"\n{format_table(results, split)}\n" for split in results.splits)
    output.show(f"{text}\n{claims_text(claims)}\n", {"results": results, "claims": claims})
    output.say(
        f"Everything lies in {request.out}:\n"
        f"  {request.out / 'report.html'}   the report, for a browser\n"
        f"  {request.out / 'claims.md'}     what of it holds\n"
        f"  {request.out / 'results.json'}  every number of the main part"
    )
