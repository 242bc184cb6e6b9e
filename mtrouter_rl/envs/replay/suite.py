"""A complete suite: every model ran every task once, and what each run scored, cost and how many turns it took is known."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from mtrouter_rl.envs.replay.layout import Layout
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.files import write_atomically
from mtrouter_rl.records import FloatArray, Frozen, NonNegative, PositiveInt

SUITE_FILE = "suite.json"
RUNS_FILE = "runs.csv.gz"
TASKS_FILE = "tasks.jsonl.gz"
TURNS_FILE = "turns.jsonl.gz"
RUN_COLUMNS = ("task", "model", "score", "cost_usd", "n_turns")
COST_TOLERANCE_USD = 1e-6
"""Turns of a run have to add up to its cost within this."""
RecordT = TypeVar("RecordT", bound=Frozen)
Cell = tuple[int, int]
"""(task, model), as indices."""


class SuiteTask(Frozen):
    """One task of a suite.

    Attributes:
        id: Unique name.
        group: What it belongs with, such as its repository; tasks of one group are held out together.
        text: What has to be done, in words; empty where nobody gave it.
        order: Place in time within its group, ascending; None where nobody knows.
    """

    id: Annotated[str, Field(min_length=1)]
    group: Annotated[str, Field(min_length=1)]
    text: str = ""
    order: Annotated[float | None, Field(allow_inf_nan=False)] = None


class RunTurn(Frozen):
    """One turn of a run that is known turn by turn.

    Attributes:
        cost_usd: What the call cost.
        action: What the model wrote.
        observation: What came back.
        error: Kind of error that the action was, empty if none.
    """

    cost_usd: NonNegative
    action: str = ""
    observation: str = ""
    error: str = ""


class SuiteHead(Frozen):
    """Contents of `suite.json`.

    Attributes:
        schema_version: Version of the folder's layout.
        name: Name of the suite.
        models: Names in action order, length M.
        layout: How costs are laid out where only totals are known.
        layout_source: "fitted" on runs that are known turn by turn, "given" by the user, or "assumed".
        layout_error: Root mean square error of the share spent by each turn, where it was fitted.
        sources: Files that it was made from, by name.
        notes: What was left out, joined or assumed, a sentence each; shown beside every result.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1)]
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    layout: Layout
    layout_source: Literal["fitted", "given", "assumed"]
    layout_error: NonNegative | None = None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class TurnsRow(Frozen):
    """A line of `turns.jsonl.gz`."""

    task: str
    model: str
    turns: tuple[RunTurn, ...]


class RunRow(Frozen):
    """A line of `runs.csv.gz`."""

    task: str
    model: str
    score: Annotated[float, Field(ge=0, le=1)]
    cost_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    n_turns: PositiveInt


@dataclass(frozen=True, kw_only=True)
class Suite:
    """N tasks, each run once by each of M models.

    Attributes:
        head: Name, models, layout and provenance.
        tasks: The tasks, length N.
        scores: From 0 to 1, shape (N, M).
        costs_usd: What the run cost, USD, shape (N, M).
        n_turns: Turns of the run, at least 1, shape (N, M).
        turns: Runs that are known turn by turn, by (task, model) index.
    """

    head: SuiteHead
    tasks: tuple[SuiteTask, ...]
    scores: FloatArray
    costs_usd: FloatArray
    n_turns: npt.NDArray[np.int64]
    turns: Mapping[Cell, tuple[RunTurn, ...]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Names in action order, length M."""
        return self.head.models

    @property
    def n_tasks(self) -> int:
        """N."""
        return len(self.tasks)

    @cached_property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Group -> its tasks, as indices, in the order of the suite."""
        found: dict[str, list[int]] = {}
        for index, task in enumerate(self.tasks):
            found.setdefault(task.group, []).append(index)
        return {group: tuple(members) for group, members in found.items()}

    def turn_costs(self, task: int, model: int) -> FloatArray:
        """Cost of every turn of a run, USD: as logged where that is known, else laid out by the rule."""
        known = self.turns.get((task, model))
        if known is not None:
            return np.array([turn.cost_usd for turn in known])
        shares = self.head.layout.shares(int(self.n_turns[task, model]))
        return np.asarray(self.costs_usd[task, model] * shares)

    @cached_property
    def most_usd(self) -> FloatArray:
        """The dearest turn of every model over all tasks, USD, shape (M,)."""
        cells = [[self.turn_costs(n, m).max() for m in range(len(self.models))] for n in range(self.n_tasks)]
        return np.asarray(np.max(cells, axis=0))

    def with_layout(self, layout: Layout) -> "Suite":
        """The same suite with another rule for the runs of which only totals are known."""
        head = self.head.model_copy(update={"layout": layout, "layout_source": "given", "layout_error": None})
        return replace(self, head=head)

    def part(self, tasks: Sequence[int] | None = None, models: Sequence[int] | None = None) -> "Suite":
        """Some tasks and models of the suite, in the order given."""
        rows = list(range(self.n_tasks)) if tasks is None else list(tasks)
        columns = list(range(len(self.models))) if models is None else list(models)
        new_row, new_column = {n: i for i, n in enumerate(rows)}, {m: i for i, m in enumerate(columns)}
        kept = {
            (new_row[n], new_column[m]): run for (n, m), run in self.turns.items() if n in new_row and m in new_column
        }
        cells = np.ix_(rows, columns)
        return Suite(
            head=self.head.model_copy(update={"models": tuple(self.models[m] for m in columns)}),
            tasks=tuple(self.tasks[n] for n in rows),
            scores=self.scores[cells],
            costs_usd=self.costs_usd[cells],
            n_turns=self.n_turns[cells],
            turns=kept,
        )

    def save(self, folder: Path) -> None:
        """Write the folder; `load_suite` is the inverse."""
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerow(RUN_COLUMNS)
        for n, task in enumerate(self.tasks):
            for m, model in enumerate(self.models):
                numbers = (self.scores[n, m], self.costs_usd[n, m], self.n_turns[n, m])
                writer.writerow([task.id, model, *(repr(number.item()) for number in numbers)])
        tasks = "".join(task.model_dump_json() + "\n" for task in self.tasks)
        runs = (
            TurnsRow(task=self.tasks[n].id, model=self.models[m], turns=run)
            for (n, m), run in sorted(self.turns.items())
        )
        write_atomically(folder / RUNS_FILE, _zipped(rows.getvalue()))
        write_atomically(folder / TASKS_FILE, _zipped(tasks))
        write_atomically(folder / TURNS_FILE, _zipped("".join(run.model_dump_json() + "\n" for run in runs)))
        write_atomically(folder / SUITE_FILE, (self.head.model_dump_json(indent=2) + "\n").encode())

    @cached_property
    def fingerprint(self) -> str:
        """Short digest of everything that decides an outcome."""
        digest = hashlib.sha256(self.head.model_dump_json().encode())
        digest.update("".join(task.model_dump_json() for task in self.tasks).encode())
        for array in (self.scores, self.costs_usd, self.n_turns):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps([[cell, len(run)] for cell, run in sorted(self.turns.items())]).encode())
        return digest.hexdigest()[:16]


def _zipped(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def load_suite(folder: Path) -> Suite:
    """Read the folder of a suite.

    Raises:
        DatasetError: If a file is missing or broken, or the runs are not one for every task and model; names file, row and fix.
    """
    head = _parsed(SuiteHead, _text(folder / SUITE_FILE), folder / SUITE_FILE, 1)
    tasks = tuple(
        _parsed(SuiteTask, line, folder / TASKS_FILE, number)
        for number, line in enumerate(_text(folder / TASKS_FILE).splitlines(), start=1)
    )
    rows = csv.DictReader(io.StringIO(_text(folder / RUNS_FILE)))
    runs = [_parsed(RunRow, row, folder / RUNS_FILE, n) for n, row in enumerate(rows, start=2)]
    turns = [
        _parsed(TurnsRow, line, folder / TURNS_FILE, number)
        for number, line in enumerate(_text(folder / TURNS_FILE).splitlines(), start=1)
    ]
    return assemble(head, tasks, runs, turns, where=str(folder / RUNS_FILE))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: no such file; give the folder of a suite, which `mtrouter-rl suite` writes"
        ) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; make the suite anew with `mtrouter-rl suite`") from error


def _parsed(record: type[RecordT], line: str | Mapping[str, object], path: Path, number: int) -> RecordT:
    """A record of a line of JSON, or of the texts of a row."""
    try:
        return record.model_validate_json(line) if isinstance(line, str) else record.model_validate(line)
    except ValidationError as error:
        told = [f"'{'.'.join(map(str, one['loc']))}' is {one['input']!r}: {one['msg']}"[:200] for one in error.errors()]
        raise DatasetError(
            f"{path}, line {number}: {'; '.join(told)}; make the suite anew with `mtrouter-rl suite`"
        ) from error


def assemble(
    head: SuiteHead,
    tasks: Sequence[SuiteTask],
    runs: Sequence[RunRow],
    turns: Sequence[TurnsRow] = (),
    *,
    where: str,
) -> Suite:
    """A suite of its rows.

    Args:
        head: Its head.
        tasks: Its tasks.
        runs: One for every task and model, in any order.
        turns: Runs that are known turn by turn.
        where: What the rows are from, for error messages.

    Raises:
        DatasetError: If a run is missing, repeated or of an unknown task or model, or turns do not add up to their run.
    """
    rows = {task.id: index for index, task in enumerate(tasks)}
    if len(rows) < len(tasks):
        repeated = sorted({task.id for task in tasks if sum(task.id == other.id for other in tasks) > 1})
        raise DatasetError(f"{where}: task '{repeated[0]}' appears twice, must be unique; give every task its own id")
    if len(set(head.models)) < len(head.models):
        raise DatasetError(f"{where}: models are {list(head.models)}, must differ; name each once")
    columns = {model: index for index, model in enumerate(head.models)}
    shape = (len(tasks), len(head.models))
    scores, costs_usd = np.full(shape, np.nan), np.full(shape, np.nan)
    n_turns = np.zeros(shape, dtype=np.int64)
    for run in runs:
        if run.task not in rows or run.model not in columns:
            raise DatasetError(
                f"{where}: run of task '{run.task}' by '{run.model}' is of no task and model of the suite"
            )
        cell = rows[run.task], columns[run.model]
        if n_turns[cell]:
            raise DatasetError(f"{where}: task '{run.task}' was run by '{run.model}' twice; keep one run of each")
        scores[cell], costs_usd[cell], n_turns[cell] = run.score, run.cost_usd, run.n_turns
    missing = np.argwhere(n_turns == 0)
    if len(missing) or not tasks:
        n, m = (int(i) for i in missing[0]) if len(missing) else (0, 0)
        told = f"task '{tasks[n].id}' has no run of '{head.models[m]}'" if tasks else "there is no task"
        raise DatasetError(
            f"{where}: {told} (first of {len(missing)} missing runs out of {n_turns.size}); every model must have run every "
            "task: add the runs, or leave the task or the model out"
        )
    known = {(rows[run.task], columns[run.model]): run.turns for run in turns}
    for (n, m), logged in known.items():
        total = sum(turn.cost_usd for turn in logged)
        if len(logged) != n_turns[n, m] or abs(total - costs_usd[n, m]) > COST_TOLERANCE_USD:
            raise DatasetError(
                f"{where}: task '{tasks[n].id}', model '{head.models[m]}': {len(logged)} turns for {total:.6f} USD are known, "
                "but the "
                f"run has {n_turns[n, m]} turns for {costs_usd[n, m]:.6f} USD; they must agree: leave the turns out, or "
                "correct them"
            )
    return Suite(head=head, tasks=tuple(tasks), scores=scores, costs_usd=costs_usd, n_turns=n_turns, turns=known)
