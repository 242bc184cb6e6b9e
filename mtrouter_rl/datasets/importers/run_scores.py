"""Scores of runs that stand in files beside them, and which run each file belongs to.

Read are evaluation reports of SWE-bench (`resolved_ids`, `unresolved_ids`; github.com/SWE-bench/SWE-bench,
`swebench/harness/reporting.py`), its reports of one instance (`logs/run_evaluation/RUN/MODEL/ID/report.json`: id ->
`resolved`), JSON of `id: score`, and tables (CSV, JSON Lines) with a column for the id, one for the score and perhaps one
for the model.

A report names instances and not the model that it is about. It belongs to the runs of the folder that it lies in, or to
those of the model, or of the given folder, that its path names. One that names another model or folder is never used. If
several are left that say different things of an instance, none is believed.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter, ValidationError

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, LogFile, read_files
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, ModelNames, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.chat import parse_object
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, is_missing, read_score
from mtrouter_rl.records import JsonValue

OTHER_FILE = "JSON file that is neither a run nor a table of scores, not read"
BAD_ROW = "row of a table of scores that cannot be used"
OTHER_MODEL = "row of a table of scores about a model that the pool does not have, not used"
ID_COLUMNS = ("instance_id", "session_id", "trace_id", "task_id", "id", "instance", "question_id")
SCORE_COLUMNS = ("score", "resolved", "reward", "correct", "success", "passed", "value")
MODEL_COLUMNS = ("model", "model_name", "model_name_or_path")
_TABLE_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson")
_MIN_LABEL = 2
_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Scores of one file.

    Attributes:
        source: Where it is.
        folder: Folder that it lies in.
        scores: Score by (id, model of the pool); the model is None where the file does not say.
        owners: Models and given folders that its path names.
    """

    source: str
    folder: PurePosixPath
    scores: Mapping[tuple[str, str | None], float]
    owners: frozenset[str]

    def score(self, instance: str, model: str) -> float | None:
        """Score of an instance, of this model if the table tells models apart."""
        return self.scores.get((instance, model), self.scores.get((instance, None)))


class RunScores:
    """Every table of scores among the paths of an import."""

    def __init__(self, source: ImportSource, *, is_run: Callable[[PurePosixPath], bool]) -> None:
        """Read them.

        Args:
            source: What is imported.
            is_run: Whether a file is a run, by its name.
        """
        self._names = ModelNames(source.pool)
        self._labels = _labels(source)
        self._tables: list[_Table] = []
        self._run_folders: set[PurePosixPath] = set()
        self.paths: set[Path] = set()
        """Given paths that are tables themselves, and hold no run."""
        for path in source.paths:
            self._read_path(path, source.report, is_run)
        for path in source.scores:
            self._read_path(path, source.report, lambda _: False)
        self._holders = _holders(self._run_folders)

    def _read_path(self, path: Path, report: ImportReport, is_run: Callable[[PurePosixPath], bool]) -> None:
        is_single = path.is_file() and not path.name.lower().endswith(ARCHIVE_SUFFIXES)
        if is_single and (
            is_run(PurePosixPath(path.name)) or not path.name.lower().endswith((".json", *_TABLE_SUFFIXES))
        ):
            self._run_folders.add(_folder(path, None))
            return
        scratch = ImportReport(format=report.format)  # what cannot be opened is counted when the runs are read
        for file in read_files(path, scratch, suffixes=() if is_single else (".json",)):
            folder = _folder(path, file)
            if is_run(file.path):
                self._run_folders.add(folder)
                continue
            self._read_file(file, folder, report, path if is_single else None)

    def _read_file(self, file: LogFile, folder: PurePosixPath, report: ImportReport, single: Path | None) -> None:
        if single is not None and _is_run(file):
            self._run_folders.add(folder)
            return
        try:
            scores = dict(self._scores(file, report))
        except UnusableEpisodeError as error:
            if single is None:
                report.note(OTHER_FILE, source=file.source, detail=error.detail)
                return
            report.reject(error.reason, source=file.source, detail=error.detail)
            scores = {}
        if single is not None:
            self.paths.add(single)
        if scores:
            report.n_files += 1
            shown = file.path.as_posix()
            ids = {name for name, _ in scores}
            if len(ids) == 1:  # the name of the instance says nothing of the model
                shown = shown.replace(ids.pop(), "")
            owners = frozenset(_mentioned(shown, self._labels))
            self._tables.append(_Table(source=file.source, folder=folder, scores=scores, owners=owners))

    def _scores(self, file: LogFile, report: ImportReport) -> Iterator[tuple[tuple[str, str | None], float]]:
        if file.path.name.lower().endswith((".csv", ".jsonl", ".ndjson")):
            yield from self._rows(file, report)
            return
        for name, score in object_scores(parse_object(file.data)).items():
            yield (name, None), score

    def _rows(self, file: LogFile, report: ImportReport) -> Iterator[tuple[tuple[str, str | None], float]]:
        for number, row in _table_rows(file):
            where = f"{file.source}:{number}"
            name, score = (_first(row, columns) for columns in (ID_COLUMNS, SCORE_COLUMNS))
            if is_missing(name) or is_missing(score):
                detail = (
                    f"needs one of {', '.join(ID_COLUMNS)} and one of {', '.join(SCORE_COLUMNS)}; has {', '.join(row)}"
                )
                report.note(BAD_ROW, source=where, detail=cut(detail, 300))
                continue
            given = _first(row, MODEL_COLUMNS)
            model = None if is_missing(given) else self._names.find(str(given))
            if model is None and not is_missing(given):
                report.note(OTHER_MODEL, source=where, detail=self._names.explain(str(given)))
                continue
            try:
                yield (str(name), model), read_score(score)
            except UnusableEpisodeError as error:
                report.note(BAD_ROW, source=where, detail=error.detail)

    def find(self, ids: Sequence[str], *, model: str, path: Path, file: LogFile) -> float | None:
        """Score of a run.

        Args:
            ids: Names that the run goes by, best first.
            model: Its model, by name of the pool.
            path: Path that was given, in which it was found.
            file: The run.

        Returns:
            None if no table speaks of it.

        Raises:
            UnusableEpisodeError: If two tables that may be about it disagree.
        """
        folder, owners = _folder(path, file), self._owners(path, model)
        for name in ids:
            said = [(table, score) for table in self._tables if (score := table.score(name, model)) is not None]
            own = [one for one in said if self._is_own(one[0], folder, owners)]
            chosen = own or [one for one in said if self._is_nobodys(one[0])]
            if len({score for _, score in chosen}) > 1:
                detail = ", ".join(f"{table.source} says {score:g}" for table, score in chosen[:4])
                raise UnusableEpisodeError(
                    BAD_SCORE,
                    f"two reports disagree about '{name}' of model '{model}': {detail}; give each the name of its model, or "
                    "lay it into the folder of its runs",
                )
            if chosen:
                return chosen[0][1]
        return None

    def explain(self, ids: Sequence[str]) -> str:
        """Which tables speak of a run and yet are not about it; empty if none does."""
        sources = [
            table.source for table in self._tables if any(name == one for name, _ in table.scores for one in ids)
        ]
        if not sources:
            return ""
        return f" ({', '.join(sources[:4])} has it and names another model, or lies in the folder of other runs)"

    def _owners(self, path: Path, model: str) -> set[str]:
        return {model, *([str(path)] if path.is_dir() else [])}

    def _is_own(self, table: _Table, folder: PurePosixPath, owners: set[str]) -> bool:
        """Whether a table is about the runs of a folder or model, by where it lies and what its path names."""
        if table.owners:
            return table.owners <= owners
        return table.folder in self._holders and (table.folder == folder or table.folder in folder.parents)

    def _is_nobodys(self, table: _Table) -> bool:
        return not table.owners and table.folder not in self._holders


def _holders(run_folders: set[PurePosixPath]) -> set[PurePosixPath]:
    """Folders of runs, and those between them and the folder that holds them all."""
    common = _common(run_folders)
    return {
        inner
        for folder in run_folders
        for inner in (folder, *folder.parents)
        if inner != common and common in inner.parents
    }


def _is_run(file: LogFile) -> bool:
    if not file.path.name.lower().endswith(".json"):
        return False
    try:
        return bool({"messages", "info"} & parse_object(file.data).keys())
    except UnusableEpisodeError:
        return False


def _folder(path: Path, file: LogFile | None) -> PurePosixPath:
    """Folder of a file on the disk or in an archive, so that two of them can be compared."""
    root = path.resolve()
    if file is None or (root.is_file() and not file.archive):
        return PurePosixPath(root.parent.as_posix())
    return PurePosixPath(root.as_posix()) / file.path.parent


def _common(folders: set[PurePosixPath]) -> PurePosixPath:
    """Deepest folder that holds all of these."""
    if not folders:
        return PurePosixPath("/")
    first, *others = sorted(folders)
    chain = [first, *first.parents]
    return next((one for one in chain if all(one == other or one in other.parents for other in others)), chain[-1])


def _labels(source: ImportSource) -> dict[str, str]:
    """Names that tell reports apart, as words, with what they stand for: models of the pool, and given folders."""
    labels: dict[str, str] = {}
    for path in source.paths:
        if path.is_dir() and sum(one.is_dir() for one in source.paths) > 1:
            labels[_words(path.resolve().name)] = str(path)
    for name, model in _model_names(source.pool):
        labels[_words(name)] = model
        labels.setdefault(_words(name.rpartition("/")[2]), model)
    return {label: owner for label, owner in labels.items() if len(label) >= _MIN_LABEL}


def _model_names(pool: PoolCard) -> Iterator[tuple[str, str]]:
    for model in pool.models:
        for name in (model.name, *model.aliases):
            yield name, model.name


def _words(text: str) -> str:
    return _WORD.sub("-", text.lower()).strip("-")


def _mentioned(path: str, labels: Mapping[str, str]) -> set[str]:
    """What a path names; a name that is part of a longer one does not count.

    Example:
        >>> sorted(_mentioned("gpt-5-mini.run1.json", {"gpt-5": "gpt-5", "gpt-5-mini": "mini"}))
        ['mini']
    """
    text = f"-{_words(path)}-"
    found = set()
    for label in sorted(labels, key=len, reverse=True):
        if f"-{label}-" in text:
            found.add(labels[label])
            text = text.replace(f"-{label}-", "-|-")
    return found


def object_scores(table: Mapping[str, JsonValue]) -> dict[str, float]:
    """Scores from a report of SWE-bench about many instances or one, or from id: score."""
    if "resolved_ids" in table:
        return _report_scores(table)
    instances = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    if instances and len(instances) == len(table):
        if not all("resolved" in value for value in instances.values()):
            raise UnusableEpisodeError(
                BAD_SCORE, f"objects without 'resolved' by id, such as '{cut(next(iter(instances)))}'"
            )
        return {name: read_score(value["resolved"]) for name, value in instances.items()}
    scores = {}
    for name, value in table.items():
        try:
            scores[name] = read_score(value)
        except UnusableEpisodeError as error:
            raise UnusableEpisodeError(BAD_SCORE, f"table of scores, {cut(name)}: {error.detail}") from error
    return scores


def _report_scores(table: Mapping[str, JsonValue]) -> dict[str, float]:
    ids = TypeAdapter(list[str])
    scores: dict[str, float] = {}
    for key, score in (("unresolved_ids", 0.0), ("empty_patch_ids", 0.0), ("resolved_ids", 1.0)):
        try:
            names = ids.validate_python(table.get(key) or [])
        except ValidationError as error:
            raise UnusableEpisodeError(BAD_SCORE, f"report of SWE-bench, {key}: {error.errors()[0]['msg']}") from error
        for name in names:
            if scores.setdefault(name, score) != score:
                raise UnusableEpisodeError(BAD_SCORE, f"report of SWE-bench: '{name}' is resolved and not resolved")
    return scores


def _table_rows(file: LogFile) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows of a table with their line, from 1.

    Raises:
        UnusableEpisodeError: If it is no text, or no table.
    """
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableEpisodeError(BAD_SCORE, f"table that is not UTF-8: {error}") from error
    if file.path.name.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, {name: value for name, value in row.items() if name is not None}
        except csv.Error as error:
            raise UnusableEpisodeError(BAD_SCORE, f"table that is broken: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line, parse_constant=str)
            except (ValueError, RecursionError) as error:
                raise UnusableEpisodeError(BAD_SCORE, f"line {number} is no JSON: {error}") from error
            yield number, row if isinstance(row, dict) else {}


def _first(row: Mapping[str, object], columns: Sequence[str]) -> object:
    return next((row[name] for name in columns if name in row), None)
