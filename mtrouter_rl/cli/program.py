"""Command line: parses, calls the package, prints. No logic of its own."""

import argparse
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.cli.parser import build_parser
from mtrouter_rl.errors import InvalidConfigError, MTRouterError
from mtrouter_rl.files import locked, visible
from mtrouter_rl.options import Command, Group, Output
from mtrouter_rl.progress import hidden
from mtrouter_rl.registry import code_allowed
from mtrouter_rl.workers.peers import peers_of_torchrun

__all__ = ["build_parser", "main", "run_command"]


def run_command(arguments: Sequence[str]) -> None:
    """Run a command and let its errors rise; nothing else writes to its `--out` meanwhile.

    Args:
        arguments: Words after the program's name.

    Raises:
        BusyError: If another command writes to the same place.
        InvalidConfigError: If torchrun started several processes of a command that one process does.
    """
    args = build_parser().parse_args(arguments)
    command: Command = args.selected
    peers = peers_of_torchrun()
    if peers.n > 1 and not command.takes_torchrun:
        raise InvalidConfigError(
            f"torchrun started {peers.n} processes, and one process does '{command.full_name}'; run it without torchrun (with "
            "--workers, where the command has it)"
        )
    with ExitStack() as stack:
        stack.enter_context(hidden(args.quiet or not peers.is_first))
        stack.enter_context(code_allowed(args.allow_code))
        for place in _places(args) if peers.is_first else ():
            stack.enter_context(locked(place))
        command.run(args, Output(is_json=args.json, is_quiet=args.quiet))


def _places(args: argparse.Namespace) -> Iterator[Path]:
    """What a command writes to: its `--out`, and the folder that `report` draws anew."""
    for name in ("out", "upgrade"):
        if isinstance(place := getattr(args, name, None), Path):
            yield place
            return
    folders = getattr(args, "run_folders", None) or ()
    yield from (folder for folder in folders[:1] if isinstance(folder, Path) and folder.is_dir())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; None takes those of the process.

    Returns:
        Exit status: 0, or 1 after an error that has been explained on stderr, or 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = _renamed(sys.argv[1:] if arguments is None else arguments)
    called = " ".join(words[:2] if words[:1] == ["lab"] else words[:1])
    # More threads than free cores are many times slower than one a process; torch reads this when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _set_up_streams("--quiet" in words)
    told = _told(called)
    try:
        with _term_as_interrupt():
            run_command(words)
            if sys.stdout is not None:
                sys.stdout.flush()
    except MTRouterError as error:
        return told(str(error), 1)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
    except _TerminatedError:
        return told("stopped; run the same command again to go on", 143, "\n")
    except KeyboardInterrupt:
        return told("stopped; run the same command again to go on", 130, "\n")
    except OSError as error:  # of the disk: read-only, full, gone
        if error.errno == errno.EBADF and _is_closed(sys.stdout):
            _drop_output()
            return told(
                "standard output is closed, so the result cannot be printed; redirect it, such as > /dev/null", 1
            )
        return told(f"{error}; free disk space or correct path and permissions, and run the same command again", 1)
    except UnicodeError as error:
        return told(f"a text or file name is no valid Unicode: {error}; rename it, or set LC_ALL=C.UTF-8", 1)
    return 0


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: it ends a command as Ctrl-C does, so that what it began is tidied up."""


@contextmanager
def _term_as_interrupt() -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> NoReturn:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(called: str) -> Callable[..., int]:
    def tell(text: str, status: int, start: str = "") -> int:
        with suppress(OSError, ValueError):
            print(f"{start}mtrouter-rl {called}: {visible(text)}", file=sys.stderr)
        return status

    return tell


class _VisibleFormatter(logging.Formatter):
    """Writes out the control characters of names and texts."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _set_up_streams(is_quiet: bool) -> None:
    """Log to stderr, and print what the terminal's encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR if is_quiet else logging.WARNING, handlers=[handler])


def _is_closed(stream: IO[str] | None) -> bool:
    try:
        os.fstat(1 if stream is None else stream.fileno())
    except (OSError, ValueError):
        return True
    return False


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter has nothing to complain of when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1 if sys.stdout is None else sys.stdout.fileno())


def _renamed(words: Sequence[str]) -> list[str]:
    """The words, with `lab` before the name of a study that once was a command of its own."""
    if words and any(one.name == words[0] for one in all_commands() if one.group is Group.LAB):
        if "--quiet" not in words:
            print(f"mtrouter-rl: '{words[0]}' is now 'mtrouter-rl lab {words[0]}'", file=sys.stderr)
        return ["lab", *words]
    return list(words)


if __name__ == "__main__":
    sys.exit(main())
