"""Finds what two datasets share that a router could have learned by heart: the same episode, instance or text on both sides.

How strong the evidence of an equal text is depends on what the text tells:

- The same episode id or the same (task, variation) is always a leak.
- The same task text together with the same first observation, of variations that the logs say are different, is a leak of
  an imported log, whose variations may be nothing but a running number. Where both logs were collected by this package,
  the environment vouches for its variations, and the equal beginning is a warning: of 218 variations in the log of
  ScienceWorld that travels with this package, three pairs of one task begin with the same texts.
- The same task text without any first observation is a leak where texts tell the variations of the task apart (questions
  of a benchmark), and a warning where many variations share a text (missions made from a template).

Texts are compared exactly, once white space is normalized; texts that only share a template are different.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeVar

from mtrouter_rl.datasets.info import INFO_FILE
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import SPLITS, Episode

KeyT = TypeVar("KeyT")
LeakKind = Literal["episode id", "task and variation", "task text and first observation", "task text"]
MAX_LISTED = 20
MIN_TEXTS_PER_VARIATION = 0.5
"""A task whose variations have more different texts than this per variation tells its variations apart by their texts."""
_MAX_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Something that stands on both sides.

    Attributes:
        kind: What is the same.
        value: What it is, as shown to the reader.
        train: Ids of the episodes that have it on the first side.
        other: Ids of those on the other side.
        is_certain: Whether it is a leak; otherwise it is a warning.
    """

    kind: LeakKind
    value: str
    train: tuple[str, ...]
    other: tuple[str, ...]
    is_certain: bool

    def __str__(self) -> str:
        """One line: what is the same, and where."""
        return (
            f"same {self.kind}, {self.value}: {len(self.train)} and {len(self.other)} episode(s), "
            f"such as '{self.train[0]}' and '{self.other[0]}'"
        )


def normalized(text: str) -> str:
    r"""Text with every run of white space as one space.

    Example:
        >>> normalized(" Boil\n water. ")
        'Boil water.'
    """
    return " ".join(text.split())


def text_key(episode: Episode) -> tuple[str, str]:
    """Normalized task text and first observation."""
    return normalized(episode.task_text), normalized(episode.first_observation)


def telling_tasks(episodes: Iterable[Episode]) -> set[str]:
    """Tasks whose texts tell their variations apart, so that an equal text means an equal instance."""
    texts: dict[str, set[str]] = {}
    variations: dict[str, set[int]] = {}
    for episode in episodes:
        texts.setdefault(episode.task, set()).add(normalized(episode.task_text))
        variations.setdefault(episode.task, set()).add(episode.variation)
    return {
        task
        for task, found in texts.items()
        if len(found) > 1 and len(found) > MIN_TEXTS_PER_VARIATION * len(variations[task])
    }


def find_leaks(train: Dataset, other: Dataset) -> list[Leak]:
    """Everything that two datasets share, certain leaks first.

    An equal text whose (task, variation) is shared as well is told once, as the variation.
    """
    sides = (_without_turns(train), _without_turns(other))
    variations = _shared(*sides, lambda episode: (episode.task, episode.variation))
    leaks = [_leak("episode id", repr(key), pair) for key, pair in _shared(*sides, lambda one: one.episode_id).items()]
    leaks += [
        _leak("task and variation", f"task '{task}', variation {variation}", pair)
        for (task, variation), pair in variations.items()
    ]
    is_vouched = train.info.origin == other.info.origin == "collected"
    telling = telling_tasks([*sides[0], *sides[1]])
    for (text, observation), pair in _shared(*sides, text_key).items():
        if {(one.task, one.variation) for side in pair for one in side} <= set(variations):
            continue
        shown = repr(text[:_MAX_SHOWN] + ("..." if len(text) > _MAX_SHOWN else ""))
        if observation:
            leaks.append(_leak("task text and first observation", shown, pair, is_certain=not is_vouched))
        elif text:
            is_telling = any(one.task in telling for side in pair for one in side)
            leaks.append(_leak("task text", shown, pair, is_certain=is_telling))
    return sorted(leaks, key=lambda leak: not leak.is_certain)


def check_leaks(datasets: Mapping[str, Dataset]) -> list[Leak]:
    """Check that no two datasets share anything that they must not.

    Args:
        datasets: By name of the split, for the message.

    Returns:
        Warnings: what is shared and is only weak evidence of a leak.

    Raises:
        DatasetError: Names the first 20 leaks, and how many there are.
    """
    certain: list[str] = []
    warnings: list[Leak] = []
    for (one, first), (two, second) in combinations(datasets.items(), 2):
        for leak in find_leaks(first, second):
            if leak.is_certain:
                certain.append(f"  {one} and {two}: {leak}")
            else:
                warnings.append(leak)
    if certain:
        more = f"\n  ... and {len(certain) - MAX_LISTED} more" if len(certain) > MAX_LISTED else ""
        raise DatasetError(
            f"{len(certain)} leak(s) between {', '.join(datasets)}:\n"
            + "\n".join(certain[:MAX_LISTED])
            + more
            + "\n  what is tested must not have been trained on; split the log by variation or by task"
        )
    return warnings


def check_sibling_splits(folder: Path, dataset: Dataset) -> list[Leak]:
    """Check a dataset that is one of several splits in a folder (`DIR/train`, `DIR/test`, ...) against the others.

    Returns:
        Warnings as `check_leaks` gives them; none where the folder is not named after a split or stands alone.

    Raises:
        DatasetError: If it leaks into a sibling, or a sibling is unreadable or breaks a rule.
    """
    warnings: list[Leak] = []
    for path in sibling_splits(folder):
        warnings += check_leaks({folder.resolve().name: dataset, path.name: Dataset.load(path)})
    return warnings


def sibling_splits(folder: Path) -> list[Path]:
    """Datasets beside one that is named after a split, which are the other splits of it."""
    folder = folder.resolve()
    if folder.name not in SPLITS:
        return []
    siblings = [folder.parent / name for name in SPLITS if name != folder.name]
    return [path for path in siblings if (path / INFO_FILE).is_file()]


def _without_turns(dataset: Dataset) -> list[Episode]:
    """All that is compared, which is small even where the log is too large for memory."""
    return [replace(episode, turns=()) for episode in dataset.episodes]


_Pair = tuple[Sequence[Episode], Sequence[Episode]]


def _shared(train: Iterable[Episode], other: Iterable[Episode], key: Callable[[Episode], KeyT]) -> dict[KeyT, _Pair]:
    """Episodes of both sides by every key that both have, in the order of the first side."""
    left, right = _grouped(train, key), _grouped(other, key)
    return {name: (group, right[name]) for name, group in left.items() if name in right}


def _grouped(episodes: Iterable[Episode], key: Callable[[Episode], KeyT]) -> dict[KeyT, list[Episode]]:
    groups: dict[KeyT, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(key(episode), []).append(episode)
    return groups


def _leak(kind: LeakKind, value: str, pair: _Pair, *, is_certain: bool = True) -> Leak:
    train, other = (tuple(episode.episode_id for episode in side) for side in pair)
    return Leak(kind=kind, value=value, train=train, other=other, is_certain=is_certain)
