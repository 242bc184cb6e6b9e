"""Which model holds a warm prompt cache, and how many tokens of the next prompt it covers."""

from collections.abc import Mapping

from mtrouter_rl.cards.pool import Prices, PromptCacheCard
from mtrouter_rl.records import TokenUsage


class PromptCache:
    """Prompt caches of a pool during one episode.

    A conversation only grows, so the cached prefix of a model is the prompt of its last call, as long as that call is
    not older than the time to live. A switch to a model that was not called recently finds a cold cache; a switch to a
    variant of one that was finds its cache.
    """

    def __init__(self, card: PromptCacheCard | None, bases: Mapping[str, str] | None = None) -> None:
        """Create cold caches.

        Args:
            card: The vendor's cache; None leaves every cache cold for ever.
            bases: Model -> model whose cache it shares, as `PoolCard.bases`; None for a cache each.
        """
        self._card = card
        self._bases = bases or {}
        self._last_call: dict[str, tuple[float, int]] = {}

    def n_cached(self, model: str, *, n_prompt: int, now_s: float) -> int:
        """Tokens of a prompt of `n_prompt` tokens that would be read from the model's cache at episode time `now_s`."""
        base = self._bases.get(model, model)
        if self._card is None or base not in self._last_call:
            return 0
        called_s, n_tokens = self._last_call[base]
        if now_s - called_s > self._card.ttl_s or n_tokens < self._card.min_tokens:
            return 0
        return min(n_tokens, n_prompt)

    def is_warm(self, model: str, *, now_s: float) -> bool:
        """Whether a call at episode time `now_s` would read anything from the model's cache."""
        return self.n_cached(model, n_prompt=1, now_s=now_s) > 0

    def record(self, model: str, *, n_prompt: int, now_s: float) -> None:
        """Remember a call that was made at episode time `now_s`."""
        self._last_call[self._bases.get(model, model)] = (now_s, n_prompt)


def billed_usage(
    card: PromptCacheCard | None, prices: Prices, *, n_prompt: int, n_cached: int, n_output: int
) -> TokenUsage:
    """A call's tokens as a vendor bills them: what was not cached is written where that is billed, else fresh.

    Args:
        card: The vendor's cache; None where there is none.
        prices: Of the model.
        n_prompt: All prompt tokens.
        n_cached: Those that were read from the cache.
        n_output: Generated tokens.
    """
    is_written = card is not None and n_prompt >= card.min_tokens and prices.cache_write is not None
    n_rest = n_prompt - n_cached
    return TokenUsage(
        n_fresh=0 if is_written else n_rest,
        n_cached=n_cached,
        n_written=n_rest if is_written else 0,
        n_output=n_output,
    )
