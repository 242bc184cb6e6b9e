"""Options that several commands share, each written once, with its help, its default and its type."""

from pathlib import Path

from mtrouter_rl.options.command import Option, switch
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.workers.executors import parse_workers

SPLITS = ("train", "validation", "test", "ood")

LOG_FOLDER = Option("dataset", "folder of the log", Path, "DATASET")
RUN_FOLDERS = Option("run_folders", "folder of an evaluation or a study (holds results.json)", Path, "RUN", nargs="+")
COST_UNIT = Option("--cost-unit-usd", "a cost unit; needed for an imported log, which has no card", float, "USD")
FORMAT = Option("format", "name of the format, see --list", nargs="?", metavar="FORMAT")
FORMAT_OPTION = Option(
    "--option", "option of the format; may be given often", action="append", default=[], metavar="NAME=VALUE"
)
LIST = switch("--list", "list the formats and their options, and stop")
LOG_SHARES = Option(
    "--log-shares",
    "with several environments: equal shares in mini-batches, or every turn counts the same",
    choices=("equal", "by-turns"),
    default="equal",
)
PER_TASK = Option("--per-task", "at most N variations of a task (default: all)", int, "N")


def share(text: str) -> float:
    """A share as a number or in percent.

    Raises:
        ValueError: If it is neither, or outside [0, 1].

    Example:
        >>> share("5%"), share("0.25")
        (0.05, 0.25)
    """
    number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= number <= 1:
        raise ValueError(f"must be from 0 to 1, or from 0% to 100%, is {text}")
    return number


SCORES = Option(
    "--scores",
    "scores of the log's sessions, kept apart: CSV, JSON or JSONL by session or trace id; may be given often",
    Path,
    "FILE",
    action="append",
    default=[],
)
MAX_LEFT_OUT = Option(
    "--max-left-out",
    "share of episodes that may be left out; above it the exit code is 1, and the dataset is kept (default: 5%)",
    share,
    "SHARE",
    default=0.05,
)


def out(what: str, *, metavar: str = "DIR", required: bool = True, default: Path | None = None) -> Option:
    """`--out`: where the results go."""
    return Option("--out", what, Path, metavar, required=required, default=default)


def overwrite(what: str) -> Option:
    """`--overwrite`: `what` says what may lie there."""
    return switch("--overwrite", f"replace {what} that lies there")


def seed(of: str, *, default: int | None = 0) -> Option:
    """`--seed`: `of` says what is drawn with it."""
    return Option("--seed", f"seed of {of}", int, default=default)


def workers(detail: str = "") -> Option:
    """`--workers`."""
    return Option(
        "--workers",
        f"worker processes{detail}; or 'ray', 'ray:ADDRESS': a Ray cluster (docs/past-one-machine.md)",
        parse_workers,
        "N|ray",
        default=2,
    )


def encoder(detail: str = "") -> Option:
    """`--encoder`."""
    return Option("--encoder", f"text encoder{detail}: hashing or minilm", default=DEFAULT_ENCODER)


def split(*, choices: tuple[str, ...] = SPLITS, default: str = "test") -> Option:
    """`--split`: which episodes are run."""
    return Option("--split", "split that is run", choices=choices, default=default)


def seeds(name: str = "--seeds", *, default: int = 1, when: str = "") -> Option:
    """How many episodes a variation has."""
    return Option(name, f"seeds per variation{when}", int, "K", default=default)


EPISODES_OF_SPLIT = (split(), seeds(), PER_TASK)
"""Which episodes are run."""


def agent(default: str | None = "fitted-q") -> Option:
    """`--agent`: the router that is trained; without a default it must be given."""
    return Option("--agent", "agent card", default=default, required=default is None, metavar="NAME|PATH")


def agents(what: str, default: list[str] | None = None) -> Option:
    """`--agents`: the routers that are trained."""
    return Option("--agents", what, nargs="+", default=default, metavar="AGENT")


def episodes(what: str, *, default: int | None = None) -> Option:
    """`--episodes`."""
    return Option("--episodes", what, int, "N", default=default)


def given_dataset(what: str, *, metavar: str = "DIR") -> Option:
    """`--dataset`: the log that is read."""
    return Option("--dataset", what, Path, metavar, required=True)


def dataset_id(what: str) -> Option:
    """`--id`: the name of the dataset that is written."""
    return Option("--id", what, metavar="NAME-vN")


TEST_SEEDS = Option("--test-seeds", "seeds per test variation (default: 2, or what the card says)", int, "K")
