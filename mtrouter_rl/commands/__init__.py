"""Commands, one file each: `add(commands)` adds the parser. They parse, call the package and print."""

from mtrouter_rl.commands import (
    behavior,
    export,
    import_log,
    one_turn,
    ope,
    report,
    reprice,
    split,
    study_log,
    validate,
)

ADDERS = (
    report.add,
    import_log.add,
    validate.add,
    split.add,
    reprice.add,
    export.add,
    study_log.add,
    one_turn.add,
    ope.add,
    behavior.add,
)
"""One function for every command of this package, in the order of `--help`."""
