"""Asks routers again about the states of their own episodes: what they value, and how they see them.

An evaluation keeps what a router did, not why. Since a router is a function of the observation alone, asking it again gives
the action values that it had, for transcripts and calibration, and the embeddings of the states, for the projector.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mtrouter_rl.agents.resolve import known_algorithm
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.evaluation.behavior_file import PHASES
from mtrouter_rl.evaluation.value_calibration import ValueMeaning
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.records import Episode, EpisodeKey, FloatArray, Observation, TracedEpisode, episode_key

N_TRANSCRIPTS = 3
"""Episodes per split that are written as text, the same ones for every policy."""
N_EPISODES = 300
"""Episodes per split of which a learned router is asked every state."""
N_STATES = 1000
"""States of a router's episodes that are shown in the projector."""
STATE_COLUMNS = (
    "best_model",
    "called_model",
    "task",
    "phase",
    "turn",
    "last_error",
    "error",
    "split",
)
"""What is told of a state: the model of highest Q-value (without Q-values, of highest probability), the one called, the
quarter of the turn limit, the turn from 1, the error that the state shows, the error that the call made, and where the
state is from."""


@runtime_checkable
class ModelEmbedder(Protocol):
    """A learned router that can tell how it sees the models."""

    def model_embeddings(self) -> FloatArray:
        """Embeddings of the models in pool order, shape (M, d)."""


@runtime_checkable
class HistoryEmbedder(Protocol):
    """A learned router that can tell how it sees a history."""

    def history_embeddings(self, observations: Sequence[Observation]) -> FloatArray:
        """Embeddings of B observations, shape (B, d)."""


@dataclass(frozen=True, kw_only=True)
class HistoryStates:
    """States of a router's episodes as the router sees them.

    Attributes:
        embeddings: Shape (N, d).
        metadata: What is told of each, length N; every entry has one text per name of `STATE_COLUMNS`.
    """

    embeddings: FloatArray
    metadata: tuple[tuple[str, ...], ...]


def value_meaning(router: Router, *, env: str) -> ValueMeaning | None:
    """What the Q-values of a trained router are values of in an environment.

    None if it has none, nobody knows how it was made, its agent card cannot be read here, or it was made from logs of several
    environments and this is none of them.
    """
    provenance = getattr(router, "provenance", None)
    if not isinstance(router, ValueRouter) or not isinstance(provenance, Provenance):
        return None
    gamma, reward = getattr(known_algorithm(provenance.card), "gamma", None), provenance.reward_in(env)
    return None if gamma is None or reward is None else ValueMeaning(gamma=gamma, reward=reward)


def revisit(
    policies: Mapping[str, Sequence[Episode]], routers: Mapping[str, Router], pool: PoolCard
) -> dict[str, list[TracedEpisode]]:
    """Episodes of a split with what their routers say of them.

    All routers are asked about the few episodes that become transcripts, those that embed histories about at most
    `N_EPISODES`, evenly spread over the episodes that they completed.

    Args:
        policies: Policy -> its episodes, completed and failed.
        routers: Policy -> its router; may lack some, whose episodes then come as they are.
        pool: The pool of all of them.
    """
    plain = {name: [TracedEpisode(episode=episode) for episode in episodes] for name, episodes in policies.items()}
    shown = set(choose_keys(plain, n_keys=N_TRANSCRIPTS))
    traced = {}
    for name, episodes in plain.items():
        router = routers.get(name)
        is_asked = shown | _spread_keys(policies[name]) if isinstance(router, HistoryEmbedder) else shown
        traced[name] = episodes if router is None else [_asked(one, router, is_asked, pool) for one in episodes]
    return traced


def ask(router: Router, episode: Episode, pool: PoolCard) -> TracedEpisode:
    """An episode with the router's opinion of every turn.

    Args:
        router: The router.
        episode: Has at least one turn.
        pool: The pool that it was run with.
    """
    observations = observations_of(episode, pool)
    q_values = router.q_values(observations) if isinstance(router, ValueRouter) else None
    return TracedEpisode(
        episode=episode, action_probabilities=router.action_probabilities(observations), q_values=q_values
    )


def history_states(
    router: HistoryEmbedder,
    traced: Mapping[str, Sequence[TracedEpisode]],
    pool: PoolCard,
    *,
    rng: np.random.Generator,
    n_states: int = N_STATES,
) -> HistoryStates | None:
    """A sample of the states of a router's episodes, embedded by it.

    Args:
        router: The router.
        traced: Split -> its episodes, as `revisit` gives them; only those that it was asked about are taken.
        pool: The pool that they were run with.
        rng: Source of the draw.
        n_states: At most this many states.

    Returns:
        None if it was asked about no state.
    """
    asked = [(split, one) for split, episodes in traced.items() for one in episodes if one.action_probabilities.size]
    owners = np.repeat(np.arange(len(asked)), [len(one.episode.turns) for _, one in asked])
    if not len(owners):
        return None
    chosen = np.sort(rng.choice(len(owners), size=min(n_states, len(owners)), replace=False))
    firsts = np.searchsorted(owners, np.arange(len(asked)))
    embeddings, metadata = [], []
    for owner in np.unique(owners[chosen]):
        split, one = asked[owner]
        turns = [int(state - firsts[owner]) for state in chosen[owners[chosen] == owner]]
        observations = observations_of(one.episode, pool)
        embeddings.append(router.history_embeddings([observations[turn] for turn in turns]))
        metadata += [_metadata(one, turn, split=split, model_names=pool.model_names) for turn in turns]
    return HistoryStates(embeddings=np.concatenate(embeddings), metadata=tuple(metadata))


def _spread_keys(episodes: Sequence[Episode]) -> set[EpisodeKey]:
    keys = [episode_key(episode) for episode in episodes if episode.status == "completed" and episode.turns]
    picks = np.linspace(0, len(keys) - 1, min(N_EPISODES, len(keys))).round().astype(int)
    return {keys[index] for index in picks}


def _asked(one: TracedEpisode, router: Router, keys: Collection[EpisodeKey], pool: PoolCard) -> TracedEpisode:
    """The episode with the router's opinion of every turn, if it is one of those that it is asked about."""
    is_asked = one.episode.turns and episode_key(one.episode) in keys
    return ask(router, one.episode, pool) if is_asked else one


def _metadata(one: TracedEpisode, turn: int, *, split: str, model_names: Sequence[str]) -> tuple[str, ...]:
    """Texts in the order of `STATE_COLUMNS`."""
    episode = one.episode
    opinions = one.action_probabilities if one.q_values is None else one.q_values
    called = episode.turns[turn]
    phase = 1 + PHASES * turn // episode.max_turns
    texts = (
        model_names[int(opinions[turn].argmax())],
        called.model,
        episode.task,
        f"{phase} of {PHASES}",
        str(turn + 1),
        (episode.turns[turn - 1].error if turn else "") or "none",
        called.error or "none",
        split,
    )
    return tuple(" ".join(text.split()) for text in texts)


def choose_keys(policies: Mapping[str, Sequence[TracedEpisode]], *, n_keys: int) -> tuple[EpisodeKey, ...]:
    """Episodes worth reading, the same for every policy, so that transcripts can be compared.

    Keys are ordered by mean utility over the policies and taken evenly from worst to best.

    Args:
        policies: Policy -> its episodes on one split.
        n_keys: How many, at least 1; fewer if there are fewer.

    Returns:
        (task, variation, seed) that every policy completed; empty if there is none.
    """
    utilities: dict[EpisodeKey, list[float]] = {}
    for traced in policies.values():
        for one in traced:
            if one.episode.status == "completed":
                utilities.setdefault(episode_key(one.episode), []).append(one.episode.utility)
    shared = [key for key, values in utilities.items() if len(values) == len(policies)]
    ordered = sorted(shared, key=lambda key: (float(np.mean(utilities[key])), key))
    picks = np.linspace(0, len(ordered) - 1, min(n_keys, len(ordered))).round().astype(int)
    return tuple(ordered[index] for index in picks)
