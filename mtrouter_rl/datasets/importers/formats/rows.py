"""Objects of files, whatever way they are laid out: JSON Lines, a JSON list, one object, or rows of a CSV table."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.datasets.importers.archives import MAX_FILE_BYTES, LogFile
from mtrouter_rl.datasets.importers.base import Amount, ImportReport, cut
from mtrouter_rl.datasets.importers.chat import BROKEN_JSON, read_log_files
from mtrouter_rl.records import JsonValue

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv")
NO_TEXT = "file that is no text of a known encoding"
NO_OBJECT = "value in a log that is no object"
_ENCODINGS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

Object = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One object of a log.

    Attributes:
        source: Where it is, as "file:line" or "file:number in the list".
        value: The object.
    """

    source: str
    value: Object


def read_rows(path: Path, report: ImportReport, *, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Row]:
    """Objects of all files of a path, in order; what is no object is counted and the rest goes on.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    for file in read_log_files(path, report, suffixes=tuple(suffixes)):
        yield from file_rows(file, report)


def file_rows(file: LogFile, report: ImportReport) -> Iterator[Row]:
    """Objects of one file."""
    encoding = next((name for mark, name in _ENCODINGS if file.data.startswith(mark)), "utf-8")
    try:
        text = file.data.decode(encoding)
    except UnicodeDecodeError as error:
        report.reject(NO_TEXT, source=file.source, detail=f"{error}; save it as UTF-8")
        return
    if file.path.name.lower().endswith(".csv"):
        yield from _table_rows(file, text, report)
        return
    decoder = json.JSONDecoder(parse_constant=str)
    place, line = 0, 1
    while True:
        start = _skip_space(text, place)
        line += text.count("\n", place, start)
        if start >= len(text):
            return
        source = f"{file.source}:{line}"
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            shown = cut(repr(text[start : start + 60]))
            detail = f"{type(error).__name__}: {cut(str(error))}; begins with {shown}"
            report.reject(BROKEN_JSON, source=source, detail=detail, amount=Amount.of_call(None, None))
        else:
            yield from _objects(value, source, report)
        line += text.count("\n", start, end)
        place = end


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,\x1e":
        place += 1
    return place


def _objects(value: JsonValue, source: str, report: ImportReport) -> Iterator[Row]:
    if isinstance(value, dict):
        yield Row(source=source, value=value)
        return
    file = source.rpartition(":")[0]
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(item, dict):
            yield Row(source=f"{file}:{index}", value=item)
        else:
            report.reject(NO_OBJECT, source=f"{file}:{index}", detail=f"is {cut(repr(item), 60)}")


def _table_rows(file: LogFile, text: str, report: ImportReport) -> Iterator[Row]:
    limit = csv.field_size_limit(MAX_FILE_BYTES)
    try:
        for row in (reader := csv.DictReader(io.StringIO(text, newline=""))):
            cells: dict[str, JsonValue] = {name: cell for name, cell in row.items() if name is not None}
            yield Row(source=f"{file.source}:{reader.line_num}", value=cells)
    except csv.Error as error:
        report.reject(BROKEN_JSON, source=file.source, detail=f"CSV that is broken: {error}; what follows is lost")
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
