"""Builds a `RoutingEnv` from cards; `gymnasium.make` comes through here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from mtrouter_rl.cards import EnvCard, RewardCard, find_card, load_pool_card, parse_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import unknown_name
from mtrouter_rl.protocols import ModelBackend, TextTask
from mtrouter_rl.records import SPLITS, EpisodeSpec, Split
from mtrouter_rl.registry import BACKENDS, CARD_COMPLETERS, TASK_FAMILIES, code_allowed


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Resolved cards of an environment; plain data, so that it can be sent to a worker process.

    Limits and reward are resolved here, once: nothing else reads those of the card.

    Attributes:
        card: Environment card.
        pool: Pool card.
        limits: Limits, the card's unless they were overridden.
        reward: Reward, the card's at its own cost weight unless that was overridden.
    """

    card: EnvCard
    pool: PoolCard
    limits: EpisodeLimits
    reward: RewardCard

    @property
    def cost_weight(self) -> float:
        """Cost weight of the reward."""
        return self.reward.cost_weight

    def at_cost_weight(self, cost_weight: float) -> "EnvConfig":
        """The same environment at another cost weight.

        Raises:
            InvalidConfigError: If the weight is below 0 or not finite.
        """
        return replace(self, reward=self.reward.at(cost_weight))


def resolve_env(
    env: str | Path = "scienceworld",
    pool: str | Path | None = None,
    *,
    cost_weight: float | None = None,
    budget_usd: float | None = None,
    max_turns: int | None = None,
) -> EnvConfig:
    """Read the cards and apply overrides.

    Args:
        env: Environment card, name or path.
        pool: Pool card, name or path; None takes the environment's.
        cost_weight: Overrides the card's.
        budget_usd: Overrides the card's, USD.
        max_turns: Overrides the card's.

    Raises:
        CardError: If a card breaks its rules.
        UnknownNameError: If there is no card of that name.
        InvalidConfigError: If an override is out of range.
    """
    path = find_card("envs", env)
    return resolve_card(
        parse_card(path, EnvCard),
        pool,
        beside=path.parent,
        cost_weight=cost_weight,
        budget_usd=budget_usd,
        max_turns=max_turns,
    )


def resolve_card(
    card: EnvCard,
    pool: str | Path | None = None,
    *,
    beside: Path | None = None,
    cost_weight: float | None = None,
    budget_usd: float | None = None,
    max_turns: int | None = None,
) -> EnvConfig:
    """Complete a card that is read already, and apply overrides; `beside` is the folder in which its pool is looked up first.

    Raises:
        CardError: If the pool card breaks its rules.
        UnknownNameError: If there is no pool card of that name.
        InvalidConfigError: If an override is out of range.
    """
    card = _complete(card)
    limits = EpisodeLimits(
        max_turns=card.limits.max_turns if max_turns is None else max_turns,
        budget_usd=card.limits.budget_usd if budget_usd is None else budget_usd,
        max_output_tokens=card.limits.max_output_tokens,
    )
    reward = card.reward if cost_weight is None else card.reward.at(cost_weight)
    return EnvConfig(card=card, pool=load_pool_card(pool or _pool_of(card, beside)), limits=limits, reward=reward)


def _complete(card: EnvCard) -> EnvCard:
    """Let the family fill in what only a file of the user says, such as how many variations there are."""
    if card.family in CARD_COMPLETERS.targets():
        complete = cast(Callable[[EnvCard], EnvCard], CARD_COMPLETERS.load(card.family))
        card = complete(card)
    card.counted_tasks()
    return card


def _pool_of(card: EnvCard, folder: Path | None) -> str | Path:
    """The pool that an environment card names; a relative path is looked up beside the card first."""
    if folder is not None and (folder / card.pool).is_file():
        return folder / card.pool
    return card.pool


def build_env(config: EnvConfig, *, split: Split = "train", render_mode: str | None = None) -> RoutingEnv:
    """Routing environment of resolved cards.

    Raises:
        InvalidConfigError: If the split has no tasks in this environment.
        UnknownNameError: If the family or the backend is not registered.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    make_task = cast("type[TextTask]", TASK_FAMILIES.load(config.card.family))
    make_backend = cast("type[ModelBackend]", BACKENDS.load(config.pool.backend.kind))
    pairs = episode_specs(config.card, split)
    return RoutingEnv(
        task=make_task(config.card),  # type: ignore[call-arg]
        backend=make_backend(config.pool, config.card),  # type: ignore[call-arg]
        pool=config.pool,
        specs=[EpisodeSpec(task=task, variation=variation, seed=0, split=split) for task, variation in pairs],
        system_prompt=config.card.system_prompt,
        limits=config.limits,
        reward=config.reward,
        harness=config.card.harness,
        render_mode=render_mode,
    )


def make_env(
    env: str | Path = "scienceworld",
    pool: str | Path | None = None,
    split: Split = "train",
    cost_weight: float | None = None,
    budget_usd: float | None = None,
    max_turns: int | None = None,
    render_mode: str | None = None,
    allow_code: bool = False,
) -> RoutingEnv:
    """Entry point of `gymnasium.make("mtrouter_rl/ScienceWorld-v0", ...)`; see `resolve_env` and `build_env`.

    `allow_code` lets the card name code as "module:attribute"; see `mtrouter_rl.registry.code_allowed`.
    """
    with code_allowed(allow_code):
        config = resolve_env(env, pool, cost_weight=cost_weight, budget_usd=budget_usd, max_turns=max_turns)
        return build_env(config, split=split, render_mode=render_mode)
