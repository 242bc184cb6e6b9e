"""Episodes of a log that is too large for memory, read shard by shard as they are asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, overload

import numpy as np

from mtrouter_rl.records import Episode

Which = Literal["all", "completed", "with turns"]
RESIDENT_TURNS = 100_000
"""A log of up to so many turns is held in memory, about 4 KB a turn; the episodes of a longer one are read when needed."""


@dataclass(frozen=True, kw_only=True)
class ShardSize:
    """What a shard holds.

    Attributes:
        index: Its number.
        n_episodes: Episodes, failed ones included.
        n_completed: Those that ran to their end.
        n_with_turns: Those of them with at least one turn.
        n_turns: Turns of all of them.
    """

    index: int
    n_episodes: int
    n_completed: int
    n_with_turns: int
    n_turns: int

    @classmethod
    def of(cls, index: int, episodes: Sequence[Episode]) -> "ShardSize":
        """Count the episodes of a shard."""
        completed = [episode for episode in episodes if episode.status == "completed"]
        return cls(
            index=index,
            n_episodes=len(episodes),
            n_completed=len(completed),
            n_with_turns=sum(bool(episode.turns) for episode in completed),
            n_turns=sum(len(episode.turns) for episode in episodes),
        )

    def count(self, which: "Which") -> int:
        """How many episodes of a kind it holds."""
        return {"all": self.n_episodes, "completed": self.n_completed, "with turns": self.n_with_turns}[which]


class StreamedEpisodes(Sequence[Episode]):
    """The episodes of a checked dataset, in order. Going through all of them holds one shard in memory.

    Attributes:
        sizes: What each shard holds.
    """

    def __init__(
        self,
        read: Callable[[int], Sequence[Episode]],
        sizes: Sequence[ShardSize],
        *,
        files: Sequence[Path],
        which: Which = "all",
    ) -> None:
        """Nothing is read yet.

        Args:
            read: Reads the episodes of a shard, by its index.
            sizes: What each shard holds, in order.
            files: The files that the episodes come from.
            which: Which of them: all, those that ran to their end, or those of them with at least one turn.
        """
        self.sizes = tuple(sizes)
        self._read, self._files, self._which = read, tuple(files), which
        self._ends = np.cumsum([one.count(which) for one in sizes], dtype=np.int64).tolist()
        self._last: tuple[int, list[Episode]] = (-1, [])

    def completed(self, *, with_turns: bool = False) -> "StreamedEpisodes":
        """Those of them that ran to their end, and, if wanted, have at least one turn."""
        which: Which = "with turns" if with_turns else "completed"
        return StreamedEpisodes(self._read, self.sizes, files=self._files, which=which)

    @property
    def n_turns(self) -> int:
        """Turns of all shards, those of failed episodes included."""
        return sum(one.n_turns for one in self.sizes)

    def digest(self) -> str:
        """What tells these episodes from others: a hash of the bytes of their files."""
        found = blake2b(digest_size=16)
        for path in self._files:
            found.update(f"{path.name} {path.stat().st_size} ".encode())
            found.update(path.read_bytes())
        return found.hexdigest()

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._files[0].parent

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    def __iter__(self) -> Iterator[Episode]:
        for number in range(len(self.sizes)):
            yield from self._shard(number)

    @overload
    def __getitem__(self, index: int) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Episode, ...]: ...

    def __getitem__(self, index: int | slice) -> Episode | tuple[Episode, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        wanted = index + len(self) if index < 0 else index
        if not 0 <= wanted < len(self):
            raise IndexError(f"episode {index} is asked for, and there are {len(self)}")
        number = bisect_right(self._ends, wanted)
        return self._kept(number)[wanted - (self._ends[number - 1] if number else 0)]

    def _kept(self, number: int) -> list[Episode]:
        """A shard that is kept until another one is asked for."""
        if self._last[0] != number:
            self._last = (-1, [])
            self._last = (number, self._shard(number))
        return self._last[1]

    def _shard(self, number: int) -> list[Episode]:
        episodes = self._read(self.sizes[number].index)
        if self._which == "all":
            return list(episodes)
        needs_turns = self._which == "with turns"
        return [one for one in episodes if one.status == "completed" and (one.turns or not needs_turns)]
