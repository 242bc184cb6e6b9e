"""The parser of `mtrouter-rl`, and what its help shows: four groups of commands, studies behind `lab`."""

import argparse
import re
from typing import NoReturn

from mtrouter_rl import __version__
from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.errors import unknown_name
from mtrouter_rl.options import Group

EXIT_CODES = {
    0: "done; also when the reader of the output, such as `head`, stopped reading",
    1: "an error that you can mend, told on stderr; also when `check-env` or `validate` finds a fault",
    2: "wrong usage: an unknown command or option, or a value of the wrong type",
    130: "stopped with Ctrl-C; run the same command again to go on",
    143: "stopped with SIGTERM, as `kill` and schedulers send it; run the same command again to go on",
}
"""What the exit status of every command means."""

_LAB = "studies about the product itself: mtrouter-rl lab --help"
_OVERVIEW = """\
usage: mtrouter-rl COMMAND ...

Learn from logs which LLM to call at every turn of a long task.

{groups}

mtrouter-rl COMMAND --help shows the options of a command and an example that runs.
Every command takes --quiet and --json.
Exit codes: 0 done, 1 an error that you can mend, 2 wrong usage, 130 or 143 stopped.
Read on: README.md, docs/command-line.md. Version: mtrouter-rl --version
"""
_LAB_OVERVIEW = """\
usage: mtrouter-rl lab NAME ...

Studies about the product itself: what its parts are worth, and how far its numbers can be trusted.

{studies}

example: mtrouter-rl lab headroom --env corridor --cost-weights 0.4 --per-task 1 --out runs/headroom
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose help may be a text that was written by hand."""

    overview: str | None = None

    def format_help(self) -> str:
        return self.overview or super().format_help()

    def error(self, message: str) -> NoReturn:
        """As argparse does, with the nearest name for a command that there is not, and where to look for one."""
        unknown = re.match(r"argument (?:COMMAND|NAME): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if unknown:
            known = re.findall(r"'([^']+)'", unknown[2])
            message = str(unknown_name("command", unknown[1], known, fix=f"{self.prog} --help says what each does"))
        elif "the following arguments are required: COMMAND" in message or "are required: NAME" in message:
            message = f"say which command; {self.prog} --help lists them"
        super().error(message)


def _list(group: Group) -> list[str]:
    lines = [f"  {one.name:<16}{one.summary}" for one in all_commands() if one.group is group]
    return [*lines, f"  {'lab':<16}{_LAB}"] if group is Group.STUDY else lines


def build_parser() -> argparse.ArgumentParser:
    """Parser of `mtrouter-rl`, with every command."""
    parser = _Parser(prog="mtrouter-rl")
    groups = ("\n".join([group.value, *_list(group)]) for group in Group if group is not Group.LAB)
    parser.overview = _OVERVIEW.format(groups="\n\n".join(groups))
    parser.add_argument("--version", action="version", version=f"mtrouter-rl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    lab = commands.add_parser("lab", help=_LAB)
    lab.overview = _LAB_OVERVIEW.format(studies="\n".join(_list(Group.LAB)))
    studies = lab.add_subparsers(dest="lab_command", required=True, metavar="NAME")
    for command in all_commands():
        command.add_to(studies if command.group is Group.LAB else commands)
    parser.set_defaults(whole_parser=parser)
    return parser
