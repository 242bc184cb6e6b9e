"""`mtrouter-rl new-env`: a plug-in package that works, to be made one's own."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output, shared


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.scaffold.plugin import write_plugin

    folder = args.out or Path(args.name)
    files = write_plugin(args.name, folder)
    output.show("\n".join(f"  {path}" for path in files), {"folder": folder, "files": files})
    output.say(
        f"Next:\n"
        f"  pip install -e {folder}\n"
        f"  mtrouter-rl check-env {args.name}\n"
        f"  mtrouter-rl study --env {args.name} --out runs/{args.name}\n"
        f"Put your game into {folder / 'src' / args.name / 'task.py'} and its tasks into the card; check-env says what to mend"
    )


COMMAND = Command(
    name="new-env",
    group=Group.PLUG_IN,
    summary="write a plug-in package for an environment of your own",
    description=(
        "Writes a package with a toy task, its cards, its entry points and its contract test. It works as it is; after "
        "'pip install -e FOLDER' every command finds it by name. Then replace the task step by step."
    ),
    examples=("my_maze",),
    options=(
        Option("name", "name of the environment and of its package, such as my_maze", metavar="NAME"),
        shared.out("folder of the package (default: ./NAME)", metavar="FOLDER", required=False),
    ),
    run=_run,
)
