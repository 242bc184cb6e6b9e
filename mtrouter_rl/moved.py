"""Names of modules before 0.2 and where they are now: importing an old one is an error that names the new place.

`moved.txt` beside this file has a line a module: its old name and its new one, both below `mtrouter_rl`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from mtrouter_rl.errors import MovedNameError

_PACKAGE = "mtrouter_rl"


@cache
def moved_modules() -> dict[str, str]:
    """Old name -> new name of every module that moved."""
    lines = Path(__file__).with_name("moved.txt").read_text(encoding="utf-8").splitlines()
    return {f"{_PACKAGE}.{old}": f"{_PACKAGE}.{new}" for old, new in (line.split() for line in lines)}


class _Signpost(importlib.abc.MetaPathFinder):
    """Asked last, when no module of a name was found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Raise for an old name; leave any other to the interpreter.

        Raises:
            MovedNameError: If the module has moved.
        """
        if fullname.startswith(f"{_PACKAGE}.") and fullname in moved_modules():
            raise MovedNameError(f"module '{fullname}' is now '{moved_modules()[fullname]}'; import it from there")
        return None


def install() -> None:
    """Put up the signpost, once."""
    if not any(isinstance(finder, _Signpost) for finder in sys.meta_path):
        sys.meta_path.append(_Signpost())


def signpost(old: str) -> Callable[[str], object]:
    """A `__getattr__` for a package that used to be a module and holds none of its names any more."""

    def missing(name: str) -> object:
        new = moved_modules()[old]
        is_submodule = not name.startswith("_") and importlib.util.find_spec(f"{old}.{name}") is not None
        if name.startswith("__") or is_submodule:  # the interpreter then imports the submodule
            raise AttributeError(f"module '{old}' has no attribute '{name}'")
        raise MovedNameError(f"'{old}.{name}' is now '{new}.{name}'; import it from there")

    return missing
