"""Features of the interaction history: what a learned router sees of an episode, as one vector of fixed size.

The vector is drawn from a running aggregate that takes in one turn at a time. A log and a live episode go through the
same update, so their features are the same numbers.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.history_sources import (
    HistoryKey,
    PastTurn,
    StateLimits,
    key_of_episode,
    key_of_observation,
    limits_of_episode,
    limits_of_observation,
)
from mtrouter_rl.embeddings.history_state import Float32Array, HistoryState, SeenTexts
from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES, model_features
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.progress import Progress
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.records import Episode, FloatArray, Frozen, JsonValue, Observation

Decay = Annotated[float, Field(ge=0, lt=1)]
Cap = Annotated[int, Field(gt=0)]

FEATURES_VERSION = 1
"""Raised whenever the meaning of a column changes, so that a saved router is never fed other columns."""

SCALAR_NAMES: tuple[str, ...] = (
    "turn_share",
    "turns_left_share",
    "log_turn",
    "budget_left_share",
    "log_budget_left_usd",
    "last_turn_error",
    "consecutive_errors",
    "error_rate_fast",
    "error_rate_slow",
    "error_share",
    "action_repeated",
    "observation_is_new",
    "novelty",
    "model_run_length",
    "log_switches",
    "last_model_is_warm",
    "log_characters",
)
"""Meaning of every column of the "scalars" block, each roughly within [-2, 2]."""

_TEXT_BLOCKS = ("task", "last_observation", "last_action", "recent")
_N_MEMORIES = 5
_TEXTS_PER_BATCH = 256
_FLOOR_BUDGET_USD = 1e-4

_Vectors = Mapping[str, Float32Array]


class HistoryFeaturesConfig(Frozen):
    """How fast the past fades. With a decay of 0.8 a turn weighs 0.8 times as much as the one after it.

    Attributes:
        text_decay: Decay of the mean of past turns' text vectors.
        model_decay: Decay of the memories of which models acted, failed, or brought nothing new.
        error_decay_fast: Decay of the error rate over the last few turns.
        error_decay_slow: Decay of the error rate over the last dozen turns.
        novelty_decay: Decay of the share of turns whose observation was new.
        consecutive_errors_cap: This many errors in a row, or more, make the feature 1.
        run_length_cap: This many turns in a row with one model, or more, make the feature 1.
    """

    text_decay: Decay = 0.7
    model_decay: Decay = 0.8
    error_decay_fast: Decay = 0.5
    error_decay_slow: Decay = 0.9
    novelty_decay: Decay = 0.8
    consecutive_errors_cap: Cap = 5
    run_length_cap: Cap = 10


def _texts(key: HistoryKey, *, known: HistoryState | None = None) -> Iterable[str]:
    """Texts of a conversation that its known state has not taken in yet."""
    task_text, first_observation, turns = key
    if known is None:
        yield task_text
        yield first_observation
    for _, action, observation, _ in turns[known.n_turns if known else 0 :]:
        yield action
        yield observation


class HistoryFeatures:
    """Features of interaction histories, for one text encoder and one model pool.

    Which model acted is told by its features alone, so the vectors are the same whatever the order or size of the pool.
    An instance keeps recent aggregates in memory, so that a live decision takes in one turn only; that is a cache, it
    changes no number. Not to be shared between threads.

    Attributes:
        encoder: Text encoder; wrap it in `CachedEncoder` so that every text is encoded once.
        pool: The models.
        config: How fast the past fades.
        dim: Size D of a vector, 4 E + 17 + 5 F.
        blocks: Named parts of the vector: "task", "last_observation", "last_action", "recent" (E columns each),
            "scalars" (as in `SCALAR_NAMES`) and "model_memory" (5 F columns: last model, decayed mean of models,
            decayed sum of models whose turn was an error, the same of models whose turn showed an observation that the
            episode had shown before, last model but one).
        model_features: Features of the models in pool order, shape (M, F).
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        pool: PoolCard,
        config: HistoryFeaturesConfig | None = None,
        n_states: int = 2048,
    ) -> None:
        """Prepare; nothing is encoded yet.

        Args:
            encoder: Text encoder of E dimensions.
            pool: The models.
            config: How fast the past fades; None takes the defaults.
            n_states: How many recent aggregates are kept, at least twice the number of episodes run at once; 0 keeps
                none.

        Raises:
            InvalidConfigError: If n_states is negative.
        """
        if n_states < 0:
            raise InvalidConfigError(f"n_states is {n_states}, must be 0 or more; 0 keeps no aggregates")
        self.encoder = encoder
        self.pool = pool
        self.config = config or HistoryFeaturesConfig()
        self.model_features: Float32Array = model_features(pool)
        self.model_features.setflags(write=False)
        self.blocks = self._layout()
        self.dim: int = self.blocks["model_memory"].stop
        self._n_states = n_states
        self._states: OrderedDict[HistoryKey, HistoryState] = OrderedDict()

    def of_episode(self, episode: Episode) -> Float32Array:
        """Features of every state of a logged episode.

        Args:
            episode: An episode of T turns, logged with this pool.

        Returns:
            Shape (T+1, D). Row t is the state before turn t, row T the state after the last turn.

        Raises:
            UnknownNameError: If a turn names a model that the pool does not have.
            PoolMismatchError: If a turn was logged with a pool of another size.
        """
        key = key_of_episode(episode, self.pool)
        vectors = self._encode(_texts(key))
        rows = np.empty((len(episode.turns) + 1, self.dim), dtype=np.float32)
        limits = limits_of_episode(episode, self.pool)
        state = self._start(key, vectors)
        self._fill(rows[0], state, limits[0])
        for index, turn in enumerate(key[2], start=1):
            state = self._update(state, turn, vectors)
            self._fill(rows[index], state, limits[index])
        return rows

    def of_observations(self, observations: Sequence[Observation]) -> Float32Array:
        """Features of a batch of live observations, of any episodes in any order.

        Args:
            observations: B observations.

        Returns:
            Shape (B, D).

        Raises:
            InvalidConfigError: If an observation's turn index is not the length of its history.
            PoolMismatchError: If an observation was made with another pool.
        """
        keys = [key_of_observation(observation, len(self.pool.models)) for observation in observations]
        bases = [self._known(key) for key in keys]
        vectors = self._encode(text for key, base in zip(keys, bases, strict=True) for text in _texts(key, known=base))
        rows = np.empty((len(observations), self.dim), dtype=np.float32)
        for row, observation, key, base in zip(rows, observations, keys, bases, strict=True):
            self._fill(row, self._state(key, base, vectors), limits_of_observation(observation))
        return rows

    def encode_log(self, episodes: Sequence[Episode], *, show_progress: bool) -> None:
        """Encode every distinct text of a log once, so that `of_episode` only reads the encoder's cache.

        Without a `CachedEncoder` the work is lost.

        Args:
            episodes: The log.
            show_progress: Whether to draw a progress bar.
        """
        distinct = sorted(set(self.texts_of(episodes)))
        with Progress("encoding", total=len(distinct), unit="text", is_shown=show_progress) as bar:
            for start in range(0, len(distinct), _TEXTS_PER_BATCH):
                batch = distinct[start : start + _TEXTS_PER_BATCH]
                self.encoder.encode(batch)
                bar.update(len(batch))

    def texts_of(self, episodes: Iterable[Episode]) -> Iterator[str]:
        """Every text that the features of logged episodes are made of; texts that come again are given again."""
        return (text for episode in episodes for text in _texts(key_of_episode(episode, self.pool)))

    def to_config(self) -> dict[str, JsonValue]:
        """Provenance as JSON values: two instances with equal ones give equal features."""
        return {
            "features_version": FEATURES_VERSION,
            "encoder": self.encoder.name,
            "encoder_dim": self.encoder.dim,
            "dim": self.dim,
            "config": self.config.model_dump(mode="json"),
            "model_names": list(self.pool.model_names),
            "model_feature_names": list(MODEL_FEATURE_NAMES),
            "scalar_names": list(SCALAR_NAMES),
        }

    @property
    def budget_columns(self) -> tuple[int, int]:
        """Columns of the values that `budget_features` gives."""
        start = self.blocks["scalars"].start
        return start + SCALAR_NAMES.index("budget_left_share"), start + SCALAR_NAMES.index("log_budget_left_usd")

    def _layout(self) -> dict[str, slice]:
        sizes = dict.fromkeys(_TEXT_BLOCKS, self.encoder.dim)
        sizes["scalars"] = len(SCALAR_NAMES)
        sizes["model_memory"] = _N_MEMORIES * len(MODEL_FEATURE_NAMES)
        stops = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}

    def _encode(self, texts: Iterable[str]) -> _Vectors:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.encoder.encode(distinct), strict=True)) if distinct else {}

    def _known(self, key: HistoryKey) -> HistoryState | None:
        """Kept state of a conversation, or else of the same without its last turn."""
        state = self._states.get(key)
        if state is None and key[2]:
            state = self._states.get((key[0], key[1], key[2][:-1]))
        return state

    def _state(self, key: HistoryKey, base: HistoryState | None, vectors: _Vectors) -> HistoryState:
        """State of a conversation, from the most advanced one that is known, and keep it.

        `base` is what was known before the batch; by now more may be, or it may have been pushed out.
        """
        known = [state for state in (base, self._known(key)) if state is not None]
        state = max(known, key=lambda state: state.n_turns) if known else self._start(key, vectors)
        for turn in key[2][state.n_turns :]:
            state = self._update(state, turn, vectors)
        self._states[state.key] = state
        self._states.move_to_end(state.key)
        while len(self._states) > self._n_states:
            self._states.popitem(last=False)
        return state

    def _start(self, key: HistoryKey, vectors: _Vectors) -> HistoryState:
        """State before the first turn."""
        task_text, first_observation, _ = key
        zeros = np.zeros(self.encoder.dim, dtype=np.float32)
        return HistoryState(
            key=(task_text, first_observation, ()),
            seen=SeenTexts({first_observation: 0}, 0),
            task=vectors[task_text],
            observation=vectors[first_observation],
            action=zeros,
            recent=zeros,
            recent_weight=0.0,
            memory=np.zeros((_N_MEMORIES, len(MODEL_FEATURE_NAMES)), dtype=np.float32),
            memory_weight=0.0,
            n_characters=len(task_text) + len(first_observation),
        )

    def _update(self, state: HistoryState, turn: PastTurn, vectors: _Vectors) -> HistoryState:
        """Take in one turn; the work does not depend on how many there were before."""
        model, action_text, observation_text, error = turn
        config = self.config
        is_error = bool(error)
        is_new, seen = state.seen.add(observation_text, turn=state.n_turns + 1)
        last = state.turns[-1] if state.turns else None
        is_same_model = last is not None and last[0] == model
        action, observation = vectors[action_text], vectors[observation_text]
        return replace(
            state,
            key=(*state.key[:2], (*state.turns, turn)),
            seen=seen,
            observation=observation,
            action=action,
            recent=np.float32(config.text_decay) * state.recent + np.float32(0.5) * (action + observation),
            recent_weight=config.text_decay * state.recent_weight + 1.0,
            memory=self._remember(state.memory, model, is_error=is_error, is_new=is_new),
            memory_weight=config.model_decay * state.memory_weight + 1.0,
            n_errors=state.n_errors + is_error,
            n_consecutive_errors=state.n_consecutive_errors + 1 if is_error else 0,
            error_fast=state.error_fast.add(is_error, config.error_decay_fast),
            error_slow=state.error_slow.add(is_error, config.error_decay_slow),
            is_repeat=last is not None and last[1] == action_text,
            is_new=is_new,
            novelty=state.novelty.add(is_new, config.novelty_decay),
            run_length=state.run_length + 1 if is_same_model else 1,
            n_switches=state.n_switches + (last is not None and not is_same_model),
            n_characters=state.n_characters + len(action_text) + len(observation_text),
        )

    def _remember(self, memory: Float32Array, model: int, *, is_error: bool, is_new: bool) -> Float32Array:
        features = self.model_features[model]
        updated = np.float32(self.config.model_decay) * memory
        updated[1] += features
        updated[2] += features * np.float32(is_error)
        updated[3] += features * np.float32(not is_new)
        updated[4] = memory[0]
        updated[0] = features
        return updated

    def _fill(self, row: Float32Array, state: HistoryState, limits: StateLimits) -> None:
        """Write the vector of a state, shape (D,)."""
        memory = state.memory.copy()
        memory[1] /= np.float32(max(state.memory_weight, 1.0))
        values: dict[str, Float32Array] = {
            "task": state.task,
            "last_observation": state.observation,
            "last_action": state.action,
            "recent": state.recent / np.float32(max(state.recent_weight, 1.0)),
            "scalars": self._scalars(state, limits),
            "model_memory": memory.ravel(),
        }
        for name, value in values.items():
            row[self.blocks[name]] = value

    def _scalars(self, state: HistoryState, limits: StateLimits) -> Float32Array:
        """Values in the order of `SCALAR_NAMES`, on fixed scales."""
        config = self.config
        n_turns = state.n_turns
        values = [
            n_turns / limits.max_turns,
            (limits.max_turns - n_turns) / limits.max_turns,
            float(np.log1p(n_turns)) / 4,
            *budget_features(limits.budget_left_usd, limits.budget_usd),
            state.n_consecutive_errors > 0,
            min(state.n_consecutive_errors / config.consecutive_errors_cap, 1.0),
            state.error_fast.mean,
            state.error_slow.mean,
            state.n_errors / max(n_turns, 1),
            state.is_repeat,
            state.is_new,
            state.novelty.mean,
            min(state.run_length / config.run_length_cap, 1.0),
            float(np.log1p(state.n_switches)) / 4,
            bool(state.turns) and bool(limits.warm[state.turns[-1][0]]),
            float(np.log10(1 + state.n_characters)) / 5,
        ]
        return np.array(values, dtype=np.float32)


def budget_features(
    budget_left_usd: float | FloatArray, budget_usd: float | FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Values of "budget_left_share" and "log_budget_left_usd": two arrays of the shape of the arguments.

    Args:
        budget_left_usd: What is left, USD.
        budget_usd: Budget of the whole episode, USD.
    """
    left, whole = (
        np.asarray(np.asarray(usd, dtype=np.float32), dtype=np.float64) for usd in (budget_left_usd, budget_usd)
    )
    return left / whole, np.log10(np.maximum(left, _FLOOR_BUDGET_USD)) / 2
