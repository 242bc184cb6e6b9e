"""Parts of the history features by meaning, so that a router can be trained without some of them.

The parts divide every column of `HistoryFeatures` among them. They are finer than its blocks: what is known of the turn
and the money, of the last turn, and of all turns before it are parts of their own.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from mtrouter_rl.embeddings.history import SCALAR_NAMES
from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

HistoryInput = Literal[
    "task", "last_observation", "last_action", "recent", "progress", "last_turn", "trends", "model_memory"
]
"""Names of the parts.

"task", "last_observation", "last_action", "recent": the text blocks. "progress": turns and money, spent and left.
"last_turn": whether the last turn was an error, which model took it, and whether that one is warm. "trends": what is
counted over the turns so far (errors, repetitions, news, switches, length). "model_memory": which models acted before the
last turn, failed, or brought nothing new.
"""

HISTORY_INPUTS: tuple[HistoryInput, ...] = get_args(HistoryInput)
"""All parts, which is what a router is shown by default."""

Columns = tuple[int, int]
"""Columns (start, stop)."""

_PROGRESS = ("turn_share", "turns_left_share", "log_turn", "budget_left_share", "log_budget_left_usd")
_LAST_TURN = ("last_turn_error", "last_model_is_warm")


def input_columns(features: "HistoryFeatures") -> dict[HistoryInput, tuple[Columns, ...]]:
    """Columns of every part; each column is of exactly one."""
    blocks = features.blocks
    scalars, memory = blocks["scalars"].start, blocks["model_memory"]
    before_last = memory.start + len(MODEL_FEATURE_NAMES)
    trends = [name for name in SCALAR_NAMES if name not in (*_PROGRESS, *_LAST_TURN)]
    texts: tuple[HistoryInput, ...] = ("task", "last_observation", "last_action", "recent")
    return {
        **{name: ((blocks[name].start, blocks[name].stop),) for name in texts},
        "progress": _runs(_scalars(_PROGRESS, scalars)),
        "last_turn": _runs([*_scalars(_LAST_TURN, scalars), *range(memory.start, before_last)]),
        "trends": _runs(_scalars(trends, scalars)),
        "model_memory": ((before_last, memory.stop),),
    }


def hidden_columns(features: "HistoryFeatures", shown: Sequence[HistoryInput]) -> tuple[Columns, ...]:
    """Columns of the parts that are not shown, in order; none if all are."""
    missing = [name for name in HISTORY_INPUTS if name not in shown]
    if not missing:
        return ()
    of_part = input_columns(features)
    hidden = [columns for name in missing for columns in of_part[name]]
    return _runs(column for start, stop in hidden for column in range(start, stop))


def _scalars(names: Iterable[str], start: int) -> list[int]:
    return [start + SCALAR_NAMES.index(name) for name in names]


def _runs(columns: Iterable[int]) -> tuple[Columns, ...]:
    """Columns as (start, stop) of neighbors, in order."""
    found: list[Columns] = []
    for column in sorted(columns):
        if found and found[-1][1] == column:
            found[-1] = (found[-1][0], column + 1)
        else:
            found.append((column, column + 1))
    return tuple(found)
