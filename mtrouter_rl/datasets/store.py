"""The dataset folder: `info.json` and shards of Parquet files. A kill at any moment loses one shard at most.

A shard is three files. All are first written under temporary names, then renamed, the episodes file last: a shard
counts exactly if its episodes file is there. Everything that is loaded has been checked against every rule of
`mtrouter_rl.datasets.validation`; what is written is checked as well, so that a broken log fails when it is made.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import pyarrow as pa

from mtrouter_rl.datasets import columns, streamed
from mtrouter_rl.datasets.info import INFO_FILE, SCHEMA_VERSION, DatasetInfo, read_info, stored_version
from mtrouter_rl.datasets.parquet import RESTORE, parquet_bytes, read_table, write_synced
from mtrouter_rl.datasets.streamed import ShardSize, StreamedEpisodes
from mtrouter_rl.datasets.upgrade import upgrade_episodes, upgrade_turns
from mtrouter_rl.datasets.validation import (
    MAX_LISTED,
    Context,
    ShardFiles,
    Violation,
    ViolationLog,
    check_columns,
    check_episodes,
    check_hidden,
    check_unique_ids,
    group_turns,
)
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.files import LockedPlace
from mtrouter_rl.records import Episode, JsonValue, TracedEpisode

logger = logging.getLogger(__name__)

_SHARD_FILE = re.compile(r"(episodes|turns|hidden)-([0-9]{5,})\.parquet")
_TEMPORARY = ".tmp"
_ZSTD_LEVEL = 19


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What a filter left out.

    Attributes:
        reason: Why, in words.
        n_before: Episodes before.
        n_left_out: Episodes left out.
    """

    reason: str
    n_before: int
    n_left_out: int

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        return f"left out {self.n_left_out} of {self.n_before} episodes: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Logged episodes. Holds nothing that a router may not see.

    Attributes:
        info: What it is and how it was made.
        episodes: All episodes, completed and failed, by shard and then in the order written: in memory, or, of a log that is
            too large for it, `StreamedEpisodes`, which are read as they are gone through.
    """

    info: DatasetInfo
    episodes: Sequence[Episode]

    @classmethod
    def load(cls, folder: Path | str, *, max_listed: int = MAX_LISTED, resident_turns: int | None = None) -> "Dataset":
        """Load a dataset and check every rule.

        A shard that a killed collection left unfinished is not loaded, and said in the log.

        Args:
            folder: Where it is.
            max_listed: How many broken rules an error lists before it only counts them.
            resident_turns: A log with more turns is not held in memory; None takes `streamed.RESIDENT_TURNS`.

        Raises:
            DatasetError: If the folder is no dataset, a file is missing or unreadable, or a rule is broken; names file,
                episode, turn, field, value, rule and fix of the first violations.
        """
        folder = Path(folder)
        info = read_info(folder)
        shards = _shards(folder)
        unfinished = sorted(set().union(*shards.values()) - shards["episodes"])
        if unfinished:
            logger.warning("%s: shard(s) %s are unfinished and are not loaded", folder, unfinished)
        is_old = stored_version(folder) != SCHEMA_VERSION
        log, context = ViolationLog(max_listed=max_listed), Context.of(info)
        limit = streamed.RESIDENT_TURNS if resident_turns is None else resident_turns
        episodes, ids, sizes = list[Episode](), list[tuple[str, str]](), list[ShardSize]()
        stamps = dict[int, _Stamp]()
        for index in sorted(shards["episodes"]):
            stamps[index] = _stamp(folder, ShardFiles.of(index))
            loaded = _load_shard(folder, ShardFiles.of(index), context=context, log=log, is_old=is_old)
            sizes.append(ShardSize.of(index, loaded))
            ids += [(ShardFiles.of(index).episodes, episode.episode_id) for episode in loaded]
            is_resident = sum(size.n_turns for size in sizes) <= limit
            episodes = episodes + loaded if is_resident else []
        check_unique_ids(ids, log)
        log.raise_if_any(f"dataset '{info.dataset_id}' in {folder}")
        if sizes and not is_resident:
            return cls(info=info, episodes=_streamed(folder, sizes, stamps=stamps, context=context, is_old=is_old))
        return cls(info=info, episodes=tuple(episodes))

    @cached_property
    def completed(self) -> Sequence[Episode]:
        """Episodes that ran to their end; the failed ones are counted, and never scored or learned from."""
        if isinstance(self.episodes, StreamedEpisodes):
            return self.episodes.completed()
        return tuple(episode for episode in self.episodes if episode.status == "completed")

    @property
    def n_turns(self) -> int:
        """Turns of all episodes, failed ones included."""
        if isinstance(self.episodes, StreamedEpisodes):
            return self.episodes.n_turns
        return sum(len(episode.turns) for episode in self.episodes)

    def filter(self, keep: Callable[[Episode], bool], reason: str) -> tuple["Dataset", FilterReport]:
        """Dataset of the episodes that `keep` is true of, and a report of what was left out.

        Args:
            keep: Whether an episode stays.
            reason: Why the others are left out, in words, for the report.
        """
        kept = tuple(episode for episode in self.episodes if keep(episode))
        n_before = len(self.episodes)
        report = FilterReport(reason=reason, n_before=n_before, n_left_out=n_before - len(kept))
        return replace(self, episodes=kept), report


class DatasetWriter:
    """Writes a dataset shard by shard, and continues one that was interrupted.

    A collection asks `finished_shards` first and runs only the episodes of the others; the index of a shard must
    therefore always stand for the same episodes.
    """

    def __init__(
        self, folder: Path | str, info: DatasetInfo, *, overwrite: bool = False, compression_level: int = _ZSTD_LEVEL
    ) -> None:
        """Create the folder, or resume in it if its `info.json` is equal to `info`.

        Args:
            folder: Where the dataset is or will be.
            info: What it is.
            overwrite: Remove the dataset that is there first. Other files in the folder are left alone.
            compression_level: Of Zstandard, 1 to 22; the default is small and slow, 3 is several times faster.

        Raises:
            BusyError: If another process writes to the folder; this one holds it as long as the writer lives.
            DatasetError: If the folder holds another dataset or shards of unknown origin, or cannot be written.
        """
        self.folder = Path(folder)
        self.info = info
        self._compression_level = compression_level
        self._lock = LockedPlace(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self._clear()
            self._claim()
            self._remove_strays()
        except OSError as error:
            raise _cannot_write(self.folder, error) from error

    def finished_shards(self) -> set[int]:
        """Indices of the shards that are complete on disk."""
        return _shards(self.folder)["episodes"]

    def write_shard(self, index: int, traced: Sequence[TracedEpisode]) -> None:
        """Check and write one shard; it counts as soon as this returns, and not before its last file is in place.

        Args:
            index: Index of the shard, >= 0.
            traced: Its episodes, in order; `hidden` holds one entry a turn, or nothing.

        Raises:
            InvalidConfigError: If the index is negative.
            DatasetError: If the shard is already there, an episode breaks a rule, or the disk refuses it (full disk);
                shards that were written before stay as they are.
        """
        if index < 0:
            raise InvalidConfigError(f"shard index is {index}, must be >= 0")
        path = self.folder / ShardFiles.of(index).episodes
        if path.is_file():  # asked of the one file: a listing would make many shards quadratic
            raise DatasetError(f"{path} is already written; skip the shards of finished_shards()")
        tables = self._checked_tables(index, traced)
        temporary = {self.folder / f"{name}{_TEMPORARY}": self.folder / name for name in tables}
        try:
            for path, table in zip(temporary, tables.values(), strict=True):
                write_synced(path, parquet_bytes(table, self._compression_level))
            for path, final in temporary.items():
                path.replace(final)
        except OSError as error:
            for path in temporary:
                path.unlink(missing_ok=True)
            raise _cannot_write(self.folder / ShardFiles.of(index).episodes, error) from error

    def _checked_tables(self, index: int, traced: Sequence[TracedEpisode]) -> dict[str, pa.Table]:
        files, log = ShardFiles.of(index), ViolationLog()
        episodes = [trace.episode for trace in traced]
        tables = {
            files.turns: columns.turns_to_table(episodes),
            files.hidden: columns.hidden_to_table(traced),
            files.episodes: columns.episodes_to_table(episodes, n_hidden=sum(len(trace.hidden) for trace in traced)),
        }
        turn_schema = columns.turn_schema(has_parents=columns.name_parents(episodes))
        turns_ok = check_columns(tables[files.turns], turn_schema, file=files.turns, log=log)
        if check_columns(tables[files.episodes], columns.EPISODE_SCHEMA, file=files.episodes, log=log) and turns_ok:
            check_episodes(episodes, context=Context.of(self.info), files=files, log=log)
            check_unique_ids([(files.episodes, episode.episode_id) for episode in episodes], log)
            _check_hidden_lengths(traced, files.hidden, log)
        log.raise_if_any(f"shard {index} of dataset '{self.info.dataset_id}' is not written: it")
        return tables

    def _clear(self) -> None:
        # Episodes first, info.json last: whenever this is killed, what is left is a smaller dataset or an empty one.
        for kind, indices in _shards(self.folder).items():
            for index in indices:
                (self.folder / _file_name(kind, index)).unlink()
        (self.folder / INFO_FILE).unlink(missing_ok=True)

    def _claim(self) -> None:
        path = self.folder / INFO_FILE
        if path.exists():
            self._check_same(read_info(self.folder))
            if stored_version(self.folder) != SCHEMA_VERSION:
                raise DatasetError(
                    f"{self.folder} is of schema version {stored_version(self.folder)}, which is read but not written; "
                    "upgrade it first with mtrouter-rl validate --upgrade, or give another --out"
                )
            return
        if any(_shards(self.folder).values()):
            raise DatasetError(
                f"{self.folder} holds shards but no {INFO_FILE}, so nobody knows what they are; "
                "give another --out, or delete the folder"
            )
        temporary = path.with_name(INFO_FILE + _TEMPORARY)
        try:
            write_synced(temporary, self.info.to_json().encode())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _check_same(self, there: DatasetInfo) -> None:
        names = DatasetInfo.model_fields
        differing = [name for name in names if getattr(there, name) != getattr(self.info, name)]
        if differing:
            details = "\n".join(f"  {name}: {_both(there, self.info, name)}" for name in differing)
            raise DatasetError(
                f"{self.folder} holds another dataset, '{there.dataset_id}'; differing field(s): "
                f"{', '.join(differing)}\n{details}\n  give another --out, or delete the folder"
            )

    def _remove_strays(self) -> None:
        shards = _shards(self.folder)
        for kind in ("turns", "hidden"):
            for index in shards[kind] - shards["episodes"]:
                (self.folder / _file_name(kind, index)).unlink()
        for path in self.folder.glob(f"*{_TEMPORARY}"):
            name = path.name.removesuffix(_TEMPORARY)
            if name == INFO_FILE or _SHARD_FILE.fullmatch(name):
                path.unlink()


Hidden = dict[str, tuple[Mapping[str, JsonValue], ...]]


def load_hidden(folder: Path | str) -> Hidden:
    """What only a simulator knows of every turn, by episode id. For diagnosis; no router may be trained on it.

    Returns:
        Per episode one mapping a turn, length T; episodes without hidden information are left out.

    Raises:
        DatasetError: If the folder is no dataset, or a hidden file is missing, unreadable or breaks a rule: rows that are
            missing, out of order, or of another shard's episodes among them.
    """
    hidden: Hidden = {}
    for part in iterate_hidden(folder):
        hidden |= part
    return hidden


def iterate_hidden(folder: Path | str) -> Iterator[Hidden]:
    """What `load_hidden` gives, a shard at a time. Broken rules are told after the last one. Raises as `load_hidden`."""
    folder = Path(folder)
    info, log = read_info(folder), ViolationLog()
    for index in sorted(_shards(folder)["episodes"]):
        files = ShardFiles.of(index)
        file = files.hidden
        table = read_table(folder / file)
        if not check_columns(table, columns.HIDDEN_SCHEMA, file=file, log=log):
            continue
        n_turns, n_hidden = _expected_hidden(folder, files)
        rows = zip(table["episode_id"].to_pylist(), table["turn"].to_pylist(), strict=True)
        check_hidden(list(rows), n_turns=n_turns, n_rows=n_hidden, files=files, log=log)
        try:
            found = columns.table_to_hidden(table)
        except ValueError as error:
            raise DatasetError(
                f"{folder / file}: column 'hidden' holds text that is not JSON: {error}; {RESTORE}"
            ) from error
        yield dict(found)
    log.raise_if_any(f"hidden information of dataset '{info.dataset_id}' in {folder}")


def _expected_hidden(folder: Path, files: ShardFiles) -> tuple[dict[str, int], int | None]:
    """Turns of every episode of a shard, and how many hidden rows its episodes file tells of."""
    episodes, turns = read_table(folder / files.episodes), read_table(folder / files.turns)
    if "episode_id" not in episodes.column_names or "episode_id" not in turns.column_names:
        raise DatasetError(f"{folder / files.episodes} or {files.turns} lacks column 'episode_id'; {RESTORE}")
    n_turns = dict.fromkeys(episodes["episode_id"].to_pylist(), 0) | Counter(turns["episode_id"].to_pylist())
    told = (episodes.schema.metadata or {}).get(columns.N_HIDDEN_KEY)
    return n_turns, int(told) if told is not None and told.isdigit() else None


_Stamp = tuple[tuple[int, int, int, int], ...]


def _stamp(folder: Path, files: ShardFiles) -> _Stamp:
    """What changes when a file of a shard is written to or exchanged."""
    found = [(folder / name).stat() for name in (files.episodes, files.turns) if (folder / name).exists()]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found)


def _streamed(
    folder: Path, sizes: Sequence[ShardSize], *, stamps: Mapping[int, _Stamp], context: Context, is_old: bool
) -> StreamedEpisodes:
    """The episodes of shards that were checked. One whose files were written to since then is checked again."""

    def read(index: int) -> list[Episode]:
        log, files = ViolationLog(), ShardFiles.of(index)
        episodes = _load_shard(folder, files, context=context, log=log, is_old=is_old, checked=stamps[index])
        log.raise_if_any(f"{folder / files.episodes}, which was sound a moment ago,")
        return episodes

    files = [
        folder / name for size in sizes for name in vars(ShardFiles.of(size.index)).values() if "hidden" not in name
    ]
    return StreamedEpisodes(read, sizes, files=files)


def _load_shard(
    folder: Path,
    files: ShardFiles,
    *,
    context: Context,
    log: ViolationLog,
    is_old: bool = False,
    checked: _Stamp | None = None,
) -> list[Episode]:
    """Episodes of a shard. The rules about their values are not gone through again if it has the stamp of when they were."""
    before = _stamp(folder, files)
    episode_table, turn_table = read_table(folder / files.episodes), read_table(folder / files.turns)
    if is_old:
        episode_table, turn_table = upgrade_episodes(episode_table), upgrade_turns(turn_table)
    schema = columns.turn_schema(has_parents=columns.PARENTS_COLUMN.name in turn_table.column_names)
    turns_ok = check_columns(turn_table, schema, file=files.turns, log=log)
    if not check_columns(episode_table, columns.EPISODE_SCHEMA, file=files.episodes, log=log) or not turns_ok:
        return []
    _check_turn_count(episode_table, turn_table, files=files, log=log)
    fields = columns.table_to_episode_fields(episode_table)
    ids = [cast(str, row["episode_id"]) for row in fields]
    grouped = group_turns(columns.table_to_turns(turn_table), episode_ids=ids, files=files, log=log)
    episodes = [
        Episode(turns=tuple(grouped[episode_id]), **row)  # type: ignore[arg-type]  # types checked by check_columns
        for episode_id, row in zip(ids, fields, strict=True)
    ]
    if not checked == before == _stamp(folder, files):
        check_episodes(episodes, context=context, files=files, log=log)
    return episodes


def _check_turn_count(episode_table: pa.Table, turn_table: pa.Table, *, files: ShardFiles, log: ViolationLog) -> None:
    # A file from elsewhere may lack the count; ours have it, and it tells a turns file that lost whole episodes.
    expected = (episode_table.schema.metadata or {}).get(columns.N_TURNS_KEY)
    if expected is not None and expected != str(turn_table.num_rows).encode():
        log.add(
            Violation(
                file=files.turns,
                field="number of rows",
                value=str(turn_table.num_rows),
                rule=f"must be {expected.decode(errors='replace')}, as {files.episodes} says",
                fix=RESTORE,
            )
        )


def _check_hidden_lengths(traced: Sequence[TracedEpisode], file: str, log: ViolationLog) -> None:
    for trace in traced:
        if len(trace.hidden) not in {0, len(trace.episode.turns)}:
            log.add(
                Violation(
                    file=file,
                    episode=trace.episode.episode_id,
                    field="number of hidden entries",
                    value=str(len(trace.hidden)),
                    rule=f"must be 0 or the number of turns, {len(trace.episode.turns)}",
                    fix="give one entry a turn, or none",
                )
            )


def _file_name(kind: str, index: int) -> str:
    name: str = getattr(ShardFiles.of(index), kind)
    return name


def _shards(folder: Path) -> dict[str, set[int]]:
    """Indices of the files of each kind that are in the folder; the episodes come first."""
    found: dict[str, set[int]] = {"episodes": set(), "turns": set(), "hidden": set()}
    for path in folder.iterdir():
        match = _SHARD_FILE.fullmatch(path.name)
        if match:
            found[match[1]].add(int(match[2]))
    return found


def _both(there: DatasetInfo, here: DatasetInfo, name: str) -> str:
    return f"{str(getattr(there, name))[:200]} in the folder, {str(getattr(here, name))[:200]} now"


def _cannot_write(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be written: {error}; free disk space or correct the permissions, then start the same "
        "command again (a collection keeps the shards that are already written; any other dataset is made anew)"
    )
