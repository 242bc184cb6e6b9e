"""`mtrouter-rl new-env`: a plug-in package that works, to be made one's own."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "new-env",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="write a plug-in package for an environment of your own",
        description=(
            "Writes a package with a toy task, its cards, its entry points and its contract test. It works as it is; after\n"
            "'pip install -e FOLDER' every command finds it by name. Then replace the task step by step.\n\n"
            "example: mtrouter-rl new-env my_maze"
        ),
    )
    parser.add_argument("name", metavar="NAME", help="name of the environment and of its package, such as my_maze")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the package (default: ./NAME)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.scaffold.plugin import write_plugin

    folder = args.out or Path(args.name)
    for path in write_plugin(args.name, folder):
        print(f"  {path}")
    print(
        f"Next:\n"
        f"  pip install -e {folder}\n"
        f"  mtrouter-rl check-env {args.name}\n"
        f"  mtrouter-rl study --env {args.name} --out runs/{args.name}\n"
        f"Put your game into {folder / 'src' / args.name / 'task.py'} and its tasks into the card; check-env says what to mend"
    )
