"""What a command is: a name, a sentence, options, examples, and what it runs."""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any, TypeVar

from mtrouter_rl.options.output import Output

ParserT = TypeVar("ParserT", bound=argparse.ArgumentParser)
WIDTH = 100
"""Columns of every help text."""


class Group(StrEnum):
    """Where the help shows a command; studies about the product itself are behind `mtrouter-rl lab`."""

    STUDY = "Run a study"
    LOGS = "Train on my logs"
    PLUG_IN = "Plug in"
    REPORT = "Inspect and report"
    LAB = "Studies about the product itself"


@dataclass(frozen=True)
class Option:
    """One argument of a command.

    Attributes:
        name: `--name`, or the name of a positional argument.
        help: What it is for; the default is added to it.
        type: Makes the value of a word; None keeps the word.
        metavar: What stands for the value in the help.
        default: Value without the option.
        nargs: How many words; None is one.
        choices: All words that are allowed.
        required: Whether an option may not be left out.
        action: What else than storing a word it does, such as "store_true".
        dest: Name of the value; None takes that of the option.
        section: Heading under which the help shows it.
    """

    name: str
    help: str
    type: Callable[[str], object] | None = None
    metavar: str | None = None
    _: KW_ONLY
    default: object = None
    nargs: str | None = None
    choices: Sequence[str] | None = None
    required: bool = False
    action: str | None = None
    dest: str | None = None
    section: str | None = None

    def add_to(self, parser: "argparse._ActionsContainer") -> None:
        """Add it to a parser, or to a section of one."""
        names = ("type", "metavar", "default", "nargs", "choices", "action", "dest")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.required:
            given["required"] = True
        parser.add_argument(self.name, help=self._help(), **given)

    def _help(self) -> str:
        told = self.help
        if self.default not in (None, [], "") and "(default" not in told:
            words = self.default if isinstance(self.default, list) else [self.default]
            told += f" (default: {' '.join(map(str, words))})"
        return told.replace("%", "%%")


def switch(name: str, help: str) -> Option:  # noqa: A002
    """An option without a value."""
    return Option(name, help, action="store_true")


OUTPUT_OPTIONS = (
    switch("--json", "print one JSON document and nothing else on stdout; all other text goes to stderr"),
    switch("--quiet", "show no progress and no remarks: results and errors alone"),
    switch("--allow-code", "let cards name code as module:attribute, which then runs; only for cards that you trust"),
)
"""Options of every command."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: Its word.
        summary: One line for the list of commands.
        description: What it does; paragraphs are wrapped, lines that begin with two spaces stay as they are.
        examples: Command lines that work, without the program's name.
        options: Its arguments.
        run: Does it.
        group: Where the help shows it.
        takes_torchrun: Whether several processes that torchrun started do it together; the first one holds its `--out`.
    """

    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    options: tuple[Option, ...]
    run: Callable[[argparse.Namespace, Output], None]
    group: Group = Group.LAB
    takes_torchrun: bool = False

    @property
    def full_name(self) -> str:
        """The words that call it."""
        return f"lab {self.name}" if self.group is Group.LAB else self.name

    def add_to(self, commands: "argparse._SubParsersAction[ParserT]") -> None:
        """Add its parser."""
        parser = commands.add_parser(
            self.name,
            formatter_class=help_formatter,
            help=self.summary.replace("%", "%%"),
            description=wrapped(self.description),
            epilog="\n".join(f"example: mtrouter-rl {self.full_name} {words}" for words in self.examples),
        )
        sections: dict[str | None, argparse._ActionsContainer] = {None: parser}
        for option in (*self.options, *OUTPUT_OPTIONS):
            if option.section not in sections:
                sections[option.section] = parser.add_argument_group(option.section)
            option.add_to(sections[option.section])
        parser.set_defaults(selected=self)


def values(args: argparse.Namespace, *names: str, **renamed: str) -> dict[str, Any]:
    """Values of options, for the fields of a request.

    Args:
        args: Parsed options.
        names: Options whose fields are called as they are.
        renamed: Field -> option.

    Example:
        >>> values(argparse.Namespace(seed=1, workers=2, out="runs"), "seed", n_workers="workers")
        {'seed': 1, 'n_workers': 2}
    """
    return {field: getattr(args, name) for field, name in {**dict(zip(names, names, strict=True)), **renamed}.items()}


def given(args: argparse.Namespace, **renamed: str) -> dict[str, Any]:
    """The same without options that were left out, so that each keeps the default of its field."""
    return {field: value for field, value in values(args, **renamed).items() if value is not None}


def help_formatter(prog: str) -> argparse.RawDescriptionHelpFormatter:
    """How every help text is laid out, whatever the width of the terminal."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=WIDTH)


def wrapped(text: str) -> str:
    r"""The text with every paragraph wrapped.

    Example:
        >>> wrapped("One paragraph.\n  a line that stays")
        'One paragraph.\n  a line that stays'
    """
    lines = text.split("\n")
    return "\n".join(
        one if one.startswith("  ") else textwrap.fill(one, WIDTH, break_on_hyphens=False) for one in lines
    )
