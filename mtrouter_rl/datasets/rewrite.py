"""Writes a whole dataset from a stream of episodes: what importers, `split`, `reprice` and `validate --upgrade` end in.

Nothing is seen of the dataset before it is whole: it is written beside its place and moved there at the end.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq

from mtrouter_rl import files
from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, read_info
from mtrouter_rl.datasets.store import Dataset, DatasetWriter, load_hidden
from mtrouter_rl.datasets.validation import ShardFiles
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode

EPISODES_PER_SHARD = 200
EPISODES_PER_COLLECTED_SHARD = 50
FAST_COMPRESSION = 3
MIXED_POLICY = "mixed"
"""Behaviour policy of a dataset whose episodes were logged by several; every episode names its own."""


def write_dataset(
    folder: Path | str,
    draft: DatasetInfo,
    traced: Iterable[TracedEpisode],
    *,
    overwrite: bool = False,
    compression_level: int = FAST_COMPRESSION,
    episodes_per_shard: int = EPISODES_PER_SHARD,
    keeps_info: bool = False,
    beside: Callable[[Path], Mapping[str, bytes]] | None = None,
) -> DatasetInfo:
    """Write a dataset; memory does not grow with the number of episodes.

    Args:
        folder: Where it goes.
        draft: What it is. The number of episodes, the behaviour policy, `max_turns` and `budget_usd` (the largest of any
            episode) are filled in from the episodes.
        traced: The episodes, with hidden information if there is any.
        overwrite: Replace the dataset that is there, once the new one is whole.
        compression_level: See `DatasetWriter`.
        episodes_per_shard: How many episodes a shard holds.
        keeps_info: Write the draft as it is, nothing filled in; for a dataset that only changes its form.
        beside: Gives, of the folder in which the dataset is written, other files that are to lie in it: name -> contents.

    Returns:
        The info that was written.

    Raises:
        BusyError: If another process writes to the same folder.
        DatasetError: If the folder is not empty and not to be overwritten, there is no episode, an episode breaks a
            rule, or the disk refuses it. What was in the folder before is then still there.
    """
    with _written_beside(Path(folder), overwrite=overwrite) as partial:
        writer = DatasetWriter(partial, draft, compression_level=compression_level)
        changes = _write_shards(writer, traced, episodes_per_shard)
        info = draft if keeps_info else DatasetInfo.model_validate(draft.model_dump() | changes)
        files.write_atomically(partial / INFO_FILE, info.to_json().encode())
        _check_written(partial, info, cast(int, changes["n_episodes_planned"]))
        for name, data in ({} if beside is None else beside(partial)).items():
            files.write_atomically(partial / name, data)
    return info


def _check_written(folder: Path, info: DatasetInfo, n_episodes: int) -> None:
    """See, before success is told, that what lies on the disk is what was meant to be written."""
    sizes = dict(_shard_sizes(folder))
    is_whole = all((folder / name).is_file() for index in sizes for name in vars(ShardFiles.of(index)).values())
    if read_info(folder) != info or sum(sizes.values()) != n_episodes or not is_whole:
        raise DatasetError(
            f"{folder} holds {sum(sizes.values())} episodes in {len(sizes)} shards and must hold {n_episodes}: something else "
            "changed it while it was written; run the command again, and let nothing else write there"
        )


@contextmanager
def _written_beside(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Folder to write into; it takes its place once all is written, and is gone after an error."""
    with whole(folder, overwrite=overwrite) as partial:
        if folder.exists() and not folder.is_dir():
            raise DatasetError(f"{folder} is a file, and a dataset is a folder; give another --out")
        if folder.exists() and any(folder.iterdir()) and not (overwrite and (folder / INFO_FILE).is_file()):
            raise DatasetError(
                f"{folder} is not empty; give another --out, or --overwrite to replace a dataset that lies there"
            )
        yield partial


@contextmanager
def whole(out: Path, *, overwrite: bool = False, replaces: tuple[str, ...] | None = None) -> Iterator[Path]:
    """A place beside `out` to write a dataset or an export to, as `mtrouter_rl.files.whole`.

    Raises:
        BusyError: If another process writes to the same place.
        DatasetError: If the disk refuses it, or something has come into the folder meanwhile.
    """
    try:
        with files.whole(out, overwrite=overwrite, replaces=replaces) as partial:
            yield partial
    except OSError as error:
        raise DatasetError(
            f"{out} cannot be written: {error}; free disk space or correct the permissions, and run the command again"
        ) from error


def _write_shards(writer: DatasetWriter, traced: Iterable[TracedEpisode], episodes_per_shard: int) -> dict[str, object]:
    """Write all episodes; returns the fields of the info that follow from them."""
    seen: set[str] = set()
    policies: set[str] = set()
    max_turns, budget_usd = 0, 0.0
    stream = iter(traced)
    for index, shard in enumerate(iter(lambda: list(islice(stream, episodes_per_shard)), [])):
        for episode in (trace.episode for trace in shard):
            if episode.episode_id in seen:
                raise DatasetError(f"episode '{episode.episode_id}' appears twice; give every episode an id of its own")
            seen.add(episode.episode_id)
            policies.add(episode.behavior_policy)
            max_turns = max(max_turns, episode.max_turns)
            budget_usd = max(budget_usd, episode.budget_usd)
        writer.write_shard(index, shard)
    if not seen:
        raise DatasetError(f"dataset '{writer.info.dataset_id}' has no episode, so there is nothing to write")
    return {
        "n_episodes_planned": len(seen),
        "behavior_policy": policies.pop() if len(policies) == 1 else MIXED_POLICY,
        "max_turns": max_turns,
        "budget_usd": budget_usd,
    }


def traced_episodes(folder: Path | str) -> Iterator[TracedEpisode]:
    """Episodes of a dataset together with what only a simulator knows of them, in the order written.

    Raises:
        DatasetError: As `Dataset.load` and `load_hidden`.
    """
    hidden = load_hidden(folder)
    for episode in Dataset.load(folder).episodes:
        yield TracedEpisode(episode=episode, hidden=hidden.get(episode.episode_id, ()))


def upgrade_dataset(folder: Path | str, out: Path | str) -> DatasetInfo:
    """Write a dataset of an older schema version anew in the present one; every value stays as it is.

    Every shard keeps its index and its episodes, so that an unfinished collection can be resumed in `out`.

    Raises:
        DatasetError: If the dataset breaks a rule, or `out` is not empty or cannot be written.
    """
    folder = Path(folder)
    info, traced = read_info(folder), traced_episodes(folder)
    with _written_beside(Path(out)) as partial:
        writer = DatasetWriter(partial, info)
        for index, n_episodes in _shard_sizes(folder):
            writer.write_shard(index, list(islice(traced, n_episodes)))
    return info


def _shard_sizes(folder: Path) -> list[tuple[int, int]]:
    """Index and number of episodes of every finished shard, in order."""
    prefix, suffix = ShardFiles.of(0).episodes.split("00000")
    paths = {int(path.name[len(prefix) : -len(suffix)]): path for path in folder.glob(f"{prefix}*{suffix}")}
    return [(index, pq.read_metadata(paths[index]).num_rows) for index in sorted(paths)]
