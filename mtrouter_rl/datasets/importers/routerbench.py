"""Imports RouterBench: one wide table, one row a prompt, the columns of every model side by side.

Implemented is the layout of `routerbench_0shot` and `routerbench_5shot` (Hugging Face: withmartian/routerbench; arXiv
2403.12031; 36,497 rows and 11 models), as the code that writes it shows (github.com/withmartian/routerbench at commit
30e0925: `convertors/common.py`, `convertors/martian_evals_convertor.py`, `routers/abstract_router.py`). Columns:

* `sample_id`, `eval_name`, `prompt`;
* per model its name (the score, 0 to 1), `<name>|model_response`, `<name>|total_cost` (USD);
* `oracle_model_to_route_to`, which is not read: the scores say it.

Prompts and responses are Python lists of messages, written as text (`"['first', 'second']"`) or kept as lists; they are
joined by an empty line. RouterBench is published as pickles. Opening one runs whatever code is in it, so none is opened
here: convert it where you trust it, to Parquet, CSV or JSONL.

Tokens are not published, and a dataset's cost is always tokens times price. `tokens_from` says how they are worked out:
"text" counts both texts with the pool's token counter; "cost" counts the prompt and takes as many output tokens as the
rest of the logged cost pays for. The report compares the resulting cost with the logged one, per model. The benchmark
adds a fee per request for some models; under "cost" it is part of the output tokens.
"""

import ast
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pydantic import Field

from mtrouter_rl.cards.pool import PoolCard, Prices, TokenCounter
from mtrouter_rl.datasets.importers.base import Amount, ImportReport, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.query_table import (
    BAD_COST,
    BAD_COUNT,
    BAD_TEXT,
    Answer,
    OneTurnBuilder,
    Query,
    read_cost,
    read_score,
    read_text,
    stable_variation,
)
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, Frozen, TokenUsage

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl", ".jsonl.gz")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pkl.gz", ".p")
PICKLE_ADVICE = (
    "a pickle runs whatever code is in it, so it is not opened; in a place where you trust it, convert it with "
    "python -c \"import pandas; pandas.read_pickle('IN.pkl').to_parquet('OUT.parquet')\" (or .to_csv('OUT.csv', "
    "index=False), or .to_json('OUT.jsonl', orient='records', lines=True)) and import that"
)
PICKLE = "pickle"
BROKEN = "table that is cut off or broken"
BROKEN_LINE = "line that is no row"
OPEN_END = "table that does not end with its line; the last row may be cut off"
MISSING_COLUMN = "table without a column that it must have"
UNREAD_COLUMN = "column that is not part of the format and not read"
NO_RESPONSE = "response that was not published"
PARTS_NOTE = "text of several messages, joined"

QUERY_COLUMNS = ("sample_id", "prompt", "eval_name")
ORACLE_COLUMN = "oracle_model_to_route_to"
RESPONSE_SUFFIX = "|model_response"
COST_SUFFIX = "|total_cost"

_ROWS_PER_BATCH = 256
_CSV_BLOCK_BYTES = 2 * 2**20
"""A row must fit into it; pyarrow reads some 30 blocks ahead."""
_BUFFER_BYTES = 2**20
_MAX_LINE_BYTES = 64 * 2**20

Row = Mapping[str, object]


class RouterBenchOptions(Frozen):
    """Options of the format.

    Attributes:
        tokens_from: How tokens are worked out, see the module.
    """

    tokens_from: Annotated[
        Literal["text", "cost"],
        Field(
            description="how tokens are worked out: 'text' counts prompt and response with the pool's token counter; "
            "'cost' counts the prompt, and output tokens are what the rest of the logged cost pays for"
        ),
    ] = "text"


@dataclass(frozen=True, kw_only=True)
class _ModelColumns:
    """Columns of one model: its name in the pool, or why its answers cannot be used."""

    name: str
    model: str
    problem: UnusableEpisodeError | None
    has_response: bool
    has_cost: bool


@dataclass(frozen=True, kw_only=True)
class _Header:
    """Columns of a table; `problem` is not empty if none of its rows can be used."""

    names: tuple[str, ...]
    columns: tuple[_ModelColumns, ...]
    problem: str


class RouterBenchImporter:
    """Reads RouterBench's wide table from Parquet, CSV or JSONL, a batch of rows at a time."""

    options_model: ClassVar[type[Frozen]] = RouterBenchOptions
    description: ClassVar[str] = "wide table of RouterBench (query x model, one-turn) as Parquet, CSV or JSONL"
    env: str = "routerbench"
    propensities: Literal["exact", "estimated", "unknown"] = "exact"
    is_simulated: bool = False

    def __init__(self, options: Frozen) -> None:
        checked = RouterBenchOptions.model_validate(options.model_dump())
        self._tokens_from = checked.tokens_from
        rule = {
            "text": "Tokens are not published: those of prompt and response were counted with the pool's token counter.",
            "cost": "Tokens are not published: those of the prompt were counted with the pool's token counter, and output "
            "tokens are what the rest of the logged cost pays for at the pool's prices (0 if nothing is left).",
        }
        self.assumptions: tuple[str, ...] = (rule[self._tokens_from],)

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        fits = "sample_id" in sample.first and any(name.endswith(COST_SUFFIX) for name in sample.first)
        is_table = sample.name.endswith(TABLE_SUFFIXES[:1]) and "routerbench" in sample.name
        return f"columns sample_id and MODEL{COST_SUFFIX}" if fits else "its name" if is_table else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes row by row, every model of a row in the order of the columns.

        Raises:
            DatasetError: If a path does not exist, or holds no table: only pickles, or nothing.
        """
        tables = _find_tables(source)
        reader = _Reader(source, tokens_from=self._tokens_from)
        for path in tables:
            source.report.n_files += 1
            yield from reader.read(path)
        reader.builder.note_costs()


class _Reader:
    """Turns the rows of tables into episodes."""

    def __init__(self, source: ImportSource, *, tokens_from: Literal["text", "cost"]) -> None:
        self.builder = OneTurnBuilder(source)
        self._pool: PoolCard = source.pool
        self._report: ImportReport = source.report
        self._tokens_from = tokens_from
        self._header: _Header | None = None

    def read(self, path: Path) -> Iterator[Episode]:
        for where, row in _rows(path, self._report):
            header = self._header_of(tuple(row), path.name)
            try:
                if header.problem:
                    raise UnusableEpisodeError(MISSING_COLUMN, header.problem)
                parts = read_parts(row["prompt"])
                query = self._query(row, parts)
                self.builder.check_query(query)
            except UnusableEpisodeError as error:
                amount = sum((_amount(row, column) for column in header.columns), Amount())
                n_turns = len(header.columns)
                self._report.reject(error.reason, source=where, detail=error.detail, n_turns=n_turns, amount=amount)
                continue
            n_prompt = sum(map(self._pool.token_counter.count, parts))
            for column in header.columns:
                try:
                    episode = self.builder.episode(query, self._answer(row, column, n_prompt, where))
                except UnusableEpisodeError as error:
                    place = f"{where}, model {column.name}"
                    amount = _amount(row, column)
                    self._report.reject(error.reason, source=place, detail=error.detail, n_turns=1, amount=amount)
                    continue
                yield episode

    def _header_of(self, names: tuple[str, ...], source: str) -> _Header:
        """What the columns of a row mean; worked out anew only where they change."""
        if self._header is None or self._header.names != names:
            self._header = self._read_header(names, source)
        return self._header

    def _read_header(self, header: tuple[str, ...], source: str) -> _Header:
        endings = (RESPONSE_SUFFIX, COST_SUFFIX)
        models = dict.fromkeys(name.removesuffix(end) for name in header for end in endings if name.endswith(end))
        read = {*QUERY_COLUMNS, ORACLE_COLUMN, *models, *(name + end for name in models for end in endings)}
        for name in (name for name in header if name not in read):
            self._report.note(UNREAD_COLUMN, source=source, detail=name)
        missing = [name for name in QUERY_COLUMNS if name not in header]
        if not models:
            missing.append(f"one that ends in {RESPONSE_SUFFIX} or {COST_SUFFIX}")
        columns = tuple(self._model_columns(name, set(header)) for name in models)
        return _Header(names=header, columns=columns, problem=f"missing: {', '.join(missing)}" if missing else "")

    def _model_columns(self, name: str, there: set[str]) -> _ModelColumns:
        model, problem = "", None
        try:
            model = self.builder.model(name)
            if name not in there:
                raise UnusableEpisodeError(MISSING_COLUMN, f"missing: {name}, the score")
        except UnusableEpisodeError as error:
            problem = error
        return _ModelColumns(
            name=name,
            model=model,
            problem=problem,
            has_response=name + RESPONSE_SUFFIX in there,
            has_cost=name + COST_SUFFIX in there,
        )

    def _query(self, row: Row, parts: Sequence[str]) -> Query:
        query_id = read_text(row["sample_id"], "sample_id")
        text = read_text("\n\n".join(parts), "prompt")
        if len(parts) > 1:
            self._report.note(PARTS_NOTE, source=query_id)
        return Query(
            task=read_text(row["eval_name"], "eval_name"),
            query_id=query_id,
            variation=stable_variation(query_id),
            text=text,
        )

    def _answer(self, row: Row, column: _ModelColumns, n_prompt: int, where: str) -> Answer:
        if column.problem is not None:
            # A new error each time: one that is raised again and again keeps every traceback.
            raise UnusableEpisodeError(column.problem.reason, column.problem.detail)
        score = read_score(row[column.name])
        cost_usd = read_cost(row[column.name + COST_SUFFIX]) if column.has_cost else None
        response = _response(row[column.name + RESPONSE_SUFFIX]) if column.has_response else None
        n_output = self._n_output(response, cost_usd, n_prompt, self._pool.model(column.model).prices)
        if response is None:
            self._report.note(NO_RESPONSE, source=f"{where}, model {column.name}")
        return Answer(
            model=column.model,
            response=response or "",
            score=score,
            usage=TokenUsage(n_fresh=n_prompt, n_output=n_output),
            usage_source="reconstructed",
            logged_cost_usd=cost_usd,
        )

    def _n_output(self, response: str | None, cost_usd: float | None, n_prompt: int, prices: Prices) -> int:
        if self._tokens_from == "text":
            if response is None:
                raise UnusableEpisodeError(BAD_COUNT, "no response to count tokens of; see option tokens_from=cost")
            return n_text_tokens(response, self._pool.token_counter)
        if cost_usd is None:
            raise UnusableEpisodeError(BAD_COST, "no logged cost to work tokens out from; see option tokens_from=text")
        return n_paid_tokens(cost_usd, n_prompt=n_prompt, prices=prices)


def _amount(row: Row, column: _ModelColumns) -> Amount:
    """What an answer that cannot be used cost by the log; its tokens were not published."""
    try:
        cost_usd = read_cost(row[column.name + COST_SUFFIX]) if column.has_cost else None
    except UnusableEpisodeError:
        cost_usd = None
    return Amount.of_call(None, cost_usd)


def _response(value: object) -> str | None:
    """Text of a response; None if it was not published (no value, or NaN)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return "\n\n".join(read_parts(value))


def n_text_tokens(text: str, counter: TokenCounter) -> int:
    """Tokens of an output by a counter of prompts: without the frame that it counts for a message.

    Example:
        >>> n_text_tokens("open door", TokenCounter(kind="characters"))
        3
    """
    return counter.count(text) - counter.tokens_per_message


def n_paid_tokens(cost_usd: float, *, n_prompt: int, prices: Prices) -> int:
    """Output tokens that a cost pays for, once the prompt is paid; 0 if nothing is left.

    Raises:
        UnusableEpisodeError: If output is free, so that a cost says nothing about it.

    Example:
        >>> n_paid_tokens(0.003, n_prompt=1000, prices=Prices(input=1.0, cached_input=1.0, output=2.0))
        1000
    """
    if prices.output == 0:
        raise UnusableEpisodeError(BAD_COUNT, "output is free in the pool, so no cost tells how much of it there was")
    left_usd = cost_usd - prices.cost_usd(TokenUsage(n_fresh=n_prompt, n_output=0))
    return max(0, round(left_usd / prices.cost_usd(TokenUsage(n_fresh=0, n_output=1))))


def read_parts(value: object) -> tuple[str, ...]:
    """Messages of a prompt or response: a list, the text of a Python list, or plain text, which is one message.

    Raises:
        UnusableEpisodeError: If it is neither text nor a list of texts.

    Example:
        >>> read_parts("['a', 'b']"), read_parts("[x]")
        (('a', 'b'), ('[x]',))
    """
    if isinstance(value, str):
        value = _parsed_list(value) if value.startswith("[") and value.endswith("]") else [value]
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise UnusableEpisodeError(BAD_TEXT, f"is {cut(repr(value))}, must be text or a list of texts")
    return tuple(cast(Sequence[str], value))


def _parsed_list(text: str) -> list[object]:
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]  # a text that begins and ends like a list
    return value if isinstance(value, list) and all(isinstance(part, str) for part in value) else [text]


def _find_tables(source: ImportSource) -> list[Path]:
    tables: list[Path] = []
    pickles: list[Path] = []
    for path in source.paths:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder; give RouterBench's table, or the folder that it is in")
        files = sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
        pickles += [file for file in files if file.name.lower().endswith(PICKLE_SUFFIXES)]
        tables += [file for file in files if file.name.lower().endswith(TABLE_SUFFIXES)]
    if not tables:
        if pickles:
            raise DatasetError(f"{pickles[0]} is refused: {PICKLE_ADVICE}")
        raise DatasetError(
            f"{', '.join(map(str, source.paths))}: no table of RouterBench; give files that end in "
            f"{', '.join(TABLE_SUFFIXES)}"
        )
    for file in pickles:
        source.report.reject(PICKLE, source=file.name, detail=PICKLE_ADVICE)
    return tables


def _rows(path: Path, report: ImportReport) -> Iterator[tuple[str, Row]]:
    """Rows of a table with their place; a table that breaks off is reported, and what came before it is kept."""
    name = path.name.lower()
    rows = _json_rows(path, report) if ".jsonl" in name else _batch_rows(path, report)
    place = "line" if ".jsonl" in name else "row"
    n_rows = 0
    try:
        for number, row in rows:
            n_rows += 1
            yield f"{path.name}, {place} {number}", row
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        detail = f"{type(error).__name__}: {cut(str(error), 200)}; what follows row {n_rows} is lost"
        report.reject(BROKEN, source=path.name, detail=detail)
        return
    if n_rows == 0:
        report.reject(BROKEN, source=path.name, detail="has no row")


def _batch_rows(path: Path, report: ImportReport) -> Iterator[tuple[int, Row]]:
    number = 0
    for batch in _parquet_batches(path) if path.suffix.lower() == ".parquet" else _csv_batches(path, report):
        names = batch.schema.names
        if len(set(names)) < len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise pa.ArrowInvalid(f"column(s) {repeated} appear more than once")
        for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
            for row in batch.slice(start, _ROWS_PER_BATCH).to_pylist():
                number += 1
                yield number, row


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
        yield from file.iter_batches(batch_size=_ROWS_PER_BATCH)


def _csv_batches(path: Path, report: ImportReport) -> Iterator[pa.RecordBatch]:
    """Every cell as text: types that are guessed from the first rows would break on the later ones.

    An empty cell holds nothing, a quoted empty one an empty text, as pandas writes them.
    """
    broken: list[str] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(f"{row.actual_columns} cells, must be {row.expected_columns}; begins with {cut(repr(row.text))}")
        return "skip"

    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    read = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as first:
        names = first.schema.names
    broken.clear()  # the first block is read again
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
        for batch in reader:
            while broken:
                report.reject(BROKEN_LINE, source=path.name, detail=broken.pop(0))
            yield batch
    if not _ends_a_line(path):
        report.note(OPEN_END, source=path.name)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) in {b"\n", b"\r"}


def _json_rows(path: Path, report: ImportReport) -> Iterator[tuple[int, Row]]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            try:
                row: object = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            elif line.strip():
                detail = f"begins with {cut(repr(line[:100]))}"
                report.reject(BROKEN_LINE, source=f"{path.name}, line {number}", detail=detail)
