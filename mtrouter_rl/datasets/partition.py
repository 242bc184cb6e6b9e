"""Splits a log that has no splits of its own: by task, by variation, in time, or by a column that was logged besides.

A group (a task, a variation, a value of the column, a moment) is never torn apart. Which group goes where depends on the
seed and on the set of groups alone, not on the order of the episodes. Whatever is written has been checked for leaks.
"""

import json
import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from mtrouter_rl import __version__
from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, read_info
from mtrouter_rl.datasets.leaks import check_leaks, telling_tasks, text_key
from mtrouter_rl.datasets.rewrite import traced_episodes, whole, write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, unknown_name
from mtrouter_rl.files import locked
from mtrouter_rl.records import SPLITS, Episode, JsonValue, Split, TracedEpisode

_PARTS: tuple[Split, ...] = ("train", "validation", "test")
_FORMS = ("task", "variation", "time:NAME", "column:NAME")
_SHARE_TOLERANCE = 1e-9

Group = Hashable
Strata = list[list[Group]]


@dataclass(frozen=True, kw_only=True)
class PartitionRequest:
    """What `mtrouter-rl split` is asked for.

    Attributes:
        dataset: Folder of the log.
        by: "task", "variation", "time:NAME" or "column:NAME"; NAME is a field of `Episode.extra`.
        out: Folder that gets a folder for every split.
        shares: Of the groups, for train, validation and test (in time: of the episodes); they sum to 1.
        seed: Seed of the draw, >= 0; a split in time draws nothing.
        holdout: Tasks that go to the split "ood", whole.
        allows_leaks: Whether splits that leak are written all the same; what leaks is then an assumption of theirs.
        overwrite: Whether splits that lie there are replaced.
    """

    dataset: Path
    by: str
    out: Path
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0
    holdout: tuple[str, ...] = ()
    allows_leaks: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class PartitionReport:
    """What went where.

    Attributes:
        n_groups: Groups by split.
        n_episodes: Episodes by split.
        notes: What the user should know, a sentence each.
    """

    n_groups: Mapping[Split, int]
    n_episodes: Mapping[Split, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Readable text for a terminal."""
        n_all = sum(self.n_episodes.values())
        lines = [
            f"{split}: {n} episodes ({100 * n / n_all:.1f}%) in {self.n_groups[split]} groups"
            for split, n in self.n_episodes.items()
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def partition(request: PartitionRequest) -> PartitionReport:
    """Write every split of a log as a dataset of its own, into `out/train`, `out/validation`, `out/test` and `out/ood`.

    Raises:
        BusyError: If another process writes to `out`.
        InvalidConfigError: If `by`, a share or the seed breaks its rule.
        UnknownNameError: If a held-out task or the column is unknown.
        DatasetError: If the log breaks a rule, episodes lack the column, a split would be empty or would leak, or a split
            lies there already.
    """
    _check_shares(request.shares, request.seed)
    with locked(request.out):
        return _partition(request)


def _partition(request: PartitionRequest) -> PartitionReport:
    _check_free(request)
    traced = tuple(traced_episodes(request.dataset))
    info, episodes = read_info(request.dataset), [trace.episode for trace in traced]
    groups, notes = group_episodes(episodes, request.by)
    splits = assign_splits(episodes, groups, request=request)
    parts = _parts(traced, splits)
    leaks = _check_parts(request, info, parts)
    # All parts take their places at once: half a split beside half of an older one would leak.
    with whole(request.out, overwrite=True, replaces=SPLITS) as partial:
        partial.mkdir()
        for split, part in parts.items():
            write_dataset(partial / split, _info(info, request, split, leaks), part)
    used = set(zip(splits, groups, strict=True))
    return PartitionReport(
        n_groups={split: sum(where == split for where, _ in used) for split in parts},
        n_episodes={split: len(part) for split, part in parts.items()},
        notes=(*notes, *leaks, *_origin_note(info)),
    )


def assign_splits(
    episodes: Sequence[Episode], groups: Sequence[Group], *, request: PartitionRequest
) -> tuple[Split, ...]:
    """Split of every episode.

    Args:
        episodes: All episodes of the log.
        groups: Group of every episode, of the same length.
        request: What was asked for.

    Raises:
        UnknownNameError: If a held-out task is not in the log.
        DatasetError: If a split whose share is above 0 would be empty, or a group would be torn apart by a held-out task.
    """
    tasks = {episode.task for episode in episodes}
    for task in request.holdout:
        if task not in tasks:
            raise unknown_name("task to hold out", task, tasks)
    pairs = list(zip(groups, episodes, strict=True))
    rest = [(group, episode) for group, episode in pairs if episode.task not in request.holdout]
    if request.by.startswith("time:"):  # a moment is no instance: other tasks of the same moment tell nothing of it
        splits = _in_time([group for group, _ in rest], request.shares)
    else:
        _check_torn({group for group, one in pairs if one.task in request.holdout} & {group for group, _ in rest})
        splits = _drawn(_strata(request, rest), request.shares, request.seed)
    _check_filled(splits, request.shares)
    return tuple("ood" if episode.task in request.holdout else splits[group] for group, episode in pairs)


def _check_shares(shares: Sequence[float], seed: int) -> None:
    is_sound = len(shares) == len(_PARTS) and all(0 <= share <= 1 for share in shares)
    if not is_sound or abs(math.fsum(shares) - 1) > _SHARE_TOLERANCE:
        raise InvalidConfigError(
            f"shares are {', '.join(map(str, shares))} (sum {math.fsum(shares):g}), must be three numbers from 0 to 1 "
            f"for {', '.join(_PARTS)} that sum to 1"
        )
    if seed < 0:
        raise InvalidConfigError(f"seed is {seed}, must be >= 0")


def _check_free(request: PartitionRequest) -> None:
    # A split that is left from another draw would leak into the new ones, so even --overwrite takes no chance.
    wanted = {split for split, share in zip(_PARTS, request.shares, strict=True) if share > 0}
    wanted |= {"ood"} if request.holdout else set()
    for split in SPLITS:
        folder = request.out / split
        if folder.exists() and not (request.overwrite and split in wanted and (folder / INFO_FILE).is_file()):
            raise DatasetError(f"{folder} is there already; give another --out, delete it, or --overwrite its dataset")


def group_episodes(episodes: Sequence[Episode], by: str) -> tuple[list[Group], list[str]]:
    """Group of every episode, and what was noticed on the way, a sentence each.

    Raises:
        InvalidConfigError: If `by` needs a column and names none.
        UnknownNameError: If there is no such way to split, or no such column.
        DatasetError: If an episode has no value in the column, or none that says when it was.
    """
    kind, _, name = by.partition(":")
    if by == "task":
        return [episode.task for episode in episodes], []
    if by == "variation":
        return _alike_variations(episodes)
    if kind not in {"column", "time"}:
        raise unknown_name("way to split", by, _FORMS)
    if not name:
        columns = ", ".join(sorted(_extra_names(episodes))) or "(none)"
        raise InvalidConfigError(f"--by {kind} needs a column: {kind}:NAME; columns of this log: {columns}")
    values = _column(episodes, name)
    if kind == "time":
        return list(_moments(values, episodes, name)), []
    return [json.dumps(value, sort_keys=True) for value in values], []


def _alike_variations(episodes: Sequence[Episode]) -> tuple[list[Group], list[str]]:
    """(task, variation) of every episode; variations of a task that nobody could tell apart are one group."""
    telling = telling_tasks(episodes)
    root = {(one.task, one.variation): (one.task, one.variation) for one in episodes}
    n_variations = len(root)

    def find(key: tuple[str, int]) -> tuple[str, int]:
        while root[key] != key:
            key = root[key]
        return key

    first: dict[tuple[str, str, str], tuple[str, int]] = {}
    for episode in episodes:
        text, observation = text_key(episode)
        if observation or (text and episode.task in telling):
            own = find((episode.task, episode.variation))
            twin = find(first.setdefault((episode.task, text, observation), own))
            root[max(own, twin)] = min(own, twin)
    groups: list[Group] = [find((one.task, one.variation)) for one in episodes]
    n_joined = n_variations - len(set(groups))
    note = f"{n_joined} variation(s) begin with the same texts as another of their task and are kept together with it"
    return groups, [note] if n_joined else []


def _extra_names(episodes: Sequence[Episode]) -> set[str]:
    return {name for episode in episodes for name in episode.extra}


def _column(episodes: Sequence[Episode], name: str) -> list[JsonValue]:
    known = _extra_names(episodes)
    if name not in known:
        raise unknown_name("column of the episodes' extra fields", name, known)
    missing = [episode.episode_id for episode in episodes if episode.extra.get(name) is None]
    if missing:
        raise DatasetError(
            f"column '{name}' has no value in {len(missing)} of {len(episodes)} episodes, such as '{missing[0]}'; an "
            "episode without one belongs to no split: log it, or split by another column"
        )
    return [episode.extra[name] for episode in episodes]


def _moments(values: Sequence[JsonValue], episodes: Sequence[Episode], name: str) -> Sequence[float]:
    moments = [_moment(value) for value in values]
    wrong = [i for i, moment in enumerate(moments) if moment is None]
    kinds = {moment[0] for moment in moments if moment is not None}
    if wrong or len(kinds) != 1:
        i = wrong[0] if wrong else next(i for i, moment in enumerate(moments) if moment and moment[0] != min(kinds))
        raise DatasetError(
            f"column '{name}' is {values[i]!r} in episode '{episodes[i].episode_id}', must be a finite number in every "
            "episode, or an ISO 8601 date and time in every episode, all with a time zone or all without"
        )
    return [moment[1] for moment in moments if moment is not None]


def _moment(value: JsonValue) -> tuple[str, float] | None:
    """Kind of a moment and its place in time; None if it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ("number", float(value)) if abs(value) <= sys.float_info.max else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return "local", (moment - datetime(1970, 1, 1)).total_seconds()
    return "zoned", moment.timestamp()


def _strata(request: PartitionRequest, rest: Sequence[tuple[Group, Episode]]) -> Strata:
    """Groups that are shared out together, each sorted: those of a task, or all of them."""
    strata: dict[str, set[Group]] = {}
    for group, episode in rest:
        strata.setdefault(episode.task if request.by == "variation" else "", set()).add(group)
    return [sorted(strata[name], key=repr) for name in sorted(strata)]


def _drawn(strata: Strata, shares: Sequence[float], seed: int) -> dict[Group, Split]:
    """Share the groups out, stratum by stratum in random order: each goes to the split that lags most behind its share.

    So every stratum is shared out within about one group of its shares, and a remainder of one is made good in the next.
    """
    rng = np.random.default_rng(seed)
    order = [stratum[i] for stratum in strata for i in rng.permutation(len(stratum))]
    counts = [0] * len(_PARTS)
    splits: dict[Group, Split] = {}
    for n_before, group in enumerate(order):
        lags = [share * (n_before + 1) - count for share, count in zip(shares, counts, strict=True)]
        # Rounded, so that equal lags are equal; the first of them wins.
        part = max(range(len(_PARTS)), key=lambda i: (shares[i] > 0, round(lags[i], 9)))
        counts[part] += 1
        splits[group] = _PARTS[part]
    _fill_empty(splits, counts, shares)
    return splits


def _fill_empty(splits: dict[Group, Split], counts: list[int], shares: Sequence[float]) -> None:
    """Give an empty split a group of the largest one, as long as that keeps one itself: few groups round badly."""
    for part, share in enumerate(shares):
        largest = int(np.argmax(counts))
        if share > 0 and counts[part] == 0 and counts[largest] > 1:
            group = [group for group, split in splits.items() if split == _PARTS[largest]][-1]
            splits[group] = _PARTS[part]
            counts[part], counts[largest] = 1, counts[largest] - 1


def _in_time(moments: Sequence[Group], shares: Sequence[float]) -> dict[Group, Split]:
    """Earliest episodes to train, latest to test; a moment goes where its middle episode falls."""
    values, counts = np.unique(np.array(moments, dtype=np.float64), return_counts=True)
    middles = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    parts = np.searchsorted(np.cumsum(shares)[:-1], middles, side="right")
    return {float(value): _PARTS[part] for value, part in zip(values, parts, strict=True)}


def _check_torn(torn: set[Group]) -> None:
    if torn:
        raise DatasetError(
            f"{len(torn)} group(s), such as {sorted(map(str, torn))[0]}, hold episodes of held-out tasks and of others, and "
            "a group is never torn apart; hold out other tasks, or split by task or variation"
        )


def _check_filled(splits: Mapping[Group, Split], shares: Sequence[float]) -> None:
    empty = [part for part, share in zip(_PARTS, shares, strict=True) if share > 0 and part not in splits.values()]
    if empty:
        raise DatasetError(
            f"split(s) {', '.join(empty)} would be empty: there are {len(splits)} group(s) to share out; give them a "
            "share of 0, other shares, or split by something finer"
        )


def _parts(traced: Sequence[TracedEpisode], splits: Sequence[Split]) -> dict[Split, list[TracedEpisode]]:
    parts: dict[Split, list[TracedEpisode]] = {split: [] for split in SPLITS}
    for trace, split in zip(traced, splits, strict=True):
        parts[split].append(replace(trace, episode=replace(trace.episode, split=split)))
    return {split: part for split, part in parts.items() if part}


def _check_parts(
    request: PartitionRequest, info: DatasetInfo, parts: Mapping[Split, Sequence[TracedEpisode]]
) -> tuple[str, ...]:
    """What leaks, as notes; refuses to go on with certain leaks that were not allowed."""
    datasets = {
        str(split): Dataset(info=info, episodes=tuple(trace.episode for trace in part)) for split, part in parts.items()
    }
    try:
        warnings = check_leaks(datasets)
    except DatasetError as error:
        if not request.allows_leaks:
            raise DatasetError(f"{error}; or --allow-leaks, which records them") from error
        return (str(error).partition("\n  what is tested")[0],)
    if not warnings:
        return ()
    return (f"{len(warnings)} text(s) are on both sides, which is weak evidence of a leak; first: {warnings[0]}",)


def _info(info: DatasetInfo, request: PartitionRequest, split: Split, leaks: Sequence[str]) -> DatasetInfo:
    name, _, version = info.dataset_id.rpartition("-v")
    created_by = {
        "command": "split",
        "dataset": info.dataset_id,
        "by": request.by,
        "shares": list(request.shares),
        "seed": request.seed,
        "holdout": sorted(request.holdout),
        "allows_leaks": request.allows_leaks,
        "source": info.created_by,
    }
    changes = {
        "dataset_id": f"{name}-{split}-v{version}",
        "split": split,
        "package_version": __version__,
        "created_by": created_by,
        "assumptions": (*info.assumptions, *leaks),
    }
    return DatasetInfo.model_validate({**dict(info), **changes})


def _origin_note(info: DatasetInfo) -> tuple[str, ...]:
    if info.origin == "imported":
        return ()
    return (
        f"this log was collected: the card of environment '{info.env}' has splits of its own, and training with that card "
        "refuses episodes that it puts into another split",
    )
