"""Options of commands that read a complete suite: outcomes, task texts, trajectories."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options.command import Option

if TYPE_CHECKING:
    from mtrouter_rl.datasets.importers.suites.build import SuiteRequest

SUITE_OPTIONS = (
    Option(
        "outcomes",
        "CSV, TSV or JSON Lines table, SWE-bench leaderboard file, or a folder with one folder a model",
        Path,
        "OUTCOMES",
    ),
    Option(
        "others",
        "table of task texts and groups, and trajectories (*.traj.json, folders, archives)",
        Path,
        "FILE",
        nargs="*",
    ),
    Option("--name", "name of the suite (default: that of the file)", metavar="NAME"),
    Option(
        "--column",
        "what a column is called, as task=NAME, model=, score=, cost=, turns=, group=, text= or order=; may be given often",
        metavar="FIELD=NAME",
        action="append",
        default=[],
    ),
    Option("--max-score", "score of full success", float, "S", default=1.0),
    Option("--leaderboard", "which leaderboard of a file that holds several", metavar="NAME"),
    Option(
        "--incomplete",
        "where a run is missing: refuse, or leave out the tasks or the models that lack one",
        choices=("refuse", "tasks", "models"),
        default="refuse",
    ),
    Option(
        "--growth", "share of the first turn's cost by which turns grow (default: fitted, else assumed)", float, "RATE"
    ),
)


def suite_request(args: argparse.Namespace) -> "SuiteRequest":
    """What the options say.

    Raises:
        InvalidConfigError: If a --column is not FIELD=NAME, or a number is out of range.
    """
    from mtrouter_rl.datasets.importers.suites.build import SuiteRequest

    columns = {}
    for text in args.column:
        field, equals, name = text.partition("=")
        if not equals or not name:
            raise InvalidConfigError(f"--column is '{text}', must be FIELD=NAME, such as score=passed")
        columns[field] = name
    return SuiteRequest(
        outcomes=args.outcomes,
        others=tuple(args.others),
        name=args.name,
        columns=columns,
        max_score=args.max_score,
        leaderboard=args.leaderboard,
        incomplete=args.incomplete,
        growth=args.growth,
    )
