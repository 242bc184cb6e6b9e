"""`mtrouter-rl completion`: the script that completes commands and options in a shell."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output


def _run(args: argparse.Namespace, output: Output) -> None:
    import shtab

    for action in _actions(args.whole_parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(args.whole_parser, shell=args.shell)
    output.show(script, {"shell": args.shell, "script": script})


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


COMMAND = Command(
    name="completion",
    group=Group.PLUG_IN,
    summary="print the script that completes commands and options in bash or zsh",
    description=(
        "For bash, once:\n"
        "  mtrouter-rl completion bash > ~/.local/share/bash-completion/completions/mtrouter-rl\n"
        "For zsh, into a folder that is in fpath:\n"
        "  mtrouter-rl completion zsh > ~/.zfunc/_mtrouter-rl"
    ),
    examples=("bash", "zsh"),
    options=(Option("shell", "bash or zsh", choices=("bash", "zsh")),),
    run=_run,
)
