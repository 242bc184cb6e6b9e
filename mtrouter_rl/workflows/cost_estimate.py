"""What episodes with models that cost money would cost: at most, and likely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.pool import ModelCard
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError
from mtrouter_rl.evaluation.hidden_reference import is_reference
from mtrouter_rl.pools.spend import costs_money
from mtrouter_rl.protocols import PaidRouter

_SHARE_OF_OUTPUT = 0.5
"""Length of a reply, as a share of its limit, where nothing but cards is known."""


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What episodes would cost, USD.

    Attributes:
        n_episodes: How many.
        most_usd: What they cost at most: the budget of every episode.
        likely_usd: What they will likely cost.
        source: Where the likely cost is from, in words.
    """

    n_episodes: int
    most_usd: float
    likely_usd: float
    source: str

    def __str__(self) -> str:
        each = self.most_usd / self.n_episodes
        episodes = "1 episode costs" if self.n_episodes == 1 else f"{self.n_episodes} episodes cost"
        return (
            f"{episodes} at most {self.most_usd:.2f} USD ({each:g} each, the budget), likely about {self.likely_usd:.4f} USD "
            f"({self.source})"
        )


def estimate_cost(config: EnvConfig, n_episodes: int, *, like: Path | None = None) -> CostEstimate:
    """Estimate what episodes cost. Nothing is called.

    Args:
        config: Environment and pool.
        n_episodes: How many episodes.
        like: Folder of a dataset whose episodes are like them; None goes by the cards alone, which is rough.

    Raises:
        InvalidConfigError: If the number of episodes is below 1, or the dataset has none that came to an end.
        PoolMismatchError: If the dataset has models that the pool lacks.
        DatasetError: If the dataset cannot be read.
    """
    if n_episodes < 1:
        raise InvalidConfigError(f"episodes is {n_episodes}, must be at least 1")
    if like is None:
        each_usd = sum(_rough_usd(config, card) for card in config.pool.models) / len(config.pool.models)
        source = (
            f"rough, from the cards alone: {config.limits.max_turns} turns with replies of half the output limit, nothing "
            "cached, mean of the models"
        )
    else:
        each_usd = _mean_usd(config, like)
        source = f"tokens of the episodes in {like} at the prices of pool '{config.pool.name}'"
    return CostEstimate(
        n_episodes=n_episodes,
        most_usd=n_episodes * config.limits.budget_usd,
        likely_usd=n_episodes * each_usd,
        source=source,
    )


def costs_anything(config: EnvConfig, policies: Sequence[str], *, cache: Path | None = None) -> bool:
    """Whether running policies costs money: the models do, or a router that asks a model of its own.

    Raises:
        UnknownNameError, RouterError, PoolMismatchError: If a policy cannot be resolved.
    """
    if costs_money(config.pool):
        return True
    routers = (RouterRef.of(text, cache)(config) for text in policies if not is_reference(text))
    return any(isinstance(router, PaidRouter) for router in routers)


def _mean_usd(config: EnvConfig, like: Path) -> float:
    """Mean cost of an episode in a dataset, its tokens at the prices of the pool."""
    episodes = [one for one in Dataset.load(like).episodes if one.status == "completed"]
    if not episodes:
        raise InvalidConfigError(f"{like} has no episode that came to an end; give another dataset with --like")
    unknown = sorted({turn.served_model for one in episodes for turn in one.turns} - set(config.pool.model_names))
    if unknown:
        raise PoolMismatchError(
            f"{like} has calls of {', '.join(unknown)}, which pool '{config.pool.name}' lacks; give a dataset of its models "
            "with --like"
        )
    turns = [turn for one in episodes for turn in one.turns]
    total = math.fsum(config.pool.model(turn.served_model).prices.cost_usd(turn.usage) for turn in turns)
    return total / len(episodes)


def _rough_usd(config: EnvConfig, card: ModelCard) -> float:
    """An episode of one model: every turn adds a reply and an observation of the same length; within window and budget."""
    limits = config.limits
    n_reply = math.ceil(_SHARE_OF_OUTPUT * min(limits.max_output_tokens, card.max_output_tokens))
    n_prompt = config.pool.token_counter.count(config.card.system_prompt) + n_reply
    total_usd = 0.0
    for _ in range(limits.max_turns):
        if n_prompt + n_reply > card.context_tokens:
            break
        total_usd += card.prices.worst_case_usd(n_prompt=n_prompt, n_output=n_reply)
        n_prompt += 2 * n_reply
    return min(total_usd, limits.budget_usd)
