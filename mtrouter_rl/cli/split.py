"""`mtrouter-rl split`: train, validation and test parts of a log that has none of its own."""

import argparse
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "split",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="split a log into train, validation and test",
        description=(
            "Writes DIR/train, DIR/validation, DIR/test (and DIR/ood for held-out tasks), each a dataset of its own, and\n"
            "refuses to write splits that leak into each other. BY is one of\n"
            "  task         whole task types\n"
            "  variation    (task, variation), the same shares in every task\n"
            "  time:NAME    earliest first, by the extra field NAME (numbers, or ISO 8601 dates and times)\n"
            "  column:NAME  whole values of the extra field NAME\n\n"
            "example: mtrouter-rl split logs/mine --by variation --out logs/mine-split"
        ),
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the log")
    parser.add_argument("--by", required=True, metavar="BY", help="what is kept together, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that gets a folder per split")
    parser.add_argument(
        "--shares", default="0.6,0.2,0.2", metavar="A,B,C", help="of train, validation, test (default: 0.6,0.2,0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument(
        "--holdout", nargs="+", default=[], metavar="TASK", help="tasks that go to the split ood, whole"
    )
    parser.add_argument("--allow-leaks", action="store_true", help="write splits that leak, and record what leaks")
    parser.add_argument("--overwrite", action="store_true", help="replace splits that lie there")
    parser.set_defaults(run=run)


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


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.datasets.partition import PartitionRequest, partition

    report = partition(
        PartitionRequest(
            dataset=args.dataset,
            by=args.by,
            out=args.out,
            shares=parse_shares(args.shares),
            seed=args.seed,
            holdout=tuple(args.holdout),
            allows_leaks=args.allow_leaks,
            overwrite=args.overwrite,
        )
    )
    print(f"{report}\nsplits: {args.out}")
