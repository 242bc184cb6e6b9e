"""Names of modules before 0.2 and where they are now: importing an old one is an error that names the new place.

`moved.txt` beside this file has a line a module: its old name and its new one, both below `mtrouter_rl`.
"""

import ast
import importlib.abc
import importlib.machinery
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
        if fullname in moved_modules() and not _path_of(fullname).is_dir():
            raise MovedNameError(f"module '{fullname}' is now '{moved_modules()[fullname]}'; import it from there")
        return None


def install() -> None:
    """Put up the signpost, once."""
    if not any(isinstance(finder, _Signpost) for finder in sys.meta_path):
        sys.meta_path.append(_Signpost())


def _path_of(module: str) -> Path:
    """Where a module lies, without its ending."""
    return Path(__file__).parents[1].joinpath(*module.split("."))


@cache
def _names_of(module: str) -> frozenset[str]:
    """Names that a module defines or imports, read off its text: nothing is imported for them."""
    path = _path_of(module).with_suffix(".py")
    defined: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined.add(node.name)
        if isinstance(node, ast.ImportFrom):
            defined.update(alias.asname or alias.name for alias in node.names)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(defined)


def signpost(old: str) -> Callable[[str], object]:
    """A `__getattr__` for a package that used to be a module: names that it held give an error that names the new place."""

    def missing(name: str) -> object:
        new = moved_modules()[old]
        if name in _names_of(new):
            raise MovedNameError(f"'{old}.{name}' is now '{new}.{name}'; import it from there")
        raise AttributeError(f"module '{old}' has no attribute '{name}'")

    return missing
