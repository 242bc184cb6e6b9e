"""What a call is expected to cost: the pool's prices, times tokens that are learned from the log."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.factored.log_columns import LogColumns
from mtrouter_rl.cards.pool import TOKENS_PER_PRICE_UNIT, PoolCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray, Observation


@dataclass(frozen=True, kw_only=True)
class CallTokens:
    """Tokens of a call, as the log has them.

    Attributes:
        prompt: Prompt tokens by [characters, turns, 1] of the conversation, shape (3,).
        output: Mean output tokens of every model, shape (M,).
        cached_share: Share of the prompt that is read from a warm cache, shape (1,).
    """

    prompt: FloatArray
    output: FloatArray
    cached_share: FloatArray

    @classmethod
    def of_log(cls, log: LogColumns, actions: npt.NDArray[np.int64], *, n_models: int) -> "CallTokens":
        """Learn from the turns of a log; a model that was never called gets the mean of all.

        Raises:
            InvalidConfigError: If the log has costs and no tokens.
        """
        prompt, output, cached = log.tokens.T
        if not output.any() or not prompt.any():
            raise InvalidConfigError(
                "the log has no token counts (usage), and this router prices calls by tokens; train 'fitted-q', which learns "
                "costs as they were logged, or import the log with its usage"
            )
        warm = log.warm[np.arange(len(actions)), actions]
        counts = np.bincount(actions, minlength=n_models)
        sums = np.bincount(actions, weights=output, minlength=n_models)
        return cls(
            prompt=np.linalg.lstsq(log.sizes, prompt, rcond=None)[0],
            output=np.where(counts > 0, sums / np.maximum(counts, 1), output.mean()),
            cached_share=np.array([cached[warm].sum() / prompt[warm].sum() if prompt[warm].sum() else 0.0]),
        )

    def costs_usd(self, sizes: FloatArray, warm: FloatArray, pool: PoolCard) -> FloatArray:
        """Expected cost of a call of every model, USD, shape (B, M).

        Args:
            sizes: [characters, turns, 1] of every conversation, shape (B, 3).
            warm: 1 where a model holds a warm cache, shape (B, M).
            pool: Its prices.
        """
        prices = [model.prices for model in pool.models]
        fresh = np.array([one.input if one.cache_write is None else one.cache_write for one in prices])
        read = np.array([one.cached_input for one in prices])
        share = self.cached_share * warm
        tokens = np.maximum(sizes @ self.prompt, 0.0)[:, None]
        output = self.output * np.array([one.output for one in prices])
        costs: FloatArray = (tokens * (fresh + (read - fresh) * share) + output) / TOKENS_PER_PRICE_UNIT
        return costs


def size_of(observation: Observation) -> tuple[float, float, float]:
    """[characters, turns, 1] of the conversation that an observation shows."""
    history = observation["history"]
    characters = sum(len(turn["action"]) + len(turn["observation"]) for turn in history)
    return (
        float(len(observation["task"]) + len(observation["first_observation"]) + characters),
        float(len(history)),
        1.0,
    )
