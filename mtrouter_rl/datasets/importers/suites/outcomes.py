"""Outcomes of runs: a CSV, TSV or JSON Lines table, a leaderboard file of SWE-bench, or a folder with one folder a model.

* Table: a row a run, with the columns task, model, score, cost and turns in any order and under their usual names (`COLUMNS`).
* Leaderboard: JSON with `leaderboards`, whose results hold `per_instance_details`: task -> resolved, cost, api_calls.
* Folder: in it a folder for every model, with `per_instance_details.json`, or with trajectories of mini-SWE-agent
  (`*.traj.json`: cost and calls of the run) and the evaluation's `report.json` (which tasks were resolved).
"""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtrouter_rl.datasets.importers.archives import read_files
from mtrouter_rl.datasets.importers.base import ImportReport, cut
from mtrouter_rl.datasets.importers.chat import parse_object
from mtrouter_rl.datasets.importers.run_scores import object_scores
from mtrouter_rl.errors import DatasetError, unknown_name

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "task": ("task", "task_id", "instance_id", "instance", "question_id", "example_id", "id"),
    "model": ("model", "model_name", "arm", "system"),
    "score": ("score", "resolved", "success", "passed", "correct", "utility", "reward"),
    "cost": ("cost_usd", "cost", "usd", "price_usd", "instance_cost"),
    "turns": ("n_turns", "turns", "api_calls", "steps", "n_calls", "calls"),
    "group": ("group", "repo", "repository", "category"),
    "text": ("text", "task_text", "problem_statement", "question", "prompt"),
    "order": ("order", "created_at", "date", "time"),
}
"""What a column may be called, the first name that is there wins; lower and upper case are alike."""
RUN_FIELDS = ("task", "model", "score", "cost", "turns")
NEEDED = ("task", "model", "score", "cost")
_TRUTH = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run.

    Attributes:
        task: Id of its task.
        model: Its model.
        score: From 0 to 1.
        cost_usd: What it cost, USD.
        n_turns: Its turns, at least 1; None where the table has no such column.
        where: File and row, for messages.
    """

    task: str
    model: str
    score: float
    cost_usd: float
    n_turns: int | None
    where: str


@dataclass
class Outcomes:
    """All runs of a file or folder.

    Attributes:
        runs: The runs, in the order found.
        notes: What a reader should know of how they were read, a sentence each.
    """

    runs: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_outcomes(
    path: Path, *, columns: Mapping[str, str] | None = None, max_score: float = 1.0, leaderboard: str | None = None
) -> Outcomes:
    """Read runs.

    Args:
        path: A table, a leaderboard file or a folder of models.
        columns: What a column of the table is called, where that is no usual name: "task", "model", "score", "cost", "turns".
        max_score: Score of full success; scores are divided by it.
        leaderboard: Which leaderboard of a file that holds several.

    Raises:
        DatasetError: If there is no such file, a column is missing, or a value is no number in range; names file, row, column,
            value and fix.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.name.lower().removesuffix(".gz").endswith(".json"):
        return _of_leaderboard(path, leaderboard)
    found = Outcomes()
    rows = table_rows(path)
    names: dict[str, str] = {}
    for where, row in rows:
        if not names:
            names = find_columns(row, where=str(path), needed=NEEDED, given=columns or {})
            found.notes += _told(path, row, names)
        found.runs.append(_outcome(row, names, where=where, max_score=max_score))
    if not found.runs:
        raise DatasetError(f"{path}: has no row, must have one a run; give the columns {', '.join(RUN_FIELDS)}")
    return found


def _told(path: Path, row: Mapping[str, object], names: Mapping[str, str]) -> list[str]:
    told = []
    unread = [name for name in row if name and name not in names.values()]
    if unread:
        told.append(f"{path.name}: column(s) {', '.join(unread)} were not read.")
    if "turns" not in names:
        told.append(
            f"{path.name}: has no column of turns, so every run counts as one turn and no restart can be studied."
        )
    return told


def table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Rows of a CSV, TSV or JSON Lines file, packed with gzip or not: where it stands, and name -> value.

    Raises:
        DatasetError: If the file cannot be read, or a row has another number of values than the header.
    """
    text = read_text(path)
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"{path}, line {number}", _json_row(line, f"{path}, line {number}")
        return
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="", restval=None)
    for row in reader:
        where = f"{path}, row {reader.line_num}"
        if row.get("") or None in row.values():
            raise DatasetError(
                f"{where}: has {'more' if row.get('') else 'fewer'} values than the header's {len(reader.fieldnames or ())}; "
                "write one value a column, and quote texts that hold the delimiter"
            )
        yield where, {(name or "").strip(): value for name, value in row.items()}


def _json_row(line: str, where: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}: is no JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise DatasetError(f"{where}: is {cut(line)}, must be a JSON object; write one object a line")
    return row


def read_text(path: Path) -> str:
    """Text of a file, packed with gzip or not.

    Raises:
        DatasetError: If it is not there, cannot be unpacked or is no UTF-8.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; give the table of outcomes") from error
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; correct its permissions, or pack it anew") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from error


def find_columns(
    row: Mapping[str, object], *, where: str, needed: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """Field -> name of its column.

    Args:
        row: A row of the table.
        where: Where it is from.
        needed: Fields that must be there; the other ones of `COLUMNS` may be.
        given: What the user says.

    Raises:
        DatasetError: If a needed field has no column, or one that the user names is not there.
    """
    lower = {name.lower(): name for name in row}
    found: dict[str, str] = {}
    for what, name in given.items():
        if what not in COLUMNS:
            raise unknown_name("field of a table", what, COLUMNS)
        if name not in row:
            raise DatasetError(
                f"{where}: has no column '{name}' for '{what}'; {unknown_name('column', name, list(row))}"
            )
        found[what] = name
    for what, usual in COLUMNS.items():
        there = [lower[one] for one in usual if one in lower and lower[one] not in found.values()]
        if what not in found and there:
            found[what] = there[0]
    missing = [what for what in needed if what not in found]
    if missing:
        raise DatasetError(
            f"{where}: has columns {', '.join(row)} and none for '{missing[0]}', which may be called "
            f"{', '.join(COLUMNS[missing[0]])}; rename one, or say which with --column {missing[0]}=NAME"
        )
    return found


def _outcome(row: Mapping[str, object], names: Mapping[str, str], *, where: str, max_score: float) -> Outcome:
    def number(what: str, low: float, high: float, fix: str) -> float:
        return _number(row[names[what]], low, high, where=f"{where}, column '{names[what]}'", fix=fix)

    score = number("score", 0.0, max_score, "give --max-score if full success scores more than 1")
    turns = (
        number("turns", 1, 1e9, "count the model calls of the run; leave out runs that never called")
        if "turns" in names
        else None
    )
    if turns is not None and turns != int(turns):
        raise DatasetError(
            f"{where}, column '{names['turns']}': is {turns}, must be a whole number; count the model calls"
        )
    return Outcome(
        task=_name(row, names["task"], where),
        model=_name(row, names["model"], where),
        score=score / max_score,
        cost_usd=number("cost", 0.0, math.inf, "give what the whole run cost, USD"),
        n_turns=None if turns is None else int(turns),
        where=where,
    )


def _name(row: Mapping[str, object], column: str, where: str) -> str:
    value = str(row[column] if row[column] is not None else "").strip()
    if not value:
        raise DatasetError(f"{where}, column '{column}': is empty, must be a name; fill it in, or remove the row")
    return value


def _number(value: object, low: float, high: float, *, where: str, fix: str) -> float:
    number: float | None = None
    if isinstance(value, bool | int | float):
        number = float(value)
    elif isinstance(value, str):
        text = value.strip().lower()
        try:
            number = _TRUTH[text] if text in _TRUTH else float(text)
        except ValueError:
            number = None
    if number is None or not math.isfinite(number) or not low <= number <= high:
        span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise DatasetError(f"{where}: is {cut(repr(value))}, must be a number {span}; {fix}")
    return number


def _of_leaderboard(path: Path, wanted: str | None) -> Outcomes:
    """Results with details of a leaderboard file."""
    data = _json_row(read_text(path).strip() or "null", str(path))
    boards = data.get("leaderboards")
    if not isinstance(boards, list):
        raise DatasetError(
            f"{path}: is a JSON file without 'leaderboards', must be a leaderboard file of SWE-bench; give a CSV or JSON "
            "Lines table "
            f"with the columns {', '.join(RUN_FIELDS)}, or the folder of the runs"
        )
    with_details = {
        str(board.get("name")): [one for one in board.get("results", []) if one.get("per_instance_details")]
        for board in boards
    }
    usable = {name: results for name, results in with_details.items() if results}
    if wanted is not None and wanted not in usable:
        raise unknown_name("leaderboard with details of every task", wanted, usable)
    if not usable or (wanted is None and len(usable) > 1):
        raise DatasetError(
            f"{path}: leaderboards with 'per_instance_details' are {list(usable) or 'none'}, must be one; "
            + ("choose with --leaderboard NAME" if usable else "give a file whose results hold them")
        )
    name = wanted or next(iter(usable))
    found = Outcomes(
        notes=[f"{path.name}: leaderboard '{name}', {len(usable[name])} results with details of every task."]
    )
    for result in usable[name]:
        model = str(result.get("name"))
        found.runs += _of_details(result["per_instance_details"], model, where=f"{path}, result '{model}'")
    return found


def _of_details(details: object, model: str, *, where: str) -> Iterator[Outcome]:
    names = {"task": "task", "model": "model", "score": "resolved", "cost": "cost", "turns": "api_calls"}
    if not isinstance(details, dict):
        raise DatasetError(
            f"{where}: per_instance_details is {cut(repr(details))}, must map tasks to resolved, cost, api_calls"
        )
    for task, one in details.items():
        row = {"task": task, "model": model, **(one if isinstance(one, dict) else {})}
        for name in names.values():
            if name not in row:
                raise DatasetError(
                    f"{where}, task '{task}': has no '{name}', must have resolved, cost and api_calls; add it"
                )
        yield _outcome(row, names, where=f"{where}, task '{task}'", max_score=1.0)


def _of_folder(path: Path) -> Outcomes:
    """A folder of every model."""
    found = Outcomes()
    models = sorted(inner for inner in path.iterdir() if inner.is_dir())
    for folder in models:
        details = folder / "per_instance_details.json"
        if details.is_file():
            found.runs += _of_details(_json_row(read_text(details), str(details)), folder.name, where=str(details))
        else:
            found.runs += _of_runs(folder, found)
    if not found.runs:
        raise DatasetError(
            f"{path}: holds no folder of a model with per_instance_details.json, or with report.json and *.traj.json; give "
            "one folder "
            "a model, or a table of outcomes"
        )
    return found


def _of_runs(folder: Path, found: Outcomes) -> Iterator[Outcome]:
    """Runs of a model: scores of its reports, costs and calls of its trajectories."""
    report = ImportReport(format="suite")
    scores: dict[str, float] = {}
    runs: dict[str, tuple[object, object, str]] = {}
    for file in read_files(folder, report, suffixes=(".json",)):
        data = parse_object(file.data)
        if file.path.name.endswith(".traj.json"):
            info = data.get("info")
            stats = info.get("model_stats") if isinstance(info, dict) else None
            stats = stats if isinstance(stats, dict) else {}
            task = str(data.get("instance_id") or file.path.name.removesuffix(".traj.json"))
            runs[task] = (stats.get("instance_cost"), stats.get("api_calls"), file.source)
        else:
            scores |= object_scores(data)
    names = {"task": "task", "model": "model", "score": "score", "cost": "instance_cost", "turns": "api_calls"}
    without = sorted(set(scores) ^ set(runs))
    if without:
        found.notes.append(
            f"{folder.name}: {len(without)} task(s) have a score and no trajectory, or the reverse, such as {without[0]}; "
            "left out."
        )
    for task in sorted(set(scores) & set(runs)):
        cost, calls, source = runs[task]
        row = {"task": task, "model": folder.name, "score": scores[task], "instance_cost": cost, "api_calls": calls}
        yield _outcome(row, names, where=source, max_score=1.0)
