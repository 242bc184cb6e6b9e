"""Columns of the Parquet files, and how records become tables and tables records again.

Each writer stands beside its inverse. No rule about values is checked here; that is `mtrouter_rl.datasets.validation`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar, cast

import pyarrow as pa

from mtrouter_rl.errors import DatasetError
from mtrouter_rl.files import check_depth, parse_json
from mtrouter_rl.records import Episode, JsonValue, TokenUsage, TracedEpisode, Turn

RecordT = TypeVar("RecordT")
N_TURNS_KEY = b"mtrouter_rl.n_turns"
"""Key in the metadata of an episodes file: how many rows its turns file has, so that lost episodes are noticed."""

N_HIDDEN_KEY = b"mtrouter_rl.n_hidden"
"""The same of its hidden file; files of older versions do not say."""

NULLABLE_COLUMNS = frozenset({"propensity", "latency_s"})
"""Columns in which a null says "nobody knows"; whether a dataset may say so is a rule of `validation`."""


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name in NULLABLE_COLUMNS) for name, kind in columns.items()])


EPISODE_SCHEMA = _schema(
    episode_id=pa.string(),
    task=pa.string(),
    variation=pa.int64(),
    seed=pa.int64(),
    split=pa.string(),
    task_text=pa.string(),
    first_observation=pa.string(),
    behavior_policy=pa.string(),
    budget_usd=pa.float64(),
    max_turns=pa.int64(),
    status=pa.string(),
    status_detail=pa.string(),
    usage_source=pa.string(),
    extra=pa.string(),
)
TURN_SCHEMA = _schema(
    episode_id=pa.string(),
    turn=pa.int64(),
    model=pa.string(),
    served_model=pa.string(),
    action_text=pa.string(),
    observation_text=pa.string(),
    n_fresh=pa.int64(),
    n_cached=pa.int64(),
    n_written=pa.int64(),
    n_output=pa.int64(),
    cost_usd=pa.float64(),
    utility_gain=pa.float64(),
    propensity=pa.float64(),
    action_mask=pa.list_(pa.bool_()),
    warm=pa.list_(pa.bool_()),
    error=pa.string(),
    latency_s=pa.float64(),
    terminated=pa.bool_(),
    truncated=pa.bool_(),
    router_cost_usd=pa.float64(),
)
PARENTS_COLUMN = pa.field("parents", pa.list_(pa.int64()), nullable=True)
"""Column of a turns file that is there where a turn of it names its parents, and in no other: a log of chains has the bytes
that it had before there was the column."""
HIDDEN_SCHEMA = _schema(episode_id=pa.string(), turn=pa.int64(), hidden=pa.string())

_USAGE_COLUMNS = ("n_fresh", "n_cached", "n_written", "n_output")
_PLAIN_COLUMNS = tuple(name for name in TURN_SCHEMA.names if name not in {"episode_id", "turn", *_USAGE_COLUMNS})


def _column(records: Sequence[RecordT], field: pa.Field, get: Callable[[RecordT], object]) -> pa.Array:
    try:
        return pa.array(list(map(get, records)), type=field.type)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise DatasetError(
            f"column '{field.name}' cannot be written as {field.type}: {error}; give every row a value of that type "
            "(text must be valid Unicode, without lone surrogates)"
        ) from error


def _extra_text(episode: Episode) -> str:
    try:
        return json.dumps(dict(episode.extra), sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"episode '{episode.episode_id}': extra is {episode.extra!r:.80}, must be a mapping of names to JSON values: "
            f"{error}"
        ) from error


def _hidden_text(episode_id: str, turn: int, hidden: Mapping[str, JsonValue]) -> str:
    try:
        check_depth(dict(hidden))
        return json.dumps(dict(hidden), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"episode '{episode_id}', turn {turn}: hidden is {hidden!r:.80}, must be a mapping of names to JSON values: {error}"
        ) from error


def episodes_to_table(episodes: Sequence[Episode], *, n_hidden: int | None = None) -> pa.Table:
    """Episode rows, without their turns. Inverse: `table_to_episode_fields`.

    Args:
        episodes: The episodes.
        n_hidden: How many hidden rows they have, to be noted beside them.

    Raises:
        DatasetError: If a value does not fit the type of its column.
    """
    n_turns = sum(len(episode.turns) for episode in episodes)
    counts = {N_TURNS_KEY: n_turns} | ({} if n_hidden is None else {N_HIDDEN_KEY: n_hidden})
    schema = EPISODE_SCHEMA.with_metadata({key: str(count).encode() for key, count in counts.items()})
    getters: dict[str, Callable[[Episode], object]] = {name: attrgetter(name) for name in schema.names}
    getters["extra"] = lambda episode: _extra_text(episode)
    columns = [_column(episodes, field, getters[field.name]) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def table_to_episode_fields(table: pa.Table) -> list[dict[str, object]]:
    """Keyword arguments of every `Episode`, without its turns."""
    rows: list[dict[str, object]] = table.select(EPISODE_SCHEMA.names).to_pylist()
    for row in rows:
        try:
            row["extra"] = parse_json(str(row["extra"]), is_unique=False)
        except ValueError as error:
            raise DatasetError(
                f"episode '{row['episode_id']}': column 'extra' holds text that is not JSON: {error}; "
                "write a JSON object, or {} for nothing"
            ) from error
    return rows


def turn_schema(*, has_parents: bool) -> pa.Schema:
    """Columns of a turns file."""
    return TURN_SCHEMA.append(PARENTS_COLUMN) if has_parents else TURN_SCHEMA


def name_parents(episodes: Sequence[Episode]) -> bool:
    """Whether a turn of any of the episodes says which turns it comes from."""
    return any(turn.parents is not None for episode in episodes for turn in episode.turns)


def turns_to_table(episodes: Sequence[Episode], *, has_parents: bool | None = None) -> pa.Table:
    """Turn rows of all episodes, in order. Inverse: `table_to_turns`.

    Args:
        episodes: The episodes.
        has_parents: Whether the table has the column of parents; None lets the turns decide.

    Raises:
        DatasetError: If a value does not fit the type of its column.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    ids = [episode.episode_id for episode in episodes for _ in episode.turns]
    indices = [index for episode in episodes for index in range(len(episode.turns))]
    columns = {
        "episode_id": _column(ids, TURN_SCHEMA.field("episode_id"), lambda episode_id: episode_id),
        "turn": pa.array(indices, pa.int64()),
    }
    schema = turn_schema(has_parents=name_parents(episodes) if has_parents is None else has_parents)
    for field in schema:
        if field.name not in columns:
            path = f"usage.{field.name}" if field.name in _USAGE_COLUMNS else field.name
            columns[field.name] = _column(turns, field, attrgetter(path))
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def table_to_turns(table: pa.Table) -> list[tuple[str, int, Turn]]:
    """Episode id, turn index and turn of every row, in the order of the file."""
    columns = {name: table[name].to_pylist() for name in TURN_SCHEMA.names}
    for name in ("action_mask", "warm"):
        columns[name] = [tuple(flags) for flags in columns[name]]
    usages = [
        TokenUsage(n_fresh=n_fresh, n_cached=n_cached, n_written=n_written, n_output=n_output)
        for n_fresh, n_cached, n_written, n_output in zip(*(columns[name] for name in _USAGE_COLUMNS), strict=True)
    ]
    names = _PLAIN_COLUMNS
    if PARENTS_COLUMN.name in table.column_names:
        names = (*names, PARENTS_COLUMN.name)
        rows = table[PARENTS_COLUMN.name].to_pylist()
        columns[PARENTS_COLUMN.name] = [None if row is None else tuple(row) for row in rows]
    plain = zip(*(columns[name] for name in names), strict=True)
    turns = (
        Turn(usage=usage, **dict(zip(names, values, strict=True))) for usage, values in zip(usages, plain, strict=True)
    )
    return list(zip(columns["episode_id"], columns["turn"], turns, strict=True))


def hidden_to_table(traced: Sequence[TracedEpisode]) -> pa.Table:
    """Hidden rows, one a turn, as JSON text; an episode without any has no row. Inverse: `table_to_hidden`.

    Raises:
        DatasetError: If an entry is no mapping of names to JSON values.
    """
    rows = [
        (trace.episode.episode_id, index, _hidden_text(trace.episode.episode_id, index, hidden))
        for trace in traced
        for index, hidden in enumerate(trace.hidden)
    ]
    columns = [pa.array([row[i] for row in rows], type=field.type) for i, field in enumerate(HIDDEN_SCHEMA)]
    return pa.Table.from_arrays(columns, schema=HIDDEN_SCHEMA)


def table_to_hidden(table: pa.Table) -> dict[str, tuple[dict[str, JsonValue], ...]]:
    """Hidden information of every turn, by episode id; the rows stand in the order of the turns, see `validation.check_hidden`.

    Raises:
        ValueError: If a row is not JSON.
    """
    hidden: dict[str, list[dict[str, JsonValue]]] = {}
    for episode_id, text in zip(table["episode_id"].to_pylist(), table["hidden"].to_pylist(), strict=True):
        hidden.setdefault(episode_id, []).append(cast("dict[str, JsonValue]", parse_json(text, is_unique=False)))
    return {episode_id: tuple(rows) for episode_id, rows in hidden.items()}
