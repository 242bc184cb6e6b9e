"""Every command, found by name: those of this package, and those that the studies bring."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from mtrouter_rl import studies
from mtrouter_rl.options import Command

_OWN = (
    *("study", "collect", "evaluate"),
    *("start", "new_pool", "import_log", "validate", "split", "reprice", "train", "sweep", "ope", "extend", "export"),
    *(
        "plug_in.new_env",
        "plug_in.check_env",
        "endpoints.fake_llm",
        "endpoints.local_llm",
        "endpoints.serve",
        "completion",
    ),
    *("names", "inspect_log", "report", "behavior"),
)
"""Files of this package with a command, in the order of the help."""


def all_commands() -> tuple[Command, ...]:
    """Every command, in the order of the help; those of studies by their names."""
    own = (one for name in _OWN for one in _of_module(importlib.import_module(f"{__package__}.{name}")))
    return (*own, *sorted(_of_studies(), key=lambda command: command.name))


def _of_module(module: ModuleType) -> Iterator[Command]:
    """Every command that a module defines, in the order in which it does."""
    return (one for one in vars(module).values() if isinstance(one, Command))


def _of_studies() -> Iterator[Command]:
    """Every command of every `studies/NAME/command.py`: a new study adds a folder and changes no other file."""
    for folder in pkgutil.iter_modules(studies.__path__):
        name = f"{studies.__name__}.{folder.name}.command"
        if importlib.util.find_spec(name) is not None:
            yield from _of_module(importlib.import_module(name))
