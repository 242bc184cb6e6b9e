"""Stand-ins that the tests of text encoding and features share: a scripted encoder, a pool, random episodes."""

import datetime
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard, Prices, PromptCacheCard, TokenCounter
from mtrouter_rl.records import Episode, TokenUsage, Turn

torch.set_num_threads(1)


class ScriptedEncoder:
    """Encoder whose vectors are written in the test; any other text gets a unit vector drawn from its characters."""

    name = "scripted"

    def __init__(self, vectors: dict[str, Sequence[float]] | None = None, *, dim: int = 8) -> None:
        self.dim = dim
        self.vectors = vectors or {}
        self.encoded: list[str] = []

    def encode(self, texts):
        self.encoded.extend(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            vector = self.vectors.get(text)
            if vector is None:
                vector = np.random.default_rng(list(text.encode())).normal(size=self.dim)
                vector /= np.linalg.norm(vector)
            row[:] = vector
        return rows


def make_model(name: str, *, scale: float = 1.0) -> ModelCard:
    return ModelCard(
        name=name,
        prices=Prices(input=scale, cached_input=scale / 10, output=5 * scale),
        context_tokens=int(100_000 * scale) + 8_000,
        max_output_tokens=int(10_000 * scale) + 2_000,
        knowledge_cutoff=datetime.date(2024, 1, 1) + datetime.timedelta(days=int(100 * scale)),
    )


def make_pool(*models: ModelCard) -> PoolCard:
    return PoolCard(
        name="fake",
        description="Fake models for tests.",
        models=models,
        token_counter=TokenCounter(kind="characters"),
        prompt_cache=PromptCacheCard(ttl_s=60, min_tokens=100),
        backend=BackendCard(kind="simulated"),
    )


def random_episode(pool: PoolCard, *, seed: int, n_turns: int) -> Episode:
    """Episode with errors, repeated actions, repeated observations and odd costs."""
    rng = np.random.default_rng(seed)
    turns = tuple(
        Turn(
            model=pool.model_names[rng.integers(len(pool.models))],
            served_model=pool.model_names[rng.integers(len(pool.models))],
            action_text=f"go to room {rng.integers(4)}",
            observation_text=f"this is room {rng.integers(6)} of {seed % 3}",
            usage=TokenUsage(n_fresh=int(rng.integers(0, 200)), n_output=20),
            cost_usd=float(rng.uniform(0, 0.01)),
            utility_gain=0.0,
            propensity=0.5,
            action_mask=tuple(bool(bit) for bit in rng.integers(0, 2, len(pool.models))),
            warm=tuple(bool(bit) for bit in rng.integers(0, 2, len(pool.models))),
            error="unknown_action" if rng.random() < 0.4 else "",
            latency_s=float(rng.uniform(0, 40)),
            terminated=index == n_turns - 1,
            truncated=False,
        )
        for index in range(n_turns)
    )
    return Episode(
        episode_id=f"random-{seed}",
        task="walk",
        variation=seed,
        seed=seed,
        split="train",
        task_text=f"walk to room {seed % 2}",
        first_observation="this is room 0",
        behavior_policy="uniform",
        budget_usd=1 / 3,
        max_turns=30,
        turns=turns,
    )


@pytest.fixture
def pool() -> PoolCard:
    return make_pool(make_model("small", scale=0.1), make_model("middle"), make_model("large", scale=3.0))


@pytest.fixture
def scripted() -> Callable[..., ScriptedEncoder]:
    return ScriptedEncoder


@pytest.fixture
def model_of() -> Callable[..., ModelCard]:
    return make_model


@pytest.fixture
def pool_of() -> Callable[..., PoolCard]:
    return make_pool


@pytest.fixture
def episode_of() -> Callable[..., Episode]:
    return random_episode
