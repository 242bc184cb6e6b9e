"""No flag of the first command line is lost: `flags.json` was recorded from the parser that it had."""

import argparse
import json
from pathlib import Path

import pytest

from mtrouter_rl.cli.program import build_parser

RECORDED = json.loads(Path(__file__).with_name("flags.json").read_text(encoding="utf-8"))


def describe(action):
    """Everything about an argument that decides what a command line means, and its help not."""
    default = str(action.default) if isinstance(action.default, Path) else action.default
    facts = {
        "dest": action.dest,
        "does": type(action).__name__.strip("_").removesuffix("Action"),
        "type": getattr(action.type, "__name__", None),
        "nargs": action.nargs,
        "default": default,
        "choices": list(action.choices) if action.choices else None,
        "required": action.required or None,
    }
    return " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)


def parsers(parser):
    """(name, parser) of every command, those behind `lab` included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name, command
                yield from parsers(command)


def flags():
    return {
        name: {
            " ".join(action.option_strings) or action.dest: describe(action)
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        }
        for name, parser in parsers(build_parser())
    }


@pytest.mark.parametrize("command", sorted(RECORDED))
def test_every_flag_is_still_there_and_means_the_same(command):
    assert RECORDED[command].items() <= flags()[command].items()
