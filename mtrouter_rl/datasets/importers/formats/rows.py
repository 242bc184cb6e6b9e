"""Objects of files, whatever way they are laid out: JSON Lines, JSON lists, one object, or rows of a CSV table."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mtrouter_rl.datasets.importers.archives import (
    ARCHIVE_SUFFIXES,
    MAX_FILE_BYTES,
    READ_ERRORS,
    LogStream,
    open_files,
    plain_name,
    reject_broken,
)
from mtrouter_rl.datasets.importers.base import Amount, ImportReport, UnusableEpisodeError
from mtrouter_rl.datasets.importers.json_rows import BROKEN_JSON, stream_rows
from mtrouter_rl.records import JsonValue

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv")

Object = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One object of a log.

    Attributes:
        source: Where it is, as "file:line".
        value: The object.
        file: Path of its file inside the folder or archive that was given.
    """

    source: str
    value: Object
    file: PurePosixPath


def read_rows(path: Path, report: ImportReport, *, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Row]:
    """Objects of all files of a path, in order; what is no object is counted and the rest goes on.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    is_bundle = path.is_dir() or path.name.lower().endswith(ARCHIVE_SUFFIXES)
    for stream in open_files(path, report, suffixes=tuple(suffixes) if is_bundle else ()):
        file = PurePosixPath(stream.path)
        if plain_name(stream.path.name).endswith(".csv"):
            yield from _table_rows(stream, file, report)
            continue
        for source, found in stream_rows(stream, report):
            if isinstance(found, UnusableEpisodeError):
                report.reject(found.reason, source=source, detail=found.detail, amount=Amount.of_call(None, None))
            else:
                yield Row(source=source, value=found, file=file)


def _table_rows(stream: LogStream, file: PurePosixPath, report: ImportReport) -> Iterator[Row]:
    limit = csv.field_size_limit(MAX_FILE_BYTES)
    report.n_files += 1
    try:
        text = stream.file.read(MAX_FILE_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            cells: dict[str, JsonValue] = {name: cell for name, cell in row.items() if name is not None}
            yield Row(source=f"{stream.source}:{reader.line_num}", value=cells, file=file)
    except (csv.Error, UnicodeDecodeError) as error:
        report.reject(BROKEN_JSON, source=stream.source, detail=f"CSV that is broken: {error}; what follows is lost")
    except READ_ERRORS as error:
        reject_broken(report, stream.source, error)
    finally:
        csv.field_size_limit(limit)


def parsed(value: JsonValue | None) -> JsonValue | None:
    """A value that may stand in a log as the JSON text of it, as cells of tables and attributes of spans do.

    Example:
        >>> parsed('{"a": 1}'), parsed("hello"), parsed(None)
        ({'a': 1}, 'hello', None)
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        inner: JsonValue = json.loads(value, parse_constant=str)
    except (ValueError, RecursionError):
        return value
    return inner


def as_object(value: JsonValue | None) -> Object:
    """An object, or its JSON text; empty if it is neither."""
    inner = parsed(value)
    return inner if isinstance(inner, dict) else {}


def as_list(value: JsonValue | None) -> Sequence[JsonValue]:
    """A list, or its JSON text; empty if it is neither."""
    inner = parsed(value)
    return inner if isinstance(inner, list) else []


def as_text(value: JsonValue | None) -> str:
    """A text, or a number as text; empty if it is neither."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def as_number(value: JsonValue | None) -> float | None:
    """A finite number, or the text of one; None if it is neither."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def first_of(row: Object, *names: str) -> JsonValue | None:
    """The first value that is there, by dotted names."""
    for name in names:
        holder, _, rest = name.partition(".")
        value = row.get(holder)
        for part in rest.split(".") if rest else ():
            value = as_object(value).get(part)
        if value not in (None, "", {}, []):
            return value
    return None
