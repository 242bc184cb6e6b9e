"""The first objects of a file of a log: what a format is told by, without reading the whole of it."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.records import JsonValue

MAX_ROWS = 40
"""Some programs begin a file with lines of housekeeping before the first that says what it is."""
WHOLE_BYTES = 32 * 2**20
"""Of a larger file only so much is looked at."""
_HEAD_CHARACTERS = 2**19
_HEAD_BYTES = 2**16
_CLOSERS = {"{": "}", "[": "]"}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_TABLES = (".csv", ".tsv")
_DECODER = json.JSONDecoder()

Row = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The beginning of one file.

    Attributes:
        source: Where it is, for messages.
        path: Its path inside the folder or archive.
        rows: First objects: lines of a JSON Lines file, items of a JSON list, rows of a table, or one whole object.
        is_list: Whether the file is one JSON list.
        is_lines: Whether the file is JSON Lines.
        head: Its first bytes.
    """

    source: str
    path: PurePosixPath
    rows: tuple[Row, ...]
    is_list: bool = False
    is_lines: bool = False
    head: bytes = b""

    @property
    def name(self) -> str:
        """Name of the file, in lower case."""
        return self.path.name.lower()

    @property
    def first(self) -> Row:
        """The first object; empty if the file holds none."""
        return self.rows[0] if self.rows else {}

    def with_keys(self, *names: str) -> Row | None:
        """The first object that has all of these keys, or None."""
        return next((row for row in self.rows if all(name in row for name in names)), None)

    def __str__(self) -> str:
        """What was seen, for an error: name and the keys of the first object."""
        if not self.rows:
            return f"{self.source}: no JSON object and no table"
        kind = "a JSON list of objects" if self.is_list else "lines of objects" if self.is_lines else "an object"
        return f"{self.source}: {kind} with {', '.join(list(map(str, self.first))[:8]) or 'no keys'}"


def take_sample(file: LogFile) -> Sample:
    """The beginning of a file; a file that cannot be read as JSON or as a table has no rows."""
    return replace(_sample(file), head=file.data[:_HEAD_BYTES])


def _sample(file: LogFile) -> Sample:
    text = _text(file.data)
    if file.path.name.lower().endswith(_TABLES):
        return Sample(source=file.source, path=file.path, rows=tuple(_table_rows(text)))
    lines = tuple(_line_rows(text))
    if len(lines) > 1:
        return Sample(source=file.source, path=file.path, rows=lines, is_lines=True)
    value = _value(text)
    is_list = isinstance(value, list)
    items = value[:MAX_ROWS] if isinstance(value, list) else [value]
    rows = tuple(item for item in items if isinstance(item, dict))
    is_lines = bool(lines) and file.path.name.lower().endswith((".jsonl", ".ndjson"))
    return Sample(source=file.source, path=file.path, rows=rows or lines, is_list=is_list, is_lines=is_lines)


def _text(data: bytes) -> str:
    head = data[:WHOLE_BYTES]
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "utf-8")
    return head.decode(encoding, errors="replace")


def _value(text: str) -> JsonValue:
    """JSON of a whole text, or of its beginning, closed where it can be."""
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        value = _beginning(text[:_HEAD_CHARACTERS])
    return value


def _line_rows(text: str) -> Iterator[Row]:
    start = 0
    for _ in range(MAX_ROWS):
        end = text.find("\n", start)
        yield from _objects(text[start : end if end >= 0 else len(text)].strip())
        if end < 0:
            return
        start = end + 1


def _objects(line: str) -> Iterator[Row]:
    """Objects of a line: one, or several where a line break was lost."""
    place = 0
    while line.startswith("{", place):
        try:
            value, place = _DECODER.raw_decode(line, place)
        except (ValueError, RecursionError):
            return
        yield value
        while line[place : place + 1].isspace():
            place += 1


def _table_rows(text: str) -> Iterator[Row]:
    head = text[:_HEAD_CHARACTERS]
    delimiter = "\t" if head.partition("\n")[0].count("\t") else ","
    try:
        for index, row in enumerate(csv.DictReader(io.StringIO(head, newline=""), delimiter=delimiter)):
            if index == MAX_ROWS:
                return
            yield {str(name): str(value) for name, value in row.items() if name is not None}
    except csv.Error:
        return


def _beginning(text: str) -> JsonValue:
    """The value that a text begins with, cut at the last comma or bracket before which all is whole, and closed.

    Example:
        >>> _beginning('{"a": [1, 2, {"b": "cut of')
        {'a': [1, 2, {}]}
    """
    cut, _ = _last_cut(text)
    _, still_open = _last_cut(text[:cut])
    try:
        value: JsonValue = json.loads(text[:cut] + "".join(reversed(still_open)))
    except (ValueError, RecursionError):
        return None
    return value


def _last_cut(text: str) -> tuple[int, list[str]]:
    """(end of the text before the last comma or after the last opening bracket, what closes the brackets open at its end)."""
    stack: list[str] = []
    is_quoted = is_escaped = False
    cut = 0
    for index, character in enumerate(text):
        if is_quoted:
            is_quoted = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
        elif character == '"':
            is_quoted = True
        elif character in _CLOSERS:
            stack.append(_CLOSERS[character])
            cut = index + 1
        elif character in "}]":
            if not stack:
                break
            stack.pop()
        elif character == ",":
            cut = index
    return cut, stack
