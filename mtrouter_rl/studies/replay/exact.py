"""Exact values on a suite: no episode is played and nothing is estimated, all tasks are worked out at once.

A policy that restarts is a sequence of legs for every task: run a model for so many turns, then start another one afresh. The
episode ends where a leg's run ends within its turns, with the score of that run; what earlier legs spent is spent.
`mtrouter_rl/Replay-v0` gives the same numbers turn by turn.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray

IntArray = npt.NDArray[np.int64]
NO_LIMIT = 2**31
NOBODY = -1
"""Stands for no model: the episode is given up there, without a score."""


@dataclass(frozen=True, kw_only=True)
class Legs:
    """What a policy does on N tasks, in at most L legs.

    Attributes:
        models: Index of the model of every leg, `NOBODY` from where no more follow, shape (N, L).
        limits: Turns of every leg at most, at least 1, shape (N, L).
    """

    models: IntArray
    limits: IntArray

    def __post_init__(self) -> None:
        """Check shapes, and that no leg goes on with the model before it: that would be one leg."""
        if self.models.shape != self.limits.shape or self.models.ndim != 2:
            raise InvalidConfigError(
                f"legs have shapes {self.models.shape} and {self.limits.shape}, must be one (N, L)"
            )
        if (self.limits < 1).any():
            raise InvalidConfigError(f"a leg has {int(self.limits.min())} turns, must be at least 1")
        repeated = (self.models[:, 1:] == self.models[:, :-1]) & (self.models[:, 1:] != NOBODY)
        if repeated.any():
            raise InvalidConfigError(
                "a leg has the model of the leg before it, must have another one: join the two legs"
            )

    @classmethod
    def alike(cls, n_tasks: int, *legs: tuple[int, int]) -> "Legs":
        """The same legs, (model, limit) each, on every task."""
        models, limits = zip(*legs, strict=True)
        tile = (n_tasks, 1)
        return cls(
            models=np.tile(np.array(models, dtype=np.int64), tile),
            limits=np.tile(np.array(limits, dtype=np.int64), tile),
        )

    def of(self, tasks: IntArray) -> "Legs":
        """Those of some tasks."""
        return Legs(models=self.models[tasks], limits=self.limits[tasks])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it on N tasks, shape (N,) each.

    Attributes:
        scores: From 0 to 1.
        costs_usd: USD.
        n_turns: Turns in all.
        n_legs: Legs that were begun.
        last: Model that ran last.
        is_ended: Whether a run came to its end, rather than being given up or cut off.
    """

    scores: FloatArray
    costs_usd: FloatArray
    n_turns: IntArray
    n_legs: IntArray
    last: IntArray
    is_ended: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ExactSuite:
    """A suite with what every run had cost after each of its turns.

    Attributes:
        suite: The suite.
    """

    suite: Suite

    @cached_property
    def spent(self) -> FloatArray:
        """Cost of the first k turns of every run, k from 0 to the longest, USD, shape (N, M, K + 1); flat after its end."""
        n_tasks, n_models = self.suite.scores.shape
        longest = int(self.suite.n_turns.max())
        spent = np.zeros((n_tasks, n_models, longest + 1))
        for n in range(n_tasks):
            for m in range(n_models):
                costs = np.cumsum(self.suite.turn_costs(n, m))
                spent[n, m, 1 : len(costs) + 1] = costs
                spent[n, m, len(costs) + 1 :] = costs[-1]
        return spent

    def value(self, legs: Legs, *, max_turns: int = NO_LIMIT) -> Outcome:
        """Outcome of a policy on every task.

        Args:
            legs: What it does, shape (N, L).
            max_turns: Turn limit of an episode, which cuts it off without a score.
        """
        scores_of, turns_of = self.suite.scores, self.suite.n_turns
        n_tasks, n_legs = legs.models.shape
        rows = np.arange(n_tasks)
        scores, costs = np.zeros(n_tasks), np.zeros(n_tasks)
        used, begun = np.zeros(n_tasks, dtype=np.int64), np.zeros(n_tasks, dtype=np.int64)
        last = np.full(n_tasks, NOBODY, dtype=np.int64)
        is_running, is_ended = np.ones(n_tasks, dtype=np.bool_), np.zeros(n_tasks, dtype=np.bool_)
        for leg in range(n_legs):
            model = legs.models[:, leg]
            is_running = is_running & (model != NOBODY) & (used < max_turns)
            at = rows[is_running]
            own = model[at]
            allowed = np.minimum(legs.limits[at, leg], max_turns - used[at])
            taken = np.minimum(allowed, turns_of[at, own])
            costs[at] += self.spent[at, own, taken]
            used[at] += taken
            begun[at] += 1
            last[at] = own
            ends = turns_of[at, own] <= allowed
            scores[at[ends]] = scores_of[at[ends], own[ends]]
            is_ended[at[ends]] = True
            is_running[at[ends]] = False
        return Outcome(scores=scores, costs_usd=costs, n_turns=used, n_legs=begun, last=last, is_ended=is_ended)

    def part(self, tasks: IntArray) -> "ExactSuite":
        """Some tasks, without working anything out anew."""
        part = ExactSuite(self.suite.part(tasks.tolist()))
        part.__dict__["spent"] = self.spent[tasks]
        return part

    def turns_within(self, model: int, usd: FloatArray) -> IntArray:
        """How many turns of a model's run an amount pays, for every task; shape (N,)."""
        covered = self.spent[:, model, 1:] <= usd[:, None] + 1e-12
        return np.asarray(covered.sum(axis=1), dtype=np.int64)


def oracle_legs(scores: FloatArray, costs_usd: FloatArray, weight: float) -> Legs:
    """The model of the best score minus weight times cost for every task, which nobody knows beforehand."""
    values = scores - weight * costs_usd
    best = values >= values.max(axis=1, keepdims=True) - 1e-12
    choice = np.where(best, costs_usd, np.inf).argmin(axis=1)
    return Legs(models=choice[:, None].astype(np.int64), limits=np.full((len(choice), 1), NO_LIMIT, dtype=np.int64))


def restart_oracle_legs(exact: ExactSuite, first: int, after: int) -> Legs:
    """Start every task with one model; after so many turns, know everything: go on, or start whoever solves it for least.

    Where nobody scores more than the first model would, it goes on only if it scores at all, else the episode is given up
    there.
    """
    suite = exact.suite
    n_tasks = suite.n_tasks
    left = suite.costs_usd[:, first] - exact.spent[:, first, min(after, exact.spent.shape[2] - 1)]
    scores, costs = suite.scores.copy(), suite.costs_usd.copy()
    costs[:, first] = left
    choice = oracle_legs(scores, costs, weight=1e-9).models[:, 0]
    best = scores[np.arange(n_tasks), choice]
    goes_on = choice == first
    second = np.where(goes_on | (best <= 0), NOBODY, choice)
    limit = np.where(goes_on & (best > 0), NO_LIMIT, after)
    return Legs(
        models=np.stack([np.full(n_tasks, first), second], axis=1).astype(np.int64),
        limits=np.stack([limit, np.full(n_tasks, NO_LIMIT)], axis=1).astype(np.int64),
    )
