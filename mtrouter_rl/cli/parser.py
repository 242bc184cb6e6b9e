"""The parser of `mtrouter-rl`, and what its help shows: four groups of commands, studies behind `lab`."""

import argparse
from collections.abc import Iterable

from mtrouter_rl import __version__
from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.options.command import Command, Group, help_formatter

EXIT_CODES = {
    0: "done; also when the reader of the output, such as `head`, stopped reading",
    1: "an error that you can mend, told on stderr; also when `check-env` or `validate` finds a fault",
    2: "wrong usage: an unknown command or option, or a value of the wrong type",
    130: "stopped with Ctrl-C; run the same command again to go on",
}
"""What the exit status of every command means."""

_LAB = "studies about the product itself: mtrouter-rl lab --help"
_OVERVIEW = """\
usage: mtrouter-rl COMMAND ...

Learn from logs which LLM to call at every turn of a long task.

{groups}

mtrouter-rl COMMAND --help shows the options of a command and an example that runs.
Every command takes --quiet and --json.
Exit codes: 0 done, 1 an error that you can mend, 2 wrong usage, 130 stopped with Ctrl-C.
Read on: README.md, docs/command-line.md. Version: mtrouter-rl --version
"""


class _Overview(argparse.ArgumentParser):
    """The parser at the top: its help fits on one screen."""

    def format_help(self) -> str:
        lines = {group: [group.value, *_lines(one for one in all_commands() if one.group is group)] for group in Group}
        lines[Group.STUDY].append(_line("lab", _LAB))
        del lines[Group.LAB]
        return _OVERVIEW.format(groups="\n\n".join("\n".join(one) for one in lines.values()))


def _lines(commands: Iterable[Command]) -> list[str]:
    return [_line(one.name, one.summary) for one in commands]


def _line(name: str, summary: str) -> str:
    return f"  {name:<16}{summary}"


def build_parser() -> argparse.ArgumentParser:
    """Parser of `mtrouter-rl`, with every command."""
    parser = _Overview(prog="mtrouter-rl", formatter_class=help_formatter)
    parser.add_argument("--version", action="version", version=f"mtrouter-rl {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    lab = commands.add_parser(
        "lab",
        formatter_class=help_formatter,
        help=_LAB,
        description="Studies about the product itself: what its parts are worth, and how far its numbers can be trusted.",
        epilog="example: mtrouter-rl lab headroom --env corridor --out runs/headroom",
    )
    studies = lab.add_subparsers(dest="lab_command", required=True, metavar="NAME", title="studies")
    for command in all_commands():
        command.add_to(studies if command.group is Group.LAB else commands)
    parser.set_defaults(whole_parser=parser)
    return parser
