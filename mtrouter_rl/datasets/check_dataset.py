"""Checks a dataset folder against everything that can be checked: rules, hidden information, leaks into its siblings."""

import sys
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.datasets.info import SCHEMA_VERSION, DatasetInfo, stored_version
from mtrouter_rl.datasets.leaks import check_sibling_splits
from mtrouter_rl.datasets.store import Dataset, iterate_hidden
from mtrouter_rl.datasets.validation import MAX_LISTED


@dataclass(frozen=True, kw_only=True)
class SoundnessReport:
    """What a sound dataset holds.

    Attributes:
        info: What it is.
        version: Schema version on disk.
        n_episodes: Episodes, failed ones included.
        n_failed: Episodes that failed.
        n_turns: Turns of all episodes.
        n_hidden: Episodes with hidden information.
        notes: What the user should know though no rule is broken, a sentence each.
    """

    info: DatasetInfo
    version: object
    n_episodes: int
    n_failed: int
    n_turns: int
    n_hidden: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Readable text for a terminal."""
        counts = (
            f"OK: {self.info.dataset_id}, schema version {self.version}: {self.n_episodes} episodes ({self.n_failed} "
            f"failed), {self.n_turns} turns, {self.n_hidden} episodes with hidden information"
        )
        return "\n".join([counts, *(f"note: {note}" for note in self.notes)])


def load_sound(folder: Path, *, max_listed: int = MAX_LISTED) -> tuple[Dataset, int]:
    """Load a dataset and what only a simulator knows of it, and check every rule of both.

    Args:
        folder: Where it is.
        max_listed: How many broken rules an error lists before it only counts them.

    Returns:
        The dataset, and how many of its episodes have hidden information.

    Raises:
        DatasetError: If a rule is broken, or a file is missing or unreadable.
    """
    return Dataset.load(folder, max_listed=max_listed), sum(len(part) for part in iterate_hidden(folder))


def check_dataset(folder: Path) -> SoundnessReport:
    """Check every rule about a dataset, and that it does not leak into splits that lie beside it.

    Raises:
        DatasetError: If a rule is broken, a file is missing or unreadable, or it leaks.
    """
    dataset, n_hidden = load_sound(folder, max_listed=sys.maxsize)
    leaks = check_sibling_splits(folder, dataset)
    version = stored_version(folder)
    notes: list[str] = []
    if version != SCHEMA_VERSION:
        notes.append(f"schema version {version} is read, not written; --upgrade writes version {SCHEMA_VERSION}")
    if len(dataset.episodes) < dataset.info.n_episodes_planned:
        notes.append(f"{dataset.info.n_episodes_planned} episodes are planned; the collection is not finished")
    if leaks:
        notes.append(
            f"{len(leaks)} text(s) are in a split beside it as well, weak evidence of a leak; first: {leaks[0]}"
        )
    return SoundnessReport(
        info=dataset.info,
        version=version,
        n_episodes=len(dataset.episodes),
        n_failed=len(dataset.episodes) - len(dataset.completed),
        n_turns=dataset.n_turns,
        n_hidden=n_hidden,
        notes=tuple(notes),
    )
