"""What a router needs beside its weights to be called by an agent: pool and prices, limits, and what calls cost in its log."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import Count, Episode, Frozen, NonNegative, Positive, PositiveInt

DEPLOYMENT_FILE = "deployment.json"
"""Beside `router.json`."""


class CallStatistics(Frozen):
    """What the log says of the calls of one model.

    Attributes:
        n_calls: How many it answered.
        mean_output_tokens: Mean of what it generated, tokens a call.
    """

    n_calls: Count
    mean_output_tokens: NonNegative


class Deployment(SavedRecord):
    """Contents of `deployment.json`.

    Attributes:
        env: Name of the environment that the router was trained for.
        pool: Its models and their prices.
        reward: Cost weight and cost unit.
        max_turns: Turn limit of an episode.
        budget_usd: Budget of an episode, USD.
        is_simulated: Whether the models of the log were simulated; None without a log.
        tokens_per_character: Prompt tokens over prompt characters in the log; None if no log tells.
        calls: What the log says of each model that was called in it.
        sees_cache: Whether the log says which prompt caches were warm, so that the router learned from it.
    """

    SOURCE: ClassVar[str] = (
        "`mtrouter-rl train` writes it beside router.json; a router of an older version has none: train it again, or give "
        "its pool card"
    )
    FIX: ClassVar[str] = "copy the router's folder again, or train it again"

    env: str
    pool: PoolCard
    reward: RewardCard
    max_turns: PositiveInt
    budget_usd: Positive
    is_simulated: bool | None = None
    tokens_per_character: Positive | None = None
    calls: dict[str, CallStatistics] = Field(default_factory=dict)
    sees_cache: bool = False


def deployment_of(config: EnvConfig, episodes: Sequence[Episode], *, is_simulated: bool | None) -> Deployment:
    """The record for a router that is trained for an environment on a log; `episodes` is empty without one."""
    n_calls: Counter[str] = Counter()
    n_output: Counter[str] = Counter()
    n_prompt = n_characters = 0
    for episode in episodes:
        so_far = len(str(episode.extra.get("system_prompt", ""))) + len(episode.task_text)
        so_far += len(episode.first_observation)
        if episode.usage_source == "cost_only":
            continue
        for turn in episode.turns:
            n_calls[turn.served_model] += 1
            n_output[turn.served_model] += turn.usage.n_output
            n_prompt += turn.usage.n_prompt
            n_characters += so_far
            so_far += len(turn.action_text) + len(turn.observation_text)
    return Deployment(
        env=config.card.name,
        pool=config.pool,
        reward=config.reward,
        max_turns=config.limits.max_turns,
        budget_usd=config.limits.budget_usd,
        is_simulated=is_simulated,
        tokens_per_character=n_prompt / n_characters if n_prompt and n_characters else None,
        calls={
            name: CallStatistics(n_calls=n, mean_output_tokens=n_output[name] / n)
            for name, n in sorted(n_calls.items())
        },
        sees_cache=any(any(turn.warm) for episode in episodes for turn in episode.turns),
    )


def load_deployment(folder: Path) -> Deployment:
    """Read `deployment.json` of a router's folder.

    Raises:
        ResultsError: If it is missing or breaks its rules.
    """
    return Deployment.load(folder / DEPLOYMENT_FILE)
