"""JSON objects of log files, wherever they stand: one a line, several on a line, over many lines, or in one array.

A text that is no JSON is an error of its own line, and the rest is read. Files may begin with a byte order mark, be UTF-16,
or end their lines as Windows does.
"""

import codecs
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, READ_ERRORS, LogStream, open_files, reject_broken
from mtrouter_rl.datasets.importers.base import ImportReport, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.messages import clean_text
from mtrouter_rl.records import JsonValue

BROKEN_JSON = "text that is no JSON object"
EMPTY_FILE = "file without a line"
TOO_LONG = "line that is too long"
HALF_CHARACTERS = "line with half a character (a surrogate without its other half), replaced by U+FFFD"

MAX_LINE_BYTES = 64 * 2**20
MAX_DOCUMENT_BYTES = 256 * 2**20
"""A JSON text over several lines that is longer than this is not read as one."""

_DECODER = json.JSONDecoder(parse_constant=str)
_BETWEEN = " \t\r\n,\ufeff\x1e"
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_READ_AHEAD = 4

Row = dict[str, JsonValue]


def read_rows(
    path: Path, report: ImportReport, *, suffixes: tuple[str, ...]
) -> Iterator[tuple[str, Row | UnusableEpisodeError]]:
    """Objects with their place (`file:line`, lines from 1), or what is wrong there.

    Args:
        path: File of any name, or a folder or archive that is searched for files with one of the suffixes.
        report: Where files that cannot be read are counted.
        suffixes: In lower case, such as ".jsonl".

    Raises:
        DatasetError: If there is no such file or folder.
    """
    is_bundle = path.is_dir() or path.name.lower().endswith(ARCHIVE_SUFFIXES)
    for stream in open_files(path, report, suffixes=suffixes if is_bundle else ()):
        yield from stream_rows(stream, report)


def stream_rows(stream: LogStream, report: ImportReport) -> Iterator[tuple[str, Row | UnusableEpisodeError]]:
    """Objects of one file, as `read_rows`."""
    report.n_files += 1
    n_rows = 0
    try:
        for where, found, may_be_half in _rows(stream):
            n_rows += 1
            if may_be_half and isinstance(found, dict):
                found, was_half = without_halves(found)
                if was_half:
                    report.note(HALF_CHARACTERS, source=where)
            yield where, found
    except READ_ERRORS as error:
        reject_broken(report, stream.source, error)
        return
    except UnicodeDecodeError as error:
        report.reject(BROKEN_JSON, source=stream.source, detail=f"{error}; what follows is lost")
        return
    if not n_rows:
        report.reject(EMPTY_FILE, source=stream.source)


def _rows(stream: LogStream) -> Iterator[tuple[str, Row | UnusableEpisodeError, bool]]:
    lines = _Lines(stream.file)
    is_first = True
    for number, line in lines:
        if not line.strip(b" \t\r\n\0"):
            continue
        where = f"{stream.source}:{number}"
        if len(line) >= MAX_LINE_BYTES:
            lines.skip_line()
            yield where, UnusableEpisodeError(TOO_LONG, f"over {MAX_LINE_BYTES} bytes"), False
            continue
        if is_first and _may_go_on(line):
            document = lines.document(line)
            found = list(_of_document(document, stream.source, number)) if document is not None else []
            if found:
                may_be_half = "\\ud" in (document or "").lower()
                yield from ((place, row, may_be_half) for place, row in found)
                return
        is_first = False
        may_be_half = b"\\ud" in line or b"\\uD" in line
        for found_row in _of_line(line):
            yield where, found_row, may_be_half


class _Lines:
    """Numbered lines of a file, in UTF-8; what was read ahead can be given back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._number = 0
        start = file.read(_READ_AHEAD)
        encoding = _UTF16.get(start[:2])
        if encoding is None and len(start) == _READ_AHEAD and start[1::2] == b"\0\0" and start[0] and start[2]:
            encoding = "utf-16-le"
        self._pending = io.BytesIO(start.removeprefix(codecs.BOM_UTF8) if encoding is None else b"")
        self._text: Iterator[str] | None = None
        if encoding is not None:
            self._text = _decoded_lines(
                start.removeprefix(codecs.BOM_UTF16_LE).removeprefix(codecs.BOM_UTF16_BE), file, encoding
            )

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while line := self._next():
            self._number += 1
            yield self._number, line

    def _next(self) -> bytes:
        if self._text is not None:
            return next(self._text, "").encode("utf-8", errors="surrogatepass")
        line = self._pending.readline(MAX_LINE_BYTES)
        if line.endswith(b"\n") or len(line) >= MAX_LINE_BYTES:
            return line
        return line + self._file.readline(MAX_LINE_BYTES - len(line))

    def skip_line(self) -> None:
        """Pass over the rest of a line that is too long."""
        while (piece := self._next()) and not piece.endswith(b"\n"):
            pass

    def document(self, first: bytes) -> str | None:
        """The text from a line on, or None if it is too long or no UTF-8; the lines after it can still be read."""
        rest = (
            b"".join(self._text_lines())
            if self._text is not None
            else self._pending.read() + self._file.read(MAX_DOCUMENT_BYTES + 1)
        )
        self._text = None
        self._pending = io.BytesIO(rest)
        if len(rest) > MAX_DOCUMENT_BYTES:
            return None
        try:
            return (first + rest).decode()
        except UnicodeDecodeError:
            return None

    def _text_lines(self) -> Iterator[bytes]:
        assert self._text is not None
        n_bytes = 0
        for line in self._text:
            encoded = line.encode("utf-8", errors="surrogatepass")
            n_bytes += len(encoded)
            yield encoded
            if n_bytes > MAX_DOCUMENT_BYTES:
                return


def _decoded_lines(start: bytes, file: IO[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    text = decoder.decode(start)
    while data := file.read(2**16):
        *lines, text = (text + decoder.decode(data)).split("\n")
        yield from (f"{line}\n" for line in lines)
    text += decoder.decode(b"", final=True)
    if text:
        yield text


def _may_go_on(line: bytes) -> bool:
    """Whether a line begins a JSON text that goes on in the next one."""
    if not line.lstrip().startswith((b"{", b"[")) or not line.endswith(b"\n"):
        return False
    try:
        _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return True
    return False


def _of_document(text: str, source: str, first_line: int) -> Iterator[tuple[str, Row | UnusableEpisodeError]]:
    """Objects of a whole text, with the lines that they begin in; none if it is no array and its first one is one line."""
    start = _next_place(text, 0)
    is_array = text[start] == "["
    place, line, seen = start + is_array, first_line, 0
    is_first = True
    while (place := _next_place(text, place)) < len(text):
        line += text.count("\n", seen, place)
        seen = place
        where = f"{source}:{line}"
        if is_array and text[place] == "]":
            if text[place + 1 :].strip(_BETWEEN):
                yield where, UnusableEpisodeError(BROKEN_JSON, "the array ends, and text follows, which is lost")
            return
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            if not is_first:
                yield where, UnusableEpisodeError(BROKEN_JSON, f"{_reason(error)}; what follows is lost")
            return
        if is_first and not is_array and "\n" not in text[seen:place]:
            return
        is_first = False
        yield where, _as_row(value)


def _next_place(text: str, place: int) -> int:
    while place < len(text) and text[place] in _BETWEEN:
        place += 1
    return place


def _of_line(line: bytes) -> Iterator[Row | UnusableEpisodeError]:
    """Objects of one line: nearly always one; several where a line break was lost, and those of an array."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        try:
            text = line.decode(json.detect_encoding(line)) if b"\0" in line[:4] else ""
        except UnicodeDecodeError:
            text = ""
        if not text:
            yield UnusableEpisodeError(BROKEN_JSON, _encoding_advice(line, error))
            return
    place = 0
    n_found = 0
    while (place := _next_place(text, place)) < len(text):
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            more = f" after {n_found} whole objects" if n_found else ""
            yield UnusableEpisodeError(
                BROKEN_JSON, f"{_reason(error)}{more}; begins with {cut(repr(text[place : place + 60]))}"
            )
            return
        n_found += 1
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            yield from (_as_row(item) for item in value)
        else:
            yield _as_row(value)


def _as_row(value: object) -> Row | UnusableEpisodeError:
    if isinstance(value, dict):
        return cast("Row", value)
    return UnusableEpisodeError(BROKEN_JSON, f"is a {type(value).__name__}: {cut(repr(value))}")


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {sys.getrecursionlimit()} brackets"
    text = str(error)
    return "a whole number in it has more digits than any count" if text.startswith("Exceeds the limit") else text


def _encoding_advice(line: bytes, error: UnicodeDecodeError) -> str:
    return (
        f"is not UTF-8: byte 0x{line[error.start]:02x} at place {error.start} of the line, as in Latin-1 or Windows-1252; "
        "convert the file, such as with iconv -f WINDOWS-1252 -t UTF-8"
        f"; begins with {cut(repr(line[:60]))}"
    )


def without_halves(row: Row) -> tuple[Row, bool]:
    r"""A row without half characters, and whether there were any.

    Example:
        >>> without_halves({"a": "ok \ud83d"})[1], without_halves({"a": "ok"})[1]
        (True, False)
    """
    text = json.dumps(row, ensure_ascii=False)
    cleaned = clean_text(text)
    return (row, False) if cleaned == text else (cast("Row", _DECODER.decode(cleaned)), True)
