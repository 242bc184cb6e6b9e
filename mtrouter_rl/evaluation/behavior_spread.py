"""How errors spread along the links between turns: which errors are first ones, and how often one follows another.

Turns are the nodes of a graph, and each has an edge from every turn that it comes from (`Episode.parents`). In a log that names
no parents every turn comes from the one before, so the graph is a chain.

Source: the idea of failures on a graph of dependent steps, told apart into first and inherited ones, is AgentEval's; the
measures here, and their intervals, are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.evaluation.behavior_file import ErrorSpread, FollowedBy, SpreadFrom
from mtrouter_rl.records import Ends, Episode, FloatArray, IntArray
from mtrouter_rl.statistics.estimate import Estimate, studentized_ends, within
from mtrouter_rl.statistics.resamples import N_RESAMPLES, cluster_numbers
from mtrouter_rl.statistics.studentized import RatioSum

_SHARE: Ends = (0.0, 1.0)
_DIFFERENCE: Ends = (-1.0, 1.0)
_LEAST_CLUSTERS = 2


@dataclass(frozen=True, kw_only=True)
class LinkedTurn:
    """A turn, and what its links tell of errors before it.

    Attributes:
        model: Name of the chosen model.
        has_failed: Whether it is an error.
        has_parents: Whether it comes from another turn.
        failed_parents: Chosen models of its parents that are errors.
        has_failed_ancestor: Whether any turn that leads to it is an error.
    """

    model: str
    has_failed: bool
    has_parents: bool
    failed_parents: frozenset[str]
    has_failed_ancestor: bool

    @property
    def is_first_error(self) -> bool:
        """Whether it is an error and nothing that leads to it is."""
        return self.has_failed and not self.has_failed_ancestor


def linked_turns(episode: Episode) -> list[LinkedTurn]:
    """The turns of an episode with what their links tell, length T.

    What no link leads to is no consequence of an error, whatever came first in time.
    """
    found: list[LinkedTurn] = []
    for turn, parents in zip(episode.turns, episode.parents, strict=True):
        before = [found[parent] for parent in parents]
        found.append(
            LinkedTurn(
                model=turn.model,
                has_failed=bool(turn.error),
                has_parents=bool(parents),
                failed_parents=frozenset(one.model for one in before if one.has_failed),
                has_failed_ancestor=any(one.has_failed or one.has_failed_ancestor for one in before),
            )
        )
    return found


def error_spread(
    episodes: Sequence[Episode], model_names: Sequence[str], *, seed: int, n_resamples: int = N_RESAMPLES
) -> ErrorSpread:
    """How often an error follows a parent that is one, by the parent's model, against turns of which no parent is one.

    Args:
        episodes: Completed episodes, at least one.
        model_names: Names of the pool, in pool order.
        seed: Seed of the bootstrap over (task, variation).
        n_resamples: Its resamples.
    """
    graphs = [linked_turns(episode) for episode in episodes]
    counter = _Counter(episodes, graphs, seed=seed, n_resamples=n_resamples)
    failed = [turn for graph in graphs for turn in graph if turn.has_failed]
    n_first = sum(turn.is_first_error for turn in failed)
    return ErrorSpread(
        n_linked=sum(turn.parents is not None for episode in episodes for turn in episode.turns),
        n_first_errors=n_first,
        n_inherited_errors=len(failed) - n_first,
        after_success=counter.share(lambda turn: turn.has_parents and not turn.failed_parents),
        after_error=counter.spread(lambda turn: bool(turn.failed_parents)),
        after_error_of={
            name: counter.spread(lambda turn, name=name: name in turn.failed_parents)  # type: ignore[misc]
            for name in model_names
        },
    )


class _Counter:
    """Counts turns and errors by episode, and gives shares with intervals over (task, variation)."""

    def __init__(
        self, episodes: Sequence[Episode], graphs: Sequence[Sequence[LinkedTurn]], *, seed: int, n_resamples: int
    ) -> None:
        self._graphs = graphs
        self._clusters = cluster_numbers([(episode.task, episode.variation) for episode in episodes])
        self._seed, self._n_resamples = seed, n_resamples
        self._base = self._cases(lambda turn: turn.has_parents and not turn.failed_parents)

    def share(self, is_case: Callable[[LinkedTurn], bool]) -> FollowedBy:
        """Share of errors among the turns of a kind."""
        cases = self._cases(is_case)
        return FollowedBy(n_turns=cases.n_turns, n_errors=cases.n_errors, share=self._estimate(cases))

    def spread(self, is_case: Callable[[LinkedTurn], bool]) -> SpreadFrom:
        """The same, and how much larger it is than among turns of which no parent is an error."""
        cases = self._cases(is_case)
        return SpreadFrom(
            n_turns=cases.n_turns,
            n_errors=cases.n_errors,
            share=self._estimate(cases),
            difference=self._difference(cases),
        )

    def _cases(self, is_case: Callable[[LinkedTurn], bool]) -> "_Cases":
        kept = [[turn.has_failed for turn in graph if is_case(turn)] for graph in self._graphs]
        return _Cases(
            errors=np.array([sum(one) for one in kept], dtype=float),
            turns=np.array([len(one) for one in kept], dtype=float),
            clusters=self._clusters,
        )

    def _estimate(self, cases: "_Cases") -> Estimate | None:
        if not cases.n_turns:
            return None
        ends = self._ends(cases.errors[:, None, None], cases.turns[:, None]) if cases.tells_a_spread else None
        return _estimate(cases.n_errors / cases.n_turns, within(ends, _SHARE), cases)

    def _difference(self, cases: "_Cases") -> Estimate | None:
        base = self._base
        if not cases.n_turns or not base.n_turns:
            return None
        ends = None
        if cases.tells_a_spread and base.tells_a_spread:
            errors = np.stack([cases.errors, -base.errors], axis=1)[:, :, None]
            ends = self._ends(errors, np.stack([cases.turns, base.turns], axis=1))
        value = cases.n_errors / cases.n_turns - base.n_errors / base.n_turns
        return _estimate(value, within(ends, _DIFFERENCE), cases)

    def _ends(self, numerators: FloatArray, denominators: FloatArray) -> Ends:
        ratio = RatioSum.of_episodes(numerators, denominators, self._clusters.astype(np.int64))
        return studentized_ends(ratio.draws(seed=self._seed, n_resamples=self._n_resamples)[:, 0])


@dataclass(frozen=True, kw_only=True)
class _Cases:
    """Turns of a kind, by episode.

    Attributes:
        errors: How many of them are errors, shape (E,).
        turns: How many there are, shape (E,).
        clusters: Number of every episode's (task, variation), shape (E,).
    """

    errors: FloatArray
    turns: FloatArray
    clusters: IntArray

    @property
    def n_turns(self) -> int:
        return int(self.turns.sum())

    @property
    def n_errors(self) -> int:
        return int(self.errors.sum())

    @property
    def n_clusters(self) -> int:
        """(task, variation) with such a turn."""
        return len(np.unique(self.clusters[self.turns > 0]))

    @property
    def tells_a_spread(self) -> bool:
        """Whether a resample can come out otherwise: where all or none are errors, every one is alike."""
        return self.n_clusters >= _LEAST_CLUSTERS and 0 < self.n_errors < self.n_turns


def _estimate(value: float, ends: Ends | None, cases: _Cases) -> Estimate:
    low, high = ends or (None, None)
    n_episodes = int((cases.turns > 0).sum())
    return Estimate(value=value, low=low, high=high, n_episodes=n_episodes, n_clusters=cases.n_clusters)
