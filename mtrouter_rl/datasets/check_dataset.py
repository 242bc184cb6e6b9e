"""Checks a dataset folder against everything that can be checked: rules, hidden information, leaks into its siblings."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.datasets.info import SCHEMA_VERSION, DatasetInfo, stored_version
from mtrouter_rl.datasets.leaks import check_sibling_splits
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.datasets.validation import MAX_LISTED
from mtrouter_rl.errors import DatasetError


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


def check_dataset(folder: Path) -> SoundnessReport:
    """Check every rule about a dataset, and that it does not leak into splits that lie beside it.

    Raises:
        DatasetError: If a rule is broken, a file is missing or unreadable, or it leaks.
    """
    dataset = Dataset.load(folder, max_listed=sys.maxsize)
    hidden = load_hidden(folder)
    _check_hidden(dataset, {episode_id: len(rows) for episode_id, rows in hidden.items()}, folder)
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
        n_hidden=len(hidden),
        notes=tuple(notes),
    )


def _check_hidden(dataset: Dataset, n_hidden: Mapping[str, int], folder: Path) -> None:
    n_turns = {episode.episode_id: len(episode.turns) for episode in dataset.episodes}
    wrong = [
        f"'{name}' ({n} rows, {n_turns.get(name, 'no such')} turns)"
        for name, n in n_hidden.items()
        if n != n_turns.get(name)
    ]
    if wrong:
        raise DatasetError(
            f"hidden information of dataset '{dataset.info.dataset_id}' in {folder} has another number of rows than turns in "
            f"{len(wrong)} episode(s): {', '.join(wrong[:MAX_LISTED])}; restore the hidden files from a copy"
        )
