"""`episodes.csv.gz`: what every number of a results file is worked out from, one line an episode.

The file lies beside `results.json` and is small enough to be shipped with it, so that anybody can work out every mean and
interval again (`mtrouter_rl.evaluation.recompute`). Numbers are written as the shortest text that is read back as the very same
number. Lines stand in the order in which the episodes were run, since a sum's last digit hangs on its order. The same episodes
give the same bytes.
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.metrics import EpisodeMetrics, EpisodeRecord
from mtrouter_rl.files import write_atomically
from mtrouter_rl.records import EpisodeStatus, Split

EPISODES_FILE = "episodes.csv.gz"
MAX_BYTES = 512 * 2**20
"""A file that is larger when it is unpacked is not read."""

_KEY = ("split", "policy", "task", "variation", "seed", "status", "budget_usd", "cost_usd")
_FLOATS = {"utility": "utility", "return": "return_"}
_COUNTS = {
    "turns": "n_turns",
    "switches": "n_switches",
    "errors_before_last": "n_errors_before_last",
    "stays_after_error": "n_stays_after_error",
    "transient_errors": "n_transient_errors",
    "stays_after_transient": "n_stays_after_transient",
}
"""Column -> attribute of `EpisodeMetrics`; empty of an episode that failed."""
_COLUMNS = (*_KEY, *_FLOATS, *_COUNTS)
_MODEL = "turns:"
"""A column of this and a model's name: turns for which it was chosen."""

Group = tuple[Split, str]
"""(split, policy)."""


@dataclass(frozen=True, kw_only=True)
class KeptEpisodes:
    """Contents of the file.

    Attributes:
        model_names: Names of the pool's models, in pool order.
        groups: (split, policy) -> its episodes, completed and failed, in the order in which they were run.
    """

    model_names: tuple[str, ...]
    groups: Mapping[Group, tuple[EpisodeRecord, ...]]

    def of(self, policy: str, split: str, *, budget_usd: float | None = None) -> tuple[EpisodeRecord, ...]:
        """Episodes of a policy on a split; under one budget, if it is given. Empty if there are none."""
        found = self.groups.get((cast(Split, split), policy), ())
        return tuple(one for one in found if budget_usd is None or one.budget_usd == budget_usd)

    @property
    def n_episodes(self) -> int:
        """All of them."""
        return sum(map(len, self.groups.values()))

    def joined(self, other: "KeptEpisodes") -> "KeptEpisodes":
        """Both; of a policy that both hold on one split under one budget, the other's episodes count.

        Raises:
            ResultsError: If the pools differ.
        """
        if self.groups and other.model_names != self.model_names:
            raise ResultsError(
                f"episodes are of the models {list(self.model_names)} and of {list(other.model_names)}, must be of one pool; "
                "keep them in separate folders"
            )
        groups = dict(self.groups)
        for group, records in other.groups.items():
            budgets = {one.budget_usd for one in records}
            groups[group] = (*(one for one in groups.get(group, ()) if one.budget_usd not in budgets), *records)
        return KeptEpisodes(model_names=other.model_names, groups=groups)

    def only(self, groups: Iterable[Group]) -> "KeptEpisodes":
        """Those of some policies and splits."""
        wanted = set(groups)
        return KeptEpisodes(
            model_names=self.model_names,
            groups={group: records for group, records in self.groups.items() if group in wanted},
        )

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; equal episodes give equal bytes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*_COLUMNS, *(f"{_MODEL}{name}" for name in self.model_names)))
        for split, policy in sorted(self.groups):
            writer.writerows(self._cells(policy, record) for record in self.groups[split, policy])
        write_atomically(path, gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))

    def _cells(self, policy: str, record: EpisodeRecord) -> tuple[object, ...]:
        metrics = record.metrics
        numbers: tuple[object, ...] = ("",) * (len(_FLOATS) + len(_COUNTS) + len(self.model_names))
        if metrics is not None:
            values = (getattr(metrics, name) for name in (*_FLOATS.values(), *_COUNTS.values()))
            numbers = (*values, *(metrics.model_turns.get(name, 0) for name in self.model_names))
        key = (record.split, policy, record.task, record.variation, record.seed)
        return (*key, record.status, record.budget_usd, record.cost_usd, *numbers)

    @classmethod
    def load(cls, path: Path) -> "KeptEpisodes":
        """Read the file; nothing is filled in or ignored.

        Raises:
            ResultsError: If the file is missing, cannot be unpacked, or a column or a cell breaks its rule; names the line.
        """
        rows = csv.DictReader(io.StringIO(_unpacked(path), newline=""), strict=True)
        header = _header(path, rows)
        model_names = tuple(name.removeprefix(_MODEL) for name in header[len(_COLUMNS) :])
        if header != [*_COLUMNS, *(f"{_MODEL}{name}" for name in model_names)] or not model_names:
            raise ResultsError(
                f"{path}, line 1: columns are {header}, must be {', '.join(_COLUMNS)} and one '{_MODEL}MODEL' for every "
                "model; take the file that the run wrote"
            )
        groups: dict[Group, list[EpisodeRecord]] = {}
        seen: set[tuple[object, ...]] = set()
        for number, cells in _lines(path, rows):
            row = _Row(path, number, cells)
            record = row.record(model_names)
            group = (record.split, row.text("policy"))
            identity = (*group, record.budget_usd, *record.key)
            if identity in seen:
                raise row.error("seed", "the same (split, policy, budget, task, variation, seed) stands there twice")
            seen.add(identity)
            groups.setdefault(group, []).append(record)
        return cls(model_names=model_names, groups={group: tuple(records) for group, records in groups.items()})


def keep(
    folder: Path,
    records: Mapping[str, Sequence[EpisodeRecord]],
    *,
    split: Split,
    model_names: Sequence[str],
    rows: Iterable[Group],
) -> None:
    """Add the episodes of policies to the file of a folder; those of policies that have no row any more are dropped.

    Args:
        folder: Folder of the results.
        records: Policy -> its episodes.
        split: Their split.
        model_names: Names of the pool.
        rows: (split, policy) of every row of the results.

    Raises:
        ResultsError: If the file that is there is broken.
    """
    path = folder / EPISODES_FILE
    groups = {(split, policy): tuple(kept) for policy, kept in records.items()}
    added = KeptEpisodes(model_names=tuple(model_names), groups=groups)
    named = set(rows)
    so_far = KeptEpisodes.load(path).only(named - set(groups)) if path.is_file() else None
    (added if so_far is None or not so_far.groups else so_far.joined(added)).save(path)


def _unpacked(path: Path) -> str:
    try:
        with path.open("rb") as file:
            packed = file.read(MAX_BYTES + 1)
        unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        data = unpack.decompress(packed, MAX_BYTES + 1)
        if len(data) > MAX_BYTES or len(packed) > MAX_BYTES:
            raise ResultsError(f"{path} is larger than {MAX_BYTES} bytes when it is unpacked, the most that is read")
        if not unpack.eof or unpack.unused_data:
            raise ResultsError(f"{path} ends too early or too late; restore the file, or run the evaluation again")
        return data.decode()
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; a run writes it beside its results.json") from error
    except (OSError, zlib.error, UnicodeDecodeError) as error:
        raise ResultsError(
            f"{path} cannot be unpacked: {error}; restore the file, or run the evaluation again"
        ) from error


def _header(path: Path, rows: "csv.DictReader[str]") -> list[str]:
    try:
        return list(rows.fieldnames or ())
    except csv.Error as error:
        raise ResultsError(f"{path}, line 1: {error}; restore the file") from error


def _lines(path: Path, rows: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str, str]]]:
    try:
        for cells in rows:
            if None in cells or None in cells.values():
                raise ResultsError(f"{path}, line {rows.line_num}: has not as many cells as columns; restore the file")
            yield rows.line_num, cells
    except csv.Error as error:
        raise ResultsError(f"{path}, line {rows.line_num}: {error}; restore the file") from error


class _Row:
    """One line while it is read."""

    def __init__(self, path: Path, number: int, cells: Mapping[str, str]) -> None:
        self._path = path
        self._number = number
        self._cells = cells

    def error(self, column: str, rule: str) -> ResultsError:
        """What is wrong with a cell."""
        value = self._cells[column]
        return ResultsError(
            f"{self._path}, line {self._number}, column '{column}': is '{value:.80}', {rule}; restore the file, or run the "
            "evaluation again"
        )

    def text(self, column: str) -> str:
        """A text that is not empty."""
        if not self._cells[column]:
            raise self.error(column, "must not be empty")
        return self._cells[column]

    def count(self, column: str, *, is_signed: bool = False) -> int:
        """A whole number."""
        text = self._cells[column]
        digits = text.removeprefix("-") if is_signed else text
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise self.error(column, "must be a whole number" + ("" if is_signed else ", at least 0"))
        return int(text)

    def number(self, column: str, *, least: float = -math.inf, most: float = math.inf, has_limit: bool = True) -> float:
        """A number within limits; without `has_limit` it may be infinite."""
        try:
            value = float(self._cells[column])
        except ValueError:
            value = math.nan
        if math.isnan(value) or not least <= value <= most or (has_limit and math.isinf(value)):
            raise self.error(column, f"must be a number from {least:g} to {most:g}")
        return value

    def choice(self, column: str, known: Sequence[str]) -> str:
        """One of some words."""
        if self._cells[column] not in known:
            raise self.error(column, f"must be one of {', '.join(known)}")
        return self._cells[column]

    def record(self, model_names: Sequence[str]) -> EpisodeRecord:
        """The episode."""
        status = cast(EpisodeStatus, self.choice("status", get_args(EpisodeStatus)))
        return EpisodeRecord(
            split=cast(Split, self.choice("split", get_args(Split))),
            task=self.text("task"),
            variation=self.count("variation"),
            seed=self.count("seed", is_signed=True),
            status=status,
            budget_usd=self.number("budget_usd", least=0.0, has_limit=False),
            cost_usd=self.number("cost_usd", least=0.0),
            metrics=self._metrics(model_names) if status == "completed" else None,
        )

    def _metrics(self, model_names: Sequence[str]) -> EpisodeMetrics:
        turns = {name: self.count(f"{_MODEL}{name}") for name in model_names}
        if sum(turns.values()) != self.count("turns"):
            raise self.error("turns", f"must be the sum of the models' turns, {sum(turns.values())}")
        return EpisodeMetrics(
            key=(self.text("task"), self.count("variation"), self.count("seed", is_signed=True)),
            utility=self.number("utility"),
            cost_usd=self.number("cost_usd", least=0.0),
            return_=self.number("return"),
            **{name: self.count(column) for column, name in _COUNTS.items()},
            model_turns={name: n_turns for name, n_turns in turns.items() if n_turns},
        )
