"""The command line `mtrouter-rl`: it parses, calls the package and prints."""

from collections.abc import Sequence

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.cli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `mtrouter_rl.cli.program.main`."""
    from mtrouter_rl.cli.program import main as run

    return run(arguments)
