"""Smaller logs out of a log: whole episodes, drawn at random, each smaller one inside every larger one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, read_info
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError


def check_percents(percents: Sequence[int]) -> None:
    """Refuse shares of a log that are none, or are given twice.

    Raises:
        InvalidConfigError: If one is not from 1 to 99, or appears twice.
    """
    if not all(1 <= percent <= 99 for percent in percents) or len(set(percents)) < len(percents):
        raise InvalidConfigError(
            f"percents of the log are {list(percents)}, must be whole numbers from 1 to 99, each once; the whole log is always "
            "among what is compared"
        )


def nested_draw(names: Sequence[str], percents: Sequence[int], *, seed: int) -> dict[int, frozenset[str]]:
    """Which episodes a log of each share holds.

    Args:
        names: Ids of all episodes; their order does not matter.
        percents: Shares, percent.
        seed: Seed of the one order in which episodes are drawn for all shares.

    Raises:
        InvalidConfigError: As `check_percents`, or if a share comes to no episode or to as many as another.

    Example:
        >>> drawn = nested_draw([f"e{i}" for i in range(8)], [25, 50], seed=0)
        >>> len(drawn[25]), len(drawn[50]), drawn[25] < drawn[50]
        (2, 4, True)
    """
    check_percents(percents)
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    sizes = {percent: round(len(order) * percent / 100) for percent in percents}
    if 0 in sizes.values() or len({*sizes.values(), len(order)}) <= len(sizes):
        raise InvalidConfigError(
            f"the log has {len(order)} completed episodes, of which "
            f"{', '.join(f'{percent}% are {size}' for percent, size in sizes.items())}; every share must hold at least one "
            "episode and another number than the next: give fewer or larger percents, or a longer log"
        )
    return {percent: frozenset(order[:size]) for percent, size in sizes.items()}


def write_subsets(dataset: Path, out: Path, percents: Sequence[int], *, seed: int) -> dict[int, Path]:
    """Write smaller logs into folders of `out`; those that are there already are kept.

    Failed episodes, from which nothing is learned, are left out.

    Args:
        dataset: Folder of the log.
        out: Gets a folder for every share, named after it.
        percents: Shares of its completed episodes, percent.
        seed: Seed of the draw.

    Returns:
        Folder of every share.

    Raises:
        InvalidConfigError: As `nested_draw`.
        DatasetError: If the log breaks a rule, or another log lies where one would be written.
    """
    info = read_info(dataset)
    drafts = {percent: _draft(info, percent, seed) for percent in percents}
    folders = {percent: out / str(percent) for percent in percents}
    missing = [percent for percent in percents if not _is_there(folders[percent], drafts[percent])]
    if not missing:
        return folders
    traced = [trace for trace in traced_episodes(dataset) if trace.episode.status == "completed"]
    drawn = nested_draw([trace.episode.episode_id for trace in traced], percents, seed=seed)
    for percent in missing:
        chosen = (trace for trace in traced if trace.episode.episode_id in drawn[percent])
        write_dataset(folders[percent], drafts[percent], chosen)
    return folders


def _draft(info: DatasetInfo, percent: int, seed: int) -> DatasetInfo:
    name, _, version = info.dataset_id.rpartition("-v")
    created_by = {
        "command": "ablate",
        "dataset": info.dataset_id,
        "dataset_fingerprint": info.fingerprint,
        "percent": percent,
        "seed": seed,
        "source": info.created_by,
    }
    changes = {"dataset_id": f"{name}-{percent}percent-s{seed}-v{version}", "created_by": created_by}
    return DatasetInfo.model_validate({**dict(info), **changes})


def _is_there(folder: Path, draft: DatasetInfo) -> bool:
    if not (folder / INFO_FILE).is_file():
        return False
    there = read_info(folder)
    if (there.dataset_id, there.created_by) != (draft.dataset_id, draft.created_by):
        raise DatasetError(
            f"{folder} holds dataset '{there.dataset_id}', must be '{draft.dataset_id}', drawn from the same log; choose "
            "another --out, or delete that folder"
        )
    return True
