"""Files of scores that are kept apart from a log: CSV, JSON Lines or JSON, a row a session."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mtrouter_rl.datasets.importers.archives import LogFile, plain_name, read_files
from mtrouter_rl.datasets.importers.base import ImportReport, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.json_rows import read_rows
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE
from mtrouter_rl.errors import DatasetError

NO_SCORES = "row of a file of scores that gives none"
ID_NAMES = ("session_id", "sessionid", "session", "trace_id", "traceid", "conversation_id", "thread_id", "episode_id")
SCORE_NAMES = ("score", "reward", "value", "resolved", "success", "correct", "passed")
STATUSES = ("completed", "truncated", "failed")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRUTH = {"true": 1.0, "false": 0.0}
_ROUNDING = 1e-9


def score_value(value: object) -> float | None:
    """A score as logs write it: a number, a truth value, or the text of one; None if it is missing.

    A sum of weights may be 1 + 2e-16; what is over by rounding alone is cut to the range.

    Raises:
        ValueError: If it is none, or outside [-1, 1].

    Example:
        >>> score_value(True), score_value("0.5"), score_value(1.0000000000000002), score_value(None)
        (1.0, 0.5, 1.0, None)
    """
    if value is None or value == "":
        return None
    number: float | None = None
    if isinstance(value, bool | int | float):
        number = float(value) if not isinstance(value, int) or abs(value) < 2**53 else None
    elif isinstance(value, str) and value.strip().lower() in _TRUTH:
        number = _TRUTH[value.strip().lower()]
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    if number is None or not abs(number) <= 1 + _ROUNDING:
        raise ValueError(f"must be a number in [-1, 1]; divide it by its maximum (is {cut(repr(value))})")
    return max(-1.0, min(1.0, number))


def read_score_files(paths: Iterable[Path], report: ImportReport) -> Iterator[ScoreRecord]:
    """Scores of sessions, of files that have a column or key for the id and one for the score or status.

    A JSON file may also be an object of id: score. A row that cannot be used is counted.

    Raises:
        DatasetError: If a path does not exist, or holds no score at all.
    """
    for path in paths:
        n_rows = 0
        for where, row in _rows(path, report):
            try:
                record = row if isinstance(row, ScoreRecord) else score_record(where, row)
            except UnusableEpisodeError as error:
                report.note(NO_SCORES, source=where, detail=f"{error.reason}: {error.detail}")
                continue
            n_rows += 1
            yield record
        if not n_rows:
            raise DatasetError(
                f"{path}: no scores in it; give CSV or JSON Lines with a column or key {' or '.join(ID_NAMES[:4])} and one "
                f"{' or '.join(SCORE_NAMES[:3])}, or a JSON object of id: score"
            )


def _rows(path: Path, report: ImportReport) -> Iterator[tuple[str, Mapping[str, object] | ScoreRecord]]:
    if plain_name(path.name).endswith((".csv", ".tsv")):
        for file in read_files(path, report):
            yield from _csv_rows(file)
        return
    for where, row in read_rows(path, report, suffixes=SUFFIXES):
        if isinstance(row, UnusableEpisodeError):
            report.note(NO_SCORES, source=where, detail=row.detail)
        elif not {key.lower() for key in row} & set(ID_NAMES):
            for name, value in row.items():  # an object of id: score
                yield f"{where}, '{cut(name, 40)}'", {"session_id": name, "score": value}
        else:
            yield where, row


def _csv_rows(file: LogFile) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        text = file.data.decode("utf-16" if file.data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file.source}: is not UTF-8 ({error}); save it as CSV UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in table:
            yield f"{file.source}:{table.line_num}", {str(key): value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise DatasetError(f"{file.source}: is no CSV: {error}") from error


def score_record(where: str, row: Mapping[str, object]) -> ScoreRecord:
    """A row that gives a score or status by the id of a session or trace.

    Raises:
        UnusableEpisodeError: If it gives none, or what it gives breaks its rule.
    """
    lower = {key.strip().lower(): value for key, value in row.items()}
    session_id = next((lower[name] for name in ID_NAMES if lower.get(name) not in (None, "")), None)
    if not isinstance(session_id, str | int) or isinstance(session_id, bool):
        raise UnusableEpisodeError(NO_SCORES, f"session_id is {cut(repr(session_id))}, must be the id of a session")
    status = lower.get("status") or None
    if status is not None and status not in STATUSES:
        raise UnusableEpisodeError(BAD_SCORE, f"status is {cut(repr(status))}, must be one of {', '.join(STATUSES)}")
    name = next((name for name in SCORE_NAMES if lower.get(name) not in (None, "")), "score")
    try:
        score = score_value(lower.get(name))
    except ValueError as error:
        raise UnusableEpisodeError(BAD_SCORE, f"{name} {error}") from error
    if score is None and status is None:
        raise UnusableEpisodeError(
            BAD_SCORE, f"no {', '.join(SCORE_NAMES)} or status; has {cut(json.dumps(sorted(lower)))}"
        )
    facts = SessionFacts(score=score, status=status)  # type: ignore[arg-type]
    return ScoreRecord(source=where, session_id=str(session_id), facts=facts, is_from_scores=True)
