"""A log whose budgets are drawn anew: what a turn would have looked like, and ended as, with less money."""

import dataclasses
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.history import HistoryFeatures, budget_features
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, FloatArray, Frozen, IntArray
from mtrouter_rl.transitions.arrays import MiniBatch, Transitions

_LOG = logging.getLogger(__name__)
_SLACK = 1e-9
"""Relative; keeps a budget that was drawn at the least that a turn needs from falling below it by rounding."""


class Budgets(Frozen):
    """Which budgets a training draws: the logged one with probability `share_full`, else log-uniform below it.

    Attributes:
        low_share: The smallest, as a share of the logged budget.
        share_full: Probability of the logged budget.
    """

    low_share: Annotated[float, Field(gt=0, lt=1)] = 0.01
    share_full: Annotated[float, Field(ge=0, le=1)] = 0.2


@dataclass(frozen=True, kw_only=True)
class BudgetTransitions(Transitions):
    """Transitions for a Q-function that is to serve every budget up to the logged one.

    `sample` draws a budget for every transition of a mini-batch, from those under which its episode would have come as far:
    every logged call up to and with this one still fits. Remaining budget and action masks of both states are worked out
    under it; where no model is left the episode is truncated, and its value ends. What `batch` gives is as it was logged.

    A model is masked if its worst-case call exceeds what is left, as in `RoutingEnv`: prompt tokens as they were billed at
    that turn, the longest output, the dearest prices. With simulated models that is exact. Elsewhere an environment may count
    more prompt tokens than were billed; then only models are left open that were open with the logged budget.

    The logged return of a warm start ends where the logged calls no longer fit.

    Source: hindsight budgets after SeqRoute (arXiv 2605.25424); the masks are those of this environment.

    Attributes:
        budgets: What is drawn.
        gamma: Discount of `returns`.
        budget_columns: Columns of the observation that tell the share of the budget that is left, and its logarithm.
        budgets_usd: Logged budget of the episode, USD, shape (N,).
        spent_usd: Money spent in the episode before the turn, USD, shape (N,).
        worst_usd: Dearest price of a call of every model, USD; infinite where its context is too small; shape (N, M).
        needed_usd: Least budget under which the episode comes as far as this turn and makes its call, USD, shape (N,).
        is_return_regression: Whether rewards are logged returns.
    """

    PER_TRANSITION: ClassVar[tuple[str, ...]] = (
        *Transitions.PER_TRANSITION,
        *("budgets_usd", "spent_usd", "worst_usd", "needed_usd"),
    )

    budgets: Budgets
    gamma: float
    budget_columns: tuple[int, int]
    budgets_usd: FloatArray
    spent_usd: FloatArray
    worst_usd: FloatArray
    needed_usd: FloatArray
    is_return_regression: bool = False

    @classmethod
    def of(
        cls,
        plain: Transitions,
        episodes: Sequence[Episode],
        features: HistoryFeatures,
        *,
        pool: PoolCard,
        budgets: Budgets,
        gamma: float,
        max_output_tokens: int | None,
    ) -> Self:
        """Take over a log that was laid out.

        Args:
            plain: The log.
            episodes: The episodes that it was laid out from, in order.
            features: What it was encoded with.
            pool: Prices and context windows.
            budgets: What is to be drawn.
            gamma: Discount of the returns.
            max_output_tokens: Output limit of the environment; None takes each model's own, which masks more.

        Raises:
            InvalidConfigError: If an episode was run without a budget.
        """
        unlimited = [one.episode_id for one in episodes if one.budget_usd >= UNLIMITED_BUDGET_USD]
        if unlimited:
            raise InvalidConfigError(
                f"episode '{unlimited[0]}' (and {len(unlimited) - 1} more) was run without a budget, so there is none to draw "
                "smaller ones from; train fitted-q, or collect a log in an environment with a budget"
            )
        billed = [one.episode_id for one in episodes if one.usage_source == "cost_only"]
        if billed:
            raise InvalidConfigError(
                f"episode '{billed[0]}' (and {len(billed) - 1} more) has costs and no tokens (usage_source 'cost_only'), "
                "so what "
                "a call would have cost at most is not known; train fitted-q, or collect at each budget"
            )
        turns = [turn for episode in episodes for turn in episode.turns]
        lengths = np.array([len(episode.turns) for episode in episodes])
        worst = _worst_usd([turn.usage.n_prompt for turn in turns], pool, max_output_tokens)
        spent = np.concatenate([np.cumsum([0.0, *(turn.cost_usd for turn in one.turns)])[:-1] for one in episodes])
        need = spent + worst[np.arange(len(turns)), plain.actions]
        parts = np.split(need, np.cumsum(lengths)[:-1])
        fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
        made = cls(
            **fields,
            budgets=budgets,
            gamma=gamma,
            budget_columns=features.budget_columns,
            budgets_usd=np.repeat([one.budget_usd for one in episodes], lengths),
            spent_usd=spent,
            worst_usd=worst,
            needed_usd=np.concatenate([np.maximum.accumulate(part) for part in parts]),
        )
        made._tell_differing_masks()
        return made

    @cached_property
    def stops(self) -> IntArray:
        """One past the last transition of the episode of every transition, shape (N,)."""
        starts = np.flatnonzero(self.turns == 0)
        ends = np.append(starts[1:], len(self))
        return np.repeat(ends, ends - starts)

    def as_return_regression(self) -> Self:
        """The same transitions, with the logged return as far as it goes under the drawn budget as reward."""
        return dataclasses.replace(super().as_return_regression(), is_return_regression=True)

    def sample(self, batch_size: int, generator: np.random.Generator) -> MiniBatch:
        """Mini-batch drawn uniformly with replacement, each transition under a budget of its own."""
        indices = generator.integers(len(self), size=batch_size)
        full = self.budgets_usd[indices]
        low = np.minimum(np.maximum(self.budgets.low_share * full, self.needed_usd[indices] * (1 + _SLACK)), full)
        drawn = low * (full / low) ** generator.random(batch_size)
        return self.batch_at(indices, np.where(generator.random(batch_size) < self.budgets.share_full, full, drawn))

    def batch_at(self, indices: npt.NDArray[np.int64], budgets_usd: FloatArray) -> MiniBatch:
        """The transitions of these indices under these budgets, both of shape (B,)."""
        batch = self.batch(indices)
        self._write_state(batch.observations, indices, budgets_usd)
        goes_on = np.flatnonzero(indices + 1 < self.stops[indices])
        following = batch.next_observations[goes_on]
        self._write_state(following, indices[goes_on] + 1, budgets_usd[goes_on])
        batch.next_observations[goes_on] = following
        terminals = batch.terminals.copy()
        terminals[goes_on, 0] = np.maximum(terminals[goes_on, 0], ~following[:, -self.n_models :].any(axis=1))
        rewards = self._returns(indices, budgets_usd)[:, None] if self.is_return_regression else batch.rewards
        return dataclasses.replace(batch, rewards=rewards, terminals=terminals)

    def fingerprint(self) -> str:
        """See `Transitions.fingerprint`."""
        checksum = 0
        for array in (self.returns, self.budgets_usd, self.spent_usd, self.worst_usd):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return f"{super().fingerprint()}-{checksum:08x}"

    def _write_state(self, observations: npt.NDArray[np.float32], indices: IntArray, budgets_usd: FloatArray) -> None:
        left = budgets_usd - self.spent_usd[indices]
        share, logarithm = self.budget_columns
        observations[:, share], observations[:, logarithm] = budget_features(left, budgets_usd)
        observations[:, -self.n_models :] *= self.worst_usd[indices] <= left[:, None]

    def _returns(self, indices: IntArray, budgets_usd: FloatArray) -> npt.NDArray[np.float32]:
        returns = self.returns[indices].copy()
        for row, (start, budget_usd) in enumerate(zip(indices, budgets_usd, strict=True)):
            stop = int(self.stops[start])
            n_turns = int(np.searchsorted(self.needed_usd[start:stop], budget_usd, side="right"))
            if start + n_turns < stop:
                returns[row] -= self.gamma**n_turns * self.returns[start + n_turns]
        return returns

    def _tell_differing_masks(self) -> None:
        logged = self.allowed_bits[self.rows]
        worked_out = self.worst_usd <= (self.budgets_usd - self.spent_usd)[:, None]
        share = float((logged != worked_out).any(axis=1).mean())
        if share > 0:
            _LOG.warning(
                "action masks worked out from billed tokens differ from the logged ones at %.1f%% of the turns; models that "
                "were masked stay so, but under smaller budgets some may be left open that the environment would mask",
                100 * share,
            )


def _worst_usd(n_prompts: Sequence[int], pool: PoolCard, max_output_tokens: int | None) -> FloatArray:
    """Dearest price of a call of every model by turn, shape (N, M); infinite where it does not fit the context window."""
    worst = np.zeros((len(n_prompts), len(pool.models)))
    for column, model in enumerate(pool.models):
        own = model.max_output_tokens
        n_output = own if max_output_tokens is None else min(own, max_output_tokens)
        prices = [model.prices.worst_case_usd(n_prompt=n_prompt, n_output=n_output) for n_prompt in n_prompts]
        worst[:, column] = np.where(np.array(n_prompts) + n_output <= model.context_tokens, prices, np.inf)
    return worst
