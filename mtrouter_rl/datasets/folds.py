"""Folds of a log: parts that one after another are left out of a training, and judge what it made."""

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.datasets.partition import group_episodes
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Count, Episode, Frozen

Instance = tuple[str, int]
"""(task, variation)."""


class Folds(Frozen):
    """How a log is cut into folds. A (task, variation) is never torn apart, and every fold gets its share of every task.

    Attributes:
        n_folds: K.
        seed: Seed of the draw.
    """

    n_folds: Annotated[int, Field(ge=2)] = 3
    seed: Count = 0

    def numbers(self, episodes: Sequence[Episode]) -> Mapping[Instance, int]:
        """Fold of every (task, variation), from 0; those that begin with the same texts share one.

        The result depends on the seed and on the set of instances, not on the order of the episodes.
        """
        instances = [(episode.task, episode.variation) for episode in episodes]
        found = cast("list[Instance]", group_episodes(episodes, "variation")[0])
        groups = dict(zip(instances, found, strict=True))
        by_task: dict[str, list[Instance]] = {}
        for task, variation in sorted(set(found)):
            by_task.setdefault(task, []).append((task, variation))
        rng = np.random.default_rng(self.seed)
        order = [some[i] for some in by_task.values() for i in rng.permutation(len(some))]
        fold_of = {group: place % self.n_folds for place, group in enumerate(order)}
        return {instance: fold_of[group] for instance, group in groups.items()}

    def of_episodes(self, log: Sequence[Episode], episodes: Sequence[Episode]) -> npt.NDArray[np.int64]:
        """Fold of some episodes of a log, shape (E,)."""
        numbers = self.numbers(log)
        return np.array([numbers[episode.task, episode.variation] for episode in episodes], dtype=np.int64)


class LeftOut(Folds):
    """A fold that a training does not see.

    Attributes:
        fold: Its number, from 0.
    """

    fold: Count

    def rest(self, dataset: Dataset) -> Dataset:
        """The log without it.

        Raises:
            InvalidConfigError: If the log is too large for memory, or nothing would be left.
        """
        check_fits_memory(dataset)
        numbers = self.numbers(dataset.episodes)
        kept, _ = dataset.filter(
            lambda episode: numbers[episode.task, episode.variation] != self.fold, f"fold {self.fold}"
        )
        if not kept.episodes:
            raise InvalidConfigError(
                f"dataset '{dataset.info.dataset_id}' has no episode outside fold {self.fold} of {self.n_folds}; give fewer "
                "folds"
            )
        return kept


def check_fits_memory(dataset: Dataset) -> None:
    """Refuse a log whose episodes are read from disk one after another.

    Raises:
        InvalidConfigError: If it is one.
    """
    if isinstance(dataset.episodes, StreamedEpisodes):
        raise InvalidConfigError(
            f"dataset '{dataset.info.dataset_id}' has {dataset.n_turns} turns, too many to be cut into folds in memory; split "
            "it with 'mtrouter-rl split', train on one part, and estimate on the other with 'mtrouter-rl ope'"
        )
