"""Every command of a file of its own, in the order of `--help`: `add(commands)` adds the parser."""

from mtrouter_rl.cli import (
    behavior,
    check_env,
    export,
    extend,
    import_log,
    new_env,
    ope,
    report,
    reprice,
    split,
    validate,
)
from mtrouter_rl.studies.ablations import command as ablate
from mtrouter_rl.studies.cross_environment import command as study_cross
from mtrouter_rl.studies.frontier import command as frontier
from mtrouter_rl.studies.headroom import command as headroom
from mtrouter_rl.studies.leave_one_out import command as leave_one_out
from mtrouter_rl.studies.overestimation import command as overestimation
from mtrouter_rl.studies.pool_calibration import command as calibrate
from mtrouter_rl.studies.pool_calibration import complementarity_command as hindsight_gap
from mtrouter_rl.studies.query_tables import command as one_turn
from mtrouter_rl.studies.real_logs import command as study_log

ADDERS = (
    frontier.add,
    ablate.add,
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
    leave_one_out.add,
    extend.add,
)
"""One function for every command of this package, in the order of `--help`."""
