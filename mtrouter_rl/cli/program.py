"""Command line: parses, calls the package, prints. No logic of its own."""

import logging
import os
import sys
from collections.abc import Sequence

from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.cli.parser import build_parser
from mtrouter_rl.errors import MTRouterError
from mtrouter_rl.options import Command, Group, Output
from mtrouter_rl.progress import hidden

__all__ = ["build_parser", "main", "run_command"]


def run_command(arguments: Sequence[str]) -> None:
    """Run a command and let its errors rise.

    Args:
        arguments: Words after the program's name.
    """
    args = build_parser().parse_args(arguments)
    command: Command = args.selected
    with hidden(args.quiet):
        command.run(args, Output(is_json=args.json, is_quiet=args.quiet))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; None takes those of the process.

    Returns:
        Exit status: 0, or 1 after an error that has been explained on stderr, or 130 after Ctrl-C.
    """
    words = _renamed(sys.argv[1:] if arguments is None else arguments)
    called = " ".join(words[:2] if words[:1] == ["lab"] else words[:1])
    # More threads than free cores are many times slower than one a process; torch reads this when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    level = logging.ERROR if "--quiet" in words else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        run_command(words)
    except MTRouterError as error:
        print(f"mtrouter-rl {called}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"\nmtrouter-rl {called}: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _renamed(words: Sequence[str]) -> list[str]:
    """The words, with `lab` before the name of a study that once was a command of its own."""
    if words and any(one.name == words[0] for one in all_commands() if one.group is Group.LAB):
        if "--quiet" not in words:
            print(f"mtrouter-rl: '{words[0]}' is now 'mtrouter-rl lab {words[0]}'", file=sys.stderr)
        return ["lab", *words]
    return list(words)


if __name__ == "__main__":
    sys.exit(main())
