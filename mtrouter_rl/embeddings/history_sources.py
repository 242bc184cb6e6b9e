"""What a logged episode and a live observation say of a history, brought to one form; and the one made from the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError
from mtrouter_rl.pools.prompt_cache import PromptCache
from mtrouter_rl.records import Episode, Observation, TurnView

PastTurn = tuple[int, str, str, str]
"""Model, action text, observation text, error kind."""
HistoryKey = tuple[str, str, tuple[PastTurn, ...]]
"""Task text, first observation, the turns so far."""

_PAST_TURN_OF_VIEW = itemgetter("model", "action", "observation", "error")


@dataclass(frozen=True, kw_only=True)
class StateLimits:
    """What a state before a turn takes from outside the conversation.

    Attributes:
        max_turns: Turn limit of the episode.
        budget_usd: Budget of the episode, already rounded to float32.
        budget_left_usd: What is left of it, already rounded to float32.
        warm: Which models hold a warm prompt cache, shape (M,).
    """

    max_turns: int
    budget_usd: float
    budget_left_usd: float
    warm: Sequence[bool] | npt.NDArray[np.int8]


def key_of_episode(episode: Episode, pool: PoolCard) -> HistoryKey:
    """History of a whole logged episode.

    Raises:
        UnknownNameError: If a turn names a model that the pool does not have.
        PoolMismatchError: If a turn was logged with a pool of another size.
    """
    actions = {name: pool.index(name) for name in set(episode.models)}
    for index, turn in enumerate(episode.turns):
        if len(turn.warm) != len(pool.models) or len(turn.action_mask) != len(pool.models):
            raise PoolMismatchError(
                f"episode '{episode.episode_id}', turn {index}: action_mask and warm have {len(turn.action_mask)} and "
                f"{len(turn.warm)} entries, must have one per model of pool '{pool.name}' ({len(pool.models)}); "
                "use the pool that the episode was logged with"
            )
    turns = tuple((actions[turn.model], turn.action_text, turn.observation_text, turn.error) for turn in episode.turns)
    return episode.task_text, episode.first_observation, turns


def _warm_at_end(episode: Episode, pool: PoolCard) -> tuple[bool, ...]:
    """Which models hold a warm prompt cache after the last turn, which is the one thing that a log does not say.

    A call whose latency was not logged counts as one that took no time.
    """
    cache = PromptCache(pool.prompt_cache, pool.bases)
    now_s = 0.0
    for turn in episode.turns:
        cache.record(turn.served_model, n_prompt=turn.usage.n_prompt, now_s=now_s)
        now_s += turn.latency_s or 0.0
    return tuple(cache.is_warm(name, now_s=now_s) for name in pool.model_names)


def limits_of_episode(episode: Episode, pool: PoolCard) -> list[StateLimits]:
    """Limits before every turn and after the last, length T+1."""
    warm = [turn.warm for turn in episode.turns]
    spent_usd = 0.0
    limits = []
    for index in range(len(episode.turns) + 1):
        limits.append(
            StateLimits(
                max_turns=episode.max_turns,
                budget_usd=float(np.float32(episode.budget_usd)),
                budget_left_usd=float(np.float32(episode.budget_usd - spent_usd)),
                warm=warm[index] if index < len(warm) else _warm_at_end(episode, pool),
            )
        )
        if index < len(episode.turns):
            spent_usd += episode.turns[index].cost_usd
    return limits


def key_of_observation(observation: Observation, n_models: int) -> HistoryKey:
    """History that an observation shows.

    Raises:
        InvalidConfigError: If its turn index is not the length of its history.
        PoolMismatchError: If it was made with another pool.
    """
    history = observation["history"]
    if int(observation["turn"]) != len(history):
        raise InvalidConfigError(
            f"observation: turn is {int(observation['turn'])}, but history has {len(history)} turns; must be equal"
        )
    turns: tuple[PastTurn, ...] = tuple(map(_PAST_TURN_OF_VIEW, history))
    models = {turn[0] for turn in turns}
    if len(observation["warm"]) != n_models or any(not 0 <= model < n_models for model in models):
        raise PoolMismatchError(
            f"observation: warm has {len(observation['warm'])} entries and history names models {sorted(models)}, but "
            f"the pool has {n_models} models; use the pool that the environment runs with"
        )
    return observation["task"], observation["first_observation"], turns


def limits_of_observation(observation: Observation) -> StateLimits:
    """Limits of the state that an observation shows."""
    return StateLimits(
        max_turns=int(observation["max_turns"]),
        budget_usd=float(observation["budget_usd"][0]),
        budget_left_usd=float(observation["budget_left_usd"][0]),
        warm=observation["warm"],
    )


def observations_of(episode: Episode, pool: PoolCard) -> tuple[Observation, ...]:
    """The router's view before each turn of a logged episode, as `RoutingEnv` gave it when it was logged.

    Args:
        episode: An episode of T turns.
        pool: The pool that it was logged with.

    Returns:
        T observations.

    Raises:
        UnknownNameError: If a turn names a model that the pool does not have.
        PoolMismatchError: If a turn was logged with a pool of another size.
    """
    _, _, turns = key_of_episode(episode, pool)
    views = tuple(
        TurnView(model=model, action=action, observation=observation, error=error)
        for model, action, observation, error in turns
    )
    return tuple(
        Observation(
            task=episode.task_text,
            first_observation=episode.first_observation,
            history=views[:index],
            turn=np.int64(index),
            max_turns=np.int64(episode.max_turns),
            budget_left_usd=np.array([limits.budget_left_usd], dtype=np.float32),
            budget_usd=np.array([limits.budget_usd], dtype=np.float32),
            warm=np.array(turn.warm, dtype=np.int8),
            action_mask=np.array(turn.action_mask, dtype=np.int8),
        )
        for index, (turn, limits) in enumerate(zip(episode.turns, limits_of_episode(episode, pool), strict=False))
    )
