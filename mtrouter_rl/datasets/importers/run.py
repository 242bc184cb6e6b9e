"""Turns a log of another program into a validated dataset, with a report of what was left out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from mtrouter_rl import __version__
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.base import Amount, Importer, ImportReport, ImportSource, ReportJson
from mtrouter_rl.datasets.importers.recognize import looks_like
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.leaks import check_sibling_splits, sibling_splits
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.validation import Context, ShardFiles, ViolationLog, check_episodes
from mtrouter_rl.errors import DatasetError, InvalidConfigError, unknown_name
from mtrouter_rl.files import read_json
from mtrouter_rl.progress import track
from mtrouter_rl.records import Episode, Frozen, TracedEpisode
from mtrouter_rl.registry import IMPORTERS

REPORT_FILE = "import-report.json"
_FILES = ShardFiles.of(0)
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What `mtrouter-rl import` is asked for.

    Attributes:
        format: Registered name of the log format.
        paths: Files, folders and archives.
        pool: Models and their prices; every model of the log must be in it, by name or alias.
        out: Folder of the dataset.
        options: Options of the format, as its `options_model` takes them.
        dataset_id: `name-vN`; None makes one of the format.
        overwrite: Whether another dataset in `out` is replaced.
        scores: Files of scores by session, for formats of logged calls.
    """

    format: str
    paths: tuple[Path, ...]
    pool: PoolCard
    out: Path
    options: Mapping[str, object] = field(default_factory=dict)
    dataset_id: str | None = None
    overwrite: bool = False
    scores: tuple[Path, ...] = ()


def make_importer(name: str, options: Mapping[str, object]) -> Importer:
    """Importer of a format.

    Raises:
        UnknownNameError: If there is no such format, or it has no such option.
        InvalidConfigError: If an option is missing or out of range.
    """
    kind = cast(type[Importer], IMPORTERS.load(name))
    known = kind.options_model.model_fields
    for option in options:
        if option not in known:
            raise unknown_name(f"option of format '{name}'", option, known)
    try:
        checked = kind.options_model.model_validate(dict(options))
    except ValidationError as error:
        lines = [f"  option '{'.'.join(map(str, e['loc']))}': {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise InvalidConfigError(f"options of format '{name}' break their rules:\n" + "\n".join(lines)) from error
    return kind(checked)


def import_log(
    request: ImportRequest, *, show_progress: bool = True, report: ImportReport | None = None
) -> ImportReport:
    """Import a log; whatever cannot be read is counted in the report, and the rest is imported.

    The report is written into the dataset's folder as `import-report.json` as well.

    Args:
        request: What is imported, and where to.
        show_progress: Whether a bar is shown.
        report: Where things are counted, so that they are known where nothing could be imported too; None makes one.

    Raises:
        UnknownNameError: If the format or an option is unknown.
        InvalidConfigError: If an option is out of range.
        DatasetError: If nothing at all could be imported (the report is in the message), a path does not exist, `out`
            holds something else, the disk refuses it, or the log leaks into a split that lies beside it (the dataset is
            then there, and must not be used with that split).
    """
    importer = make_importer(request.format, request.options)
    report = ImportReport(format=request.format) if report is None else report
    report.assumptions = importer.assumptions
    if request.scores and not getattr(importer, "takes_scores", False):
        raise InvalidConfigError(
            f"scores are given, but format '{request.format}' has scores of its own; leave them out"
        )
    source = ImportSource(paths=request.paths, pool=request.pool, report=report, scores=request.scores)
    draft = _draft(request, importer)
    episodes = _sound(importer.episodes(source), Context.of(draft), report)
    shown = track(episodes, f"import {request.format}", unit="ep", is_shown=show_progress)
    traced = (TracedEpisode(episode=episode) for episode in shown)
    leaky: list[DatasetError] = []

    def beside(folder: Path) -> dict[str, bytes]:
        if sibling_splits(request.out):  # only then is the whole log read again
            try:
                for leak in check_sibling_splits(request.out, Dataset.load(folder)):
                    report.note("text that stands in a split beside it as well", source=leak.train[0], detail=str(leak))
            except DatasetError as error:
                leaky.append(error)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False)
        return {REPORT_FILE: f"{text}\n".encode()}

    try:
        write_dataset(request.out, draft, traced, overwrite=request.overwrite, beside=beside)
    except DatasetError as error:
        if report.n_episodes:
            raise
        hint = looks_like(request.paths, given=request.format)
        if not report.n_rejected:
            raise (DatasetError(f"{error}; {hint}") if hint else error) from error
        raise DatasetError(f"nothing could be imported: {error}{'; ' if hint else ''}{hint}\n{report}") from error
    if leaky:
        raise leaky[0]
    return report


def read_report(folder: Path) -> ReportJson:
    """The report of an import, from the dataset's folder.

    Raises:
        DatasetError: If it is missing or no JSON.
    """
    path = folder / REPORT_FILE
    try:
        return cast(ReportJson, read_json(path))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; import the log again") from error


def check_left_out(report: ReportJson, *, max_share: float, out: Path) -> None:
    """See that no more was left out of a dataset than its user accepts.

    Raises:
        DatasetError: If more was; the dataset stays, and the message lists what would bring most money and episodes back.
    """
    n_lost, n_found = report["n_rejected"], report["n_episodes"] + report["n_rejected"]
    if n_lost <= max_share * n_found:
        return
    lines = [
        f"{n_lost} of {n_found} episodes ({n_lost / n_found:.1%}) were left out, more than the "
        f"{max_share:.1%} of --max-left-out; the dataset is kept in {out}. What would bring them back, most money first:"
    ]
    for remedy in report["remedies"]:
        fix = f": {remedy['fix']}" if remedy["fix"] else ""
        lines.append(f"  {remedy['n']} with {remedy['usd']:.6g} USD, {remedy['reason']}{fix}")
    raise DatasetError("\n".join(lines))


def _draft(request: ImportRequest, importer: Importer) -> DatasetInfo:
    options: Frozen = importer.options_model.model_validate(dict(request.options))
    return DatasetInfo(
        dataset_id=request.dataset_id or f"{request.format}-v1",
        env=importer.env,
        pool_name=request.pool.name,
        models=request.pool.models,
        prompt_cache=request.pool.prompt_cache,
        behavior_policy="mixed",
        split="train",
        seed=0,
        n_episodes_planned=1,
        max_turns=1,
        budget_usd=1.0,
        is_simulated=importer.is_simulated,
        package_version=__version__,
        created_by={
            "command": "import",
            "format": request.format,
            "files": sorted(path.name for path in request.paths),
            "options": options.model_dump(mode="json"),
        },
        origin="imported",
        propensities=importer.propensities,
        assumptions=importer.assumptions,
    )


def _sound(episodes: Iterator[Episode], context: Context, report: ImportReport) -> Iterator[Episode]:
    """Episodes that keep every rule of a dataset and were not seen before; the others are counted."""
    seen: set[str] = set()
    for episode in episodes:
        n_turns = len(episode.turns)
        if episode.episode_id in seen:
            report.reject(
                "episode that is there twice",
                source=episode.episode_id,
                n_turns=n_turns,
                amount=Amount.of_turns(episode.turns),
            )
            continue
        log = ViolationLog()
        check_episodes([episode], context=context, files=_FILES, log=log)
        if log.n_violations:
            first = log.listed[0]
            where = "" if first.turn is None else f", turn {first.turn}"
            report.reject(
                f"{first.field} that breaks its rule",
                source=episode.episode_id + where,
                detail=f"is {first.value}, {first.rule}",
                n_turns=n_turns,
                amount=Amount.of_turns(episode.turns),
            )
            continue
        unwritable = next(_unwritable(episode), None)
        if unwritable is not None:
            where, detail = unwritable
            report.reject(
                "text or number that no file takes",
                source=episode.episode_id + where,
                detail=detail,
                n_turns=n_turns,
                amount=Amount.of_turns(episode.turns),
            )
            continue
        seen.add(episode.episode_id)
        report.n_episodes += 1
        report.n_turns += n_turns
        report.read += Amount.of_turns(episode.turns)
        yield episode


def _unwritable(episode: Episode) -> Iterator[tuple[str, str]]:
    """Where an episode holds half a surrogate pair, which JSON can escape but is no text, or an integer over 64 bits."""
    extra = json.dumps(dict(episode.extra), ensure_ascii=False)
    texts = (episode.episode_id, episode.task, episode.task_text, episode.first_observation, extra)
    if not all(map(_is_text, texts)):
        yield "", "half a surrogate pair"
    if max(episode.variation, episode.seed, episode.max_turns) > _MAX_INT64:
        yield "", "integer over 64 bits"
    for index, turn in enumerate(episode.turns):
        if not (_is_text(turn.action_text) and _is_text(turn.observation_text) and _is_text(turn.error)):
            yield f", turn {index}", "half a surrogate pair"
        usage = turn.usage
        if max(usage.n_fresh, usage.n_cached, usage.n_written, usage.n_output) > _MAX_INT64:
            yield f", turn {index}", "integer over 64 bits"


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
