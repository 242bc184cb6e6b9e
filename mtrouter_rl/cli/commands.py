"""Every command: those of this package, and those that the studies bring, found by name."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator

from mtrouter_rl import studies
from mtrouter_rl.cli import (
    behavior,
    check_env,
    collect,
    completion,
    evaluate,
    export,
    extend,
    import_log,
    inspect_log,
    new_env,
    ope,
    report,
    reprice,
    split,
    study,
    train,
    validate,
)
from mtrouter_rl.options.command import Command

_IN_ORDER = (
    study,
    collect,
    evaluate,
    import_log,
    validate,
    split,
    reprice,
    train,
    ope,
    extend,
    export,
    new_env,
    check_env,
    completion,
    inspect_log,
    report,
    behavior,
)


def all_commands() -> tuple[Command, ...]:
    """Every command, in the order of the help."""
    return (*(module.COMMAND for module in _IN_ORDER), *_of_studies())


def _of_studies() -> Iterator[Command]:
    """`COMMANDS` of every `studies/NAME/command.py`: a new study adds a folder and changes no other file."""
    for study_folder in pkgutil.iter_modules(studies.__path__):
        name = f"{studies.__name__}.{study_folder.name}.command"
        if importlib.util.find_spec(name) is not None:
            yield from importlib.import_module(name).COMMANDS
