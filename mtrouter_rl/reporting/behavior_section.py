"""Whether a behaviour file belongs to a run, and its tables for the report."""

from dataclasses import replace

from mtrouter_rl.evaluation.behavior_file import Behavior, BehaviorRow
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.reporting import behavior_report
from mtrouter_rl.reporting.tables import Table


def behavior_mismatch(behavior: Behavior, results: Results) -> str | None:
    """Why the behaviour file does not belong to the results, in words; None if it does."""
    apart = [name for name in ("env", "pool", "model_names") if getattr(behavior, name) != getattr(results, name)]
    if not apart:
        return None
    return "; ".join(f"`{name}` is {_shown(behavior, name)} there and {_shown(results, name)} here" for name in apart)


def behavior_tables(behavior: Behavior, split: str) -> tuple[Table, ...]:
    """Tables of a split, each of which names it; none without rows."""
    if split not in behavior.splits:
        return ()
    tables = behavior_report.behavior_tables(behavior, split)
    return tuple(replace(table, caption=f"{split[0].upper()}{split[1:]} split. {table.caption}") for table in tables)


def is_mixing(row: BehaviorRow) -> bool:
    """Whether a policy called more than one model."""
    return sum(share > 0 for share in row.turn_share.values()) > 1


def _shown(record: Behavior | Results, name: str) -> str:
    value = getattr(record, name)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
