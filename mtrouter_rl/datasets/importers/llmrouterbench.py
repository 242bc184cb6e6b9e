"""Imports the result files of LLMRouterBench: one JSON file a run, of one model on one split of one data set.

The layout is that of the release of January 2026 (`bench-release.tar.gz`; arXiv 2601.07206), as the benchmark's own
writer and README describe it (github.com/ynulihao/LLMRouterBench at commit 46d48d4: `data_collector/storage.py`,
`data_collector/runner.py`, `baselines/data_loader.py`, README section "Result File Structure"); the release itself was
not at hand. Files lie in `results/bench/<dataset>/<split>/<model>/<dataset>-<split>-<model>-<YYYYmmdd_HHMMSS>.json`, an
older form is called `result.json`. Each has totals, `dataset_name`, `split`, `model_name`, `demo`, and `records`:

* `index`, from 1 in the order of the data, so equal for all models of a split;
* `prompt` (what was sent) and `origin_query`;
* `raw_output` (the response; absent in the README's list of fields, so `prediction` stands in for it, with a note);
* `score`: 0 to 1, or null where the call failed or the data set is judged later. The benchmark's loader reads null as 0;
  here it is a rejection;
* `prompt_tokens`, `completion_tokens`, `cost`: 0 where the call failed.

The README's example leaves `dataset_name`, `split` and `model_name` out; the names of the three folders then stand in for
them, with a note. As in the benchmark's loader, demo runs do not count, and of several runs of one model on one split
the latest does, by the time in the file name.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.datasets.importers.archives import LogFile, read_files
from mtrouter_rl.datasets.importers.base import Amount, ImportReport, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.query_table import (
    BAD_COUNT,
    Answer,
    OneTurnBuilder,
    Query,
    is_missing,
    read_cost,
    read_count,
    read_score,
    read_text,
)
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, Frozen, TokenUsage

UNREADABLE = "file that is not JSON"
NOT_A_RUN = "file that holds no run"
DEMO = "demo run"
OLDER = "older run of the same model on the same split"
NOT_A_RECORD = "record that breaks the format"
PREDICTION_NOTE = "response that was not published; its extracted prediction stands in"
RESPONSE_NOTE = "response that is no text, kept as JSON"
FOLDER_NOTE = "file without names, taken from its folders"

_TIME = re.compile(r"(\d{8}_\d{6})\.json$")
_NAMES = ("dataset_name", "split", "model_name")


class LLMRouterBenchOptions(Frozen):
    """Options of the format.

    Attributes:
        text: Which field is the task text: what was sent to the models, or the question without its frame.
    """

    text: Annotated[
        Literal["prompt", "origin_query"],
        Field(description="field that becomes the task text: 'prompt' (as sent) or 'origin_query'"),
    ] = "prompt"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One result file: which model it is of, on what, and its records as they were read."""

    dataset: str
    split: str
    model: str
    is_demo: bool
    records: list[object]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dataset, self.split, self.model


class LLMRouterBenchImporter:
    """Reads LLMRouterBench's result files, from a folder or from the archive as it is published.

    The task is "<data set>/<split>", because two splits number different questions alike.
    """

    options_model: ClassVar[type[Frozen]] = LLMRouterBenchOptions
    description: ClassVar[str] = "result files of LLMRouterBench (query x model, one-turn), folder or archive"
    env: str = "llmrouterbench"
    propensities: Literal["exact", "estimated", "unknown"] = "exact"
    is_simulated: bool = False
    assumptions: tuple[str, ...] = (
        "All prompt tokens are billed at the plain input price: the log does not tell cached ones apart.",
    )

    def __init__(self, options: Frozen) -> None:
        checked = LLMRouterBenchOptions.model_validate(options.model_dump())
        self._text: str = checked.text

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        records = sample.first.get("records")
        first = records[0] if isinstance(records, list) and records else None
        fits = isinstance(first, dict) and {"index", "score", "prompt_tokens"} <= first.keys()
        return "'records' with index, score and prompt_tokens" if fits else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes file by file; one file is in memory at a time.

        Raises:
            DatasetError: If a path does not exist, or there is no JSON file in any.
        """
        superseded = _superseded(source)
        builder = OneTurnBuilder(source)
        for index, path in enumerate(source.paths):
            for file in read_files(path, source.report, suffixes=(".json",)):
                if (index, file.source) in superseded:
                    older = _read_run(file, ImportReport(format=source.report.format))
                    amount = sum(map(_amount, older.records), Amount()) if older else None
                    source.report.pass_over(OLDER, source=file.source, amount=amount)
                    continue
                run = _read_run(file, source.report)
                if run is not None and run.is_demo:
                    amount = sum(map(_amount, run.records), Amount())
                    source.report.pass_over(DEMO, source=file.source, amount=amount)
                elif run is not None:
                    yield from self._episodes_of(run, builder, file.source)
        builder.note_costs()

    def _episodes_of(self, run: _Run, builder: OneTurnBuilder, source: str) -> Iterator[Episode]:
        for place, record in enumerate(run.records):
            where = f"{source}, record {place}"
            try:
                if not isinstance(record, Mapping):
                    raise UnusableEpisodeError(NOT_A_RECORD, f"is {cut(repr(record))}, must be an object")
                query = self._query(run, record)
                episode = builder.episode(query, _answer(run, record, builder, where))
            except UnusableEpisodeError as error:
                amount = _amount(record)
                builder.report.reject(error.reason, source=where, detail=error.detail, n_turns=1, amount=amount)
                continue
            yield episode

    def _query(self, run: _Run, record: Mapping[str, object]) -> Query:
        index = record.get("index")
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise UnusableEpisodeError(NOT_A_RECORD, f"index is {cut(repr(index))}, must be a whole number >= 0")
        text = read_text(record.get(self._text), self._text)
        return Query(task=f"{run.dataset}/{run.split}", query_id=str(index), variation=index, text=text)


def _amount(record: object) -> Amount:
    """Tokens of a record that cannot be used, as far as they can be read; its price is that of the log."""
    try:
        if not isinstance(record, Mapping):
            raise UnusableEpisodeError(NOT_A_RECORD)
        tokens = TokenUsage(
            n_fresh=read_count(record.get("prompt_tokens"), "prompt_tokens"),
            n_output=read_count(record.get("completion_tokens"), "completion_tokens"),
        )
        return Amount.of_call(tokens, read_cost(record.get("cost")))
    except UnusableEpisodeError:
        return Amount.of_call(None, None)


def _answer(run: _Run, record: Mapping[str, object], builder: OneTurnBuilder, where: str) -> Answer:
    model = builder.model(run.model)
    score = read_score(record.get("score"))
    n_fresh = read_count(record.get("prompt_tokens"), "prompt_tokens")
    if n_fresh == 0:
        raise UnusableEpisodeError(BAD_COUNT, "prompt_tokens is 0, but a prompt was sent; its tokens were not logged")
    return Answer(
        model=model,
        response=_response(record, builder.report, where),
        score=score,
        usage=TokenUsage(n_fresh=n_fresh, n_output=read_count(record.get("completion_tokens"), "completion_tokens")),
        usage_source="logged",
        logged_cost_usd=read_cost(record.get("cost")),
        extra={"dataset": run.dataset, "split": run.split},
    )


def _response(record: Mapping[str, object], report: ImportReport, where: str) -> str:
    raw = record.get("raw_output")
    if isinstance(raw, str):
        return raw
    if raw is not None:
        report.note(RESPONSE_NOTE, source=where)
        return json.dumps(raw, ensure_ascii=False)
    prediction = record.get("prediction")
    report.note(PREDICTION_NOTE, source=where)
    return "" if is_missing(prediction) else str(prediction)


def _superseded(source: ImportSource) -> set[tuple[int, str]]:
    """(index of the path, file) of runs that another run of the same model on the same split is later than.

    Names come first, because nearly always no folder holds two files; only files that share one are opened for it.
    """
    scratch = ImportReport(format="llmrouterbench")
    folders: dict[tuple[int, str], list[str]] = defaultdict(list)
    for index, path in enumerate(source.paths):
        for file in read_files(path, scratch, suffixes=(".json",)):
            folders[index, f"{file.archive}:{file.path.parent}"].append(file.source)
    if not folders:
        raise DatasetError(
            f"{', '.join(map(str, source.paths))}: no JSON file; give the folder results/bench of LLMRouterBench, or "
            "the archive that it is published in"
        )
    contested = {(index, name) for (index, _), names in folders.items() if len(names) > 1 for name in names}
    return _all_but_latest(source, contested) if contested else set()


def _all_but_latest(source: ImportSource, contested: set[tuple[int, str]]) -> set[tuple[int, str]]:
    scratch = ImportReport(format="llmrouterbench")
    runs: dict[tuple[str, str, str], list[tuple[str, int, str]]] = defaultdict(list)
    for index, path in enumerate(source.paths):
        for file in read_files(path, scratch, suffixes=(".json",)):
            run = _read_run(file, scratch) if (index, file.source) in contested else None
            if run is not None and not run.is_demo:
                time = _TIME.search(file.path.name)
                runs[run.key].append((time[1] if time else "", index, file.source))
    return {(index, name) for found in runs.values() for _, index, name in sorted(found)[:-1]}


def _read_run(file: LogFile, report: ImportReport) -> _Run | None:
    try:
        data: object = json.loads(file.data)
    except (ValueError, RecursionError) as error:
        report.reject(UNREADABLE, source=file.source, detail=f"{type(error).__name__}: {cut(str(error))}")
        return None
    records = data.get("records") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(records, list):
        report.reject(NOT_A_RUN, source=file.source, detail="must be an object with a list of records")
        return None
    names = _names(data, file, report)
    if names is None:
        return None
    dataset, split, model = names
    return _Run(dataset=dataset, split=split, model=model, is_demo=data.get("demo") is True, records=records)


def _names(data: dict[str, object], file: LogFile, report: ImportReport) -> tuple[str, str, str] | None:
    """Data set, split and model: from the file, or from its folders if it has none of the three."""
    given = [data.get(name) for name in _NAMES]
    folders = file.path.parts[-4:-1]
    if all(value is None for value in given) and len(folders) == len(_NAMES):
        report.note(FOLDER_NOTE, source=file.source)
        return folders[0], folders[1], folders[2]
    dataset, split, model = given
    if isinstance(dataset, str) and isinstance(split, str) and isinstance(model, str) and dataset and split and model:
        return dataset, split, model
    shown = ", ".join(f"{name} is {cut(repr(value))}" for name, value in zip(_NAMES, given, strict=True))
    report.reject(NOT_A_RUN, source=file.source, detail=f"{shown}; each must be a name")
    return None
