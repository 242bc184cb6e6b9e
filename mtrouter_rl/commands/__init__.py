"""Commands, one file each: `add(commands)` adds the parser. They parse, call the package and print."""

from mtrouter_rl.commands import (
    behavior,
    calibrate,
    check_env,
    export,
    frontier,
    headroom,
    hindsight_gap,
    import_log,
    new_env,
    one_turn,
    ope,
    overestimation,
    report,
    reprice,
    split,
    study_cross,
    study_log,
    validate,
)

ADDERS = (
    frontier.add,
    report.add,
    behavior.add,
    import_log.add,
    validate.add,
    split.add,
    reprice.add,
    export.add,
    study_log.add,
    study_cross.add,
    one_turn.add,
    ope.add,
    overestimation.add,
    new_env.add,
    check_env.add,
    calibrate.add,
    headroom.add,
    hindsight_gap.add,
)
"""One function for every command of this package, in the order of `--help`."""
