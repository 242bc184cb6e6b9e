"""`mtrouter-rl split`: train, validation and test parts of a log that has none of its own."""

import argparse

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared, switch, values


def parse_shares(text: str) -> tuple[float, float, float]:
    """Three shares given as A,B,C.

    Raises:
        InvalidConfigError: If they are not three numbers.

    Example:
        >>> parse_shares("0.8,0,0.2")
        (0.8, 0.0, 0.2)
    """
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidConfigError(
            f"--shares is '{text}', must be three numbers A,B,C for train, validation and test"
        ) from error
    return train, validation, test


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.partition import PartitionRequest, partition

    report = partition(
        PartitionRequest(
            shares=parse_shares(args.shares),
            holdout=tuple(args.holdout),
            **values(args, "dataset", "by", "out", "seed", "overwrite", allows_leaks="allow_leaks"),
        )
    )
    output.show(report, {**vars(report), "splits": args.out})
    output.say(f"splits: {args.out}")


COMMAND = Command(
    name="split",
    group=Group.LOGS,
    summary="split a log into train, validation and test",
    description=(
        "Writes DIR/train, DIR/validation, DIR/test (and DIR/ood for held-out tasks), each a dataset of its own, and refuses "
        "to write splits that leak into each other. BY is one of\n"
        "  task         whole task types\n"
        "  variation    (task, variation), the same shares in every task\n"
        "  time:NAME    earliest first, by the extra field NAME (numbers, or ISO 8601 dates and times)\n"
        "  column:NAME  whole values of the extra field NAME"
    ),
    examples=("logs/corridor --by variation --out logs/corridor-split",),
    options=(
        shared.LOG_FOLDER,
        Option("--by", "what is kept together, see above", required=True, metavar="BY"),
        shared.out("folder that gets a folder per split"),
        Option("--shares", "of train, validation, test", default="0.6,0.2,0.2", metavar="A,B,C"),
        shared.seed("the draw"),
        Option("--holdout", "tasks that go to the split ood, whole", nargs="+", default=[], metavar="TASK"),
        switch("--allow-leaks", "write splits that leak, and record what leaks"),
        switch("--overwrite", "replace splits that lie there"),
    ),
    run=_run,
)
