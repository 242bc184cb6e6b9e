"""Works out the numbers of result files again from the episodes that are kept beside them, and says what differs."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl import studies
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.kept_episodes import EPISODES_FILE, Group, KeptEpisodes
from mtrouter_rl.evaluation.metrics import EpisodeRecord, metrics_of_records
from mtrouter_rl.evaluation.recompute import FileKind, Recomputed, check_only_intervals, compare
from mtrouter_rl.evaluation.recompute_results import RESULTS
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.files import read_json
from mtrouter_rl.workflows import EPISODES_FOLDER, RESULTS_FILE, episodes_of_run
from mtrouter_rl.workflows.run_folder import model_names_of_run

_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class RecomputeRequest:
    """What `mtrouter-rl lab recompute` is asked for.

    Attributes:
        files: Files of results.
        episodes: Their episodes: a file, or the folder of a run; None looks beside each file.
        keep: Where the episodes are written that were read from the folder of a run; None writes them nowhere.
        is_written: Whether files whose intervals differ are written anew.
    """

    files: tuple[Path, ...]
    episodes: Path | None = None
    keep: Path | None = None
    is_written: bool = False


def recompute(request: RecomputeRequest) -> tuple[Recomputed, ...]:
    """Compare every file with its episodes.

    Raises:
        ResultsError: If a file or its episodes cannot be read, or a file is to be written anew and differs in more than
            intervals.
    """
    kinds = (RESULTS, *_kinds_of_studies())
    return tuple(_recompute(file, _kind(file, kinds), request) for file in request.files)


def report(found: Recomputed) -> str:
    """What comes out, for readers."""
    lines = [
        f"{found.file}: {found.verdict}; {found.n_numbers} numbers, from {found.n_episodes} episodes in {found.episodes}"
    ]
    shown = [one for one in found.changes if not one.is_rounding]
    lines += [
        f"  {one.where}: {one.was} in the file, {one.found} recomputed{_by(one.difference)}"
        for one in shown[:_MOST_SHOWN]
    ]
    if len(shown) > _MOST_SHOWN:
        lines.append(f"  and {len(shown) - _MOST_SHOWN} more; --json lists all")
    n_rounded = len(found.changes) - len(shown)
    if n_rounded:
        lines.append(f"  {n_rounded} numbers differ by rounding alone, as they do between processors")
    lines += [f"  not recomputed: {reason}" for reason in found.left_out]
    return "\n".join(lines)


def _by(difference: float | None) -> str:
    return "" if difference is None else f" (by {difference:.3g})"


def _recompute(file: Path, kind: FileKind, request: RecomputeRequest) -> Recomputed:
    source = _source(file, request.episodes)
    kept = KeptEpisodes.load(source) if source.is_file() else _of_run(source, kind.reward(file))
    if request.keep is not None and not source.is_file():
        kept.save(request.keep)
    renewal = kind.renew(file, kept)
    found = compare(renewal, file=file, episodes=source, n_episodes=kept.n_episodes)
    if request.is_written and found.changes:
        check_only_intervals(found)
        renewal.save(file)
    return found


def _kinds_of_studies() -> Iterator[FileKind]:
    """Every kind of file of every `studies/NAME/recompute.py`: a new study adds a file and changes no other."""
    for folder in pkgutil.iter_modules(studies.__path__):
        name = f"{studies.__name__}.{folder.name}.recompute"
        if folder.ispkg and importlib.util.find_spec(name) is not None:
            yield from (one for one in vars(importlib.import_module(name)).values() if isinstance(one, FileKind))


def _kind(file: Path, kinds: Sequence[FileKind]) -> FileKind:
    try:
        data = read_json(file)
    except FileNotFoundError as error:
        raise ResultsError(f"{file}: no such file; name a {' or '.join(kind.name for kind in kinds)}") from error
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file} is not valid JSON: {error}; restore the file") from error
    fields = set(data) if isinstance(data, dict) else set()
    for kind in kinds:
        if kind.fields <= fields:
            return kind
    raise ResultsError(
        f"{file}: no episodes tell its numbers: it is none of {', '.join(kind.name for kind in kinds)}; name one of these"
    )


def _source(file: Path, given: Path | None) -> Path:
    """The file of the episodes, or the folder of the run that has them."""
    if given is not None:
        if not given.exists():
            raise ResultsError(f"--episodes: {given} does not exist; name a {EPISODES_FILE} or the folder of a run")
        return given
    beside = episodes_beside(file)
    if beside.is_file():
        return beside
    if (file.parent / EPISODES_FOLDER).is_dir():
        return file.parent
    raise ResultsError(
        f"{file}: its episodes were not kept: neither {beside.name} nor a folder '{EPISODES_FOLDER}' is beside it; name them "
        "with --episodes"
    )


def episodes_beside(file: Path) -> Path:
    """Where the episodes of a file are: of `quick-results.json` in `quick-episodes.csv.gz`.

    Example:
        >>> episodes_beside(Path("docs/quick-results.json")).name, episodes_beside(Path("runs/results.json")).name
        ('quick-episodes.csv.gz', 'episodes.csv.gz')
    """
    before, dash, _ = file.stem.rpartition("-")
    return file.with_name(f"{before}{dash}{EPISODES_FILE}")


def _of_run(folder: Path, reward: RewardCard) -> KeptEpisodes:
    """Episodes that a run kept whole."""
    groups = {
        (split, policy): tuple(EpisodeRecord.of(episode, reward) for episode in episodes)
        for split, policies in episodes_of_run(folder).items()
        for policy, episodes in policies.items()
    }
    if not groups:
        raise ResultsError(f"{folder / EPISODES_FOLDER}: has no episodes; name another folder with --episodes")
    kept = KeptEpisodes(model_names=model_names_of_run(folder), groups=groups)
    path = folder / RESULTS_FILE
    return _with_shared(kept, Results.load(path).rows) if path.is_file() else kept


def _with_shared(kept: KeptEpisodes, rows: Sequence[ResultRow]) -> KeptEpisodes:
    """With the policies that call a single model that another calls: a run keeps the episodes of one for all of them."""
    groups = dict(kept.groups)
    for row in rows:
        group: Group = (row.split, row.policy)
        if group not in kept.groups:
            same = (records for (split, _), records in kept.groups.items() if split == row.split)
            owner = next((records for records in same if _is_of(row, records, kept.model_names)), None)
            groups |= {} if owner is None else {group: owner}
    return KeptEpisodes(model_names=kept.model_names, groups=groups)


def _is_of(row: ResultRow, records: Sequence[EpisodeRecord], model_names: Sequence[str]) -> bool:
    """Whether a row has the numbers of episodes that call one model throughout."""
    models = {name for one in records if one.metrics is not None for name in one.metrics.model_turns}
    if len(models) != 1:
        return False
    metrics = metrics_of_records(records, model_names=model_names, policy=row.policy)
    numbers = (len(metrics.episodes), metrics.n_failed, metrics.mean("utility"), metrics.mean("cost_usd"))
    return numbers == (row.n_episodes, row.n_failed, row.utility_mean, row.cost_usd_mean)
