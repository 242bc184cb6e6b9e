"""From the user's files to a suite: outcomes, task texts and trajectories joined, what does not fit named."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from mtrouter_rl.datasets.importers.suites.outcomes import Outcome, find_columns, read_outcomes, table_rows
from mtrouter_rl.datasets.importers.suites.trajectories import join, read_trajectories
from mtrouter_rl.envs.replay.layout import Layout, fit_rate
from mtrouter_rl.envs.replay.suite import RunRow, Suite, SuiteHead, SuiteTask, TurnsRow, assemble
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.files import slug

ASSUMED_RATE = 0.01
"""Growth where no run is known turn by turn and the user gives none; about what public coding-agent runs have."""
TASK_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".csv", ".csv.gz", ".tsv")
EVERYTHING = "(all)"
_NUMBERED = re.compile(r"(?P<group>.+?)[-_#/ ](?P<number>\d{1,15})")
Incomplete = Literal["refuse", "tasks", "models"]


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """What a suite is made of.

    Attributes:
        outcomes: Table, leaderboard file or folder of models; see `outcomes`.
        others: Task texts (a table with a column for the id) and trajectories, in any order.
        name: Name of the suite; None takes that of the outcomes.
        columns: What columns are called, where that is no usual name.
        max_score: Score of full success.
        leaderboard: Which leaderboard of a file that holds several.
        incomplete: What to do where a run is missing: "refuse", or leave out "tasks" or "models" that lack one.
        growth: Rate of the layout; None fits it where runs are known turn by turn, and assumes `ASSUMED_RATE` elsewhere.
    """

    outcomes: Path
    others: tuple[Path, ...] = ()
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    max_score: float = 1.0
    leaderboard: str | None = None
    incomplete: Incomplete = "refuse"
    growth: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.max_score < np.inf:
            raise InvalidConfigError(f"max_score is {self.max_score}, must be a finite number above 0")


def build_suite(request: SuiteRequest) -> Suite:
    """Read everything and join it.

    Raises:
        DatasetError: If a file, row or value breaks its rule, or a run is missing.
        InvalidConfigError: If a number of the request is out of range.
    """
    found = read_outcomes(
        request.outcomes, columns=request.columns, max_score=request.max_score, leaderboard=request.leaderboard
    )
    notes = list(found.notes)
    cells = _cells(found.runs)
    models = tuple(dict.fromkeys(run.model for run in found.runs))
    names = tuple(dict.fromkeys(run.task for run in found.runs))
    models, names = _complete(cells, models, names, request, notes)
    tables = [path for path in request.others if _is_table(path)]
    tasks = _tasks(names, tables, notes)
    totals = {m: {t: (cells[t, m].cost_usd, cells[t, m].n_turns) for t in names} for m in models}
    turns: list[TurnsRow] = []
    trajectories = [path for path in request.others if path not in tables]
    if trajectories:
        by_name, told = read_trajectories(trajectories)
        notes += told
        for name, runs in by_name.items():
            model, kept, sentence = join(runs, name, totals)
            notes.append(sentence)
            turns += [TurnsRow(task=task, model=model, turns=run) for task, run in kept.items()]
    head = _head(request, models, turns, notes)
    rows = [
        RunRow(task=t, model=m, score=run.score, cost_usd=run.cost_usd, n_turns=run.n_turns or 1)
        for t in names
        for m, run in ((model, cells[t, model]) for model in models)
    ]
    return assemble(head, tasks, rows, turns, where=str(request.outcomes))


def _head(request: SuiteRequest, models: tuple[str, ...], turns: Sequence[TurnsRow], notes: list[str]) -> SuiteHead:
    rate, error, source = ASSUMED_RATE, None, "assumed"
    if request.growth is not None:
        rate, source = request.growth, "given"
    elif turns:
        rate, error = fit_rate([np.array([turn.cost_usd for turn in run.turns]) for run in turns])
        source = "fitted"
    else:
        notes.append(
            f"No run is known turn by turn: that the cost of a turn grows by {ASSUMED_RATE:.1%} of the first turn's each "
            "turn is "
            "assumed; results are shown under other rules, too."
        )
    return SuiteHead(
        name=request.name or slug(request.outcomes.name.partition(".")[0]),
        models=models,
        layout=Layout(shape="linear", rate=rate),
        layout_source=source,  # type: ignore[arg-type]  # one of the three words above
        layout_error=error,
        sources=tuple(path.name for path in (request.outcomes, *request.others)),
        notes=tuple(notes),
    )


def _cells(runs: Sequence[Outcome]) -> dict[tuple[str, str], Outcome]:
    cells: dict[tuple[str, str], Outcome] = {}
    for run in runs:
        before = cells.setdefault((run.task, run.model), run)
        if before is not run:
            raise DatasetError(
                f"{run.where}: task '{run.task}' was run by '{run.model}' before, in {before.where}; a suite has one run "
                "of each: "
                "keep one, or make the repetition part of the task's id"
            )
    return cells


def _complete(
    cells: Mapping[tuple[str, str], Outcome],
    models: tuple[str, ...],
    names: tuple[str, ...],
    request: SuiteRequest,
    notes: list[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models and tasks without holes."""
    missing = [(task, model) for task in names for model in models if (task, model) not in cells]
    if not missing:
        return models, names
    first = f"task '{missing[0][0]}' has no run of '{missing[0][1]}' (first of {len(missing)} missing runs)"
    if request.incomplete == "refuse":
        raise DatasetError(
            f"{request.outcomes}: {first}; every model must have run every task: add the runs, or leave out what lacks one "
            "with "
            "--incomplete tasks or --incomplete models"
        )
    lost_models = {model for _, model in missing} if request.incomplete == "models" else set()
    lost_tasks = {task for task, _ in missing} if request.incomplete == "tasks" else set()
    kept_models = tuple(model for model in models if model not in lost_models)
    kept_names = tuple(name for name in names if name not in lost_tasks)
    if not kept_models or not kept_names:
        raise DatasetError(
            f"{request.outcomes}: {first}; with --incomplete {request.incomplete} nothing is left: add the runs, or try "
            "the other"
        )
    notes.append(
        f"{first}: {len(lost_tasks)} tasks and {len(lost_models)} models are left out"
        + (f" ({', '.join(sorted(lost_models))})." if lost_models else ".")
    )
    return kept_models, kept_names


def _is_table(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(TASK_SUFFIXES)


def _tasks(names: Sequence[str], tables: Sequence[Path], notes: list[str]) -> list[SuiteTask]:
    """Tasks with what the tables say of them."""
    known: dict[str, dict[str, object]] = {}
    columns: set[str] = set()
    for table in tables:
        found: dict[str, str] = {}
        for where, row in table_rows(table):
            found = found or find_columns(row, where=str(table), needed=("task",), given={})
            task = str(row[found["task"]])
            if task in known:
                raise DatasetError(f"{where}: task '{task}' appears before; give every task one row")
            known[task] = {what: row[name] for what, name in found.items() if row.get(name) not in (None, "")}
        columns |= set(found)
    lacking = [name for name in names if tables and name not in known]
    if lacking:
        raise DatasetError(
            f"{tables[0]}: has no row of task '{lacking[0]}' (first of {len(lacking)}); give a row of every task in the "
            "table of "
            "outcomes, or leave the file out"
        )
    if tables and len(known) > len(names):
        notes.append(f"{len(known) - len(names)} tasks of {tables[0].name} have no outcome and are left out.")
    if "text" not in columns:
        notes.append("Task texts are not known, so that no router can read them.")
    groups, orders = _groups(names, known, notes), _orders(names, known, notes)
    return [
        SuiteTask(id=name, group=groups[name], text=str(known.get(name, {}).get("text", "")), order=orders[name])
        for name in names
    ]


def _groups(names: Sequence[str], known: Mapping[str, Mapping[str, object]], notes: list[str]) -> dict[str, str]:
    if all("group" in known.get(name, {}) for name in names):
        return {name: str(known[name]["group"]) for name in names}
    parts = {name: _NUMBERED.fullmatch(name) for name in names}
    if all(parts.values()):
        notes.append("Groups are not given: they are what stands before the number at the end of each task's id.")
        return {name: part["group"] for name, part in parts.items() if part is not None}
    notes.append("Groups are not given and cannot be read off the ids: all tasks are one group.")
    return dict.fromkeys(names, EVERYTHING)


def _orders(
    names: Sequence[str], known: Mapping[str, Mapping[str, object]], notes: list[str]
) -> dict[str, float | None]:
    if all("order" in known.get(name, {}) for name in names):
        # Numbers by their size; dates as ISO 8601 writes them sort as texts.
        values = {name: str(known[name]["order"]) for name in names}
        ranked = sorted(set(values.values()), key=_sortable)
        return {name: float(ranked.index(value)) for name, value in values.items()}
    parts = {name: _NUMBERED.fullmatch(name) for name in names}
    if all(parts.values()):
        notes.append("Times are not given: the number at the end of each task's id orders the tasks of a group.")
        return {name: float(part["number"]) for name, part in parts.items() if part is not None}
    notes.append("Times are not given and cannot be read off the ids: nothing is validated by time.")
    return dict.fromkeys(names)


def _sortable(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value
