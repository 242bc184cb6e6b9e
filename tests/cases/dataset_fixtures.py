"""Small made-up episodes whose costs are right, and the cards around them."""

import dataclasses
import datetime

import pytest

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices, PromptCacheCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.store import DatasetWriter
from mtrouter_rl.records import Episode, TokenUsage, TracedEpisode, Turn


def _model(name, *, input_price, output_price):
    return ModelCard(
        name=name,
        prices=Prices(input=input_price, cached_input=input_price / 10, cache_write=None, output=output_price),
        context_tokens=100_000,
        max_output_tokens=4_000,
        knowledge_cutoff=datetime.date(2025, 1, 31),
    )


MODELS = (_model("cheap", input_price=0.1, output_price=0.4), _model("strong", input_price=2.0, output_price=8.0))


@pytest.fixture
def info():
    return DatasetInfo(
        dataset_id="toy-v1",
        env="toy",
        pool_name="toy-pool",
        models=MODELS,
        prompt_cache=PromptCacheCard(ttl_s=300.0, min_tokens=1024),
        behavior_policy="uniform",
        split="train",
        seed=3,
        n_episodes_planned=6,
        max_turns=5,
        budget_usd=1.0,
        is_simulated=True,
        package_version="0.1.0",
        created_by={"command": "collect", "policies": ("uniform",)},
    )


@pytest.fixture
def pool():
    return PoolCard.model_validate(
        {
            "name": "other-name",
            "description": "made up",
            "models": MODELS,
            "token_counter": {"kind": "characters"},
            "prompt_cache": {"ttl_s": 300.0, "min_tokens": 1024},
            "backend": {"kind": "simulated"},
        }
    )


@pytest.fixture
def env_card():
    return EnvCard.model_validate(
        {
            "name": "toy",
            "description": "made up",
            "family": "corridor",
            "pool": "toy-pool",
            "system_prompt": "Act.",
            "train_tasks": {"boil": 30, "melt": 10, "freeze": 40},
            "ood_tasks": {"paint": 50, "wire": 4},
            "splits": {"variations_per_task": 30, "train": 0.6, "validation": 0.2, "seed": 0},
            "limits": {"max_turns": 5, "budget_usd": 1.0, "max_output_tokens": 100},
            "reward": {"cost_weight": 0.1, "cost_unit_usd": 1.0},
        }
    )


def _turn(index, *, is_last, **changes):
    model = MODELS[index % 2]
    served = MODELS[0] if index == 3 else model  # a fall-back took over
    usage = TokenUsage(n_fresh=100 + 7 * index, n_cached=31 * index, n_written=3, n_output=11 + index)
    turn = Turn(
        model=model.name,
        served_model=served.name,
        action_text=f"open door {index} – Tür ✓ 漢字",
        observation_text="" if index == 1 else f"The door is open.\n\tYou see {index} 🙂.",
        usage=usage,
        cost_usd=served.prices.cost_usd(usage),
        utility_gain=(-0.1, 0.3, 0.0, 0.2, 0.1)[index],
        propensity=1.0 if index == 2 else 0.1 + 0.2 * index,
        action_mask=(True, index != 2),
        warm=(index > 0, index > 1),
        error="unknown_action" if index == 1 else "",
        latency_s=0.1 * index,
        terminated=is_last,
        truncated=False,
    )
    return dataclasses.replace(turn, **changes)


@pytest.fixture
def make_episode():
    def make(seed, n_turns, *, task="boil", last=None, **changes):
        """Episode `task-v0-s{seed}`; `last` changes fields of the last turn, `changes` those of the episode."""
        turns = tuple(
            _turn(i, is_last=i == n_turns - 1, **((last or {}) if i == n_turns - 1 else {})) for i in range(n_turns)
        )
        episode = Episode(
            episode_id=f"{task}-v0-s{seed}",
            task=task,
            variation=0,
            seed=seed,
            split="train",
            task_text="Boil water – in °C.",
            first_observation="A kitchen.",
            behavior_policy="uniform",
            budget_usd=1.0,
            max_turns=5,
            turns=turns,
        )
        return dataclasses.replace(episode, **changes)

    return make


@pytest.fixture
def episodes(make_episode):
    """Unequal lengths; an end that is both; a truncated one; failed ones; one truncated before its first call."""
    return (
        make_episode(1, 3),
        make_episode(2, 5, last={"truncated": True}),
        make_episode(3, 1, last={"terminated": False, "truncated": True}, task="melt"),
        make_episode(4, 0, status="failed", status_detail="backend: 503 – überlastet"),
        make_episode(5, 2, last={"terminated": False}, status="failed", status_detail="simulator died"),
        make_episode(6, 0, budget_usd=1e-9),
    )


@pytest.fixture
def traced(episodes):
    return tuple(
        TracedEpisode(
            episode=episode,
            hidden=tuple({"stuck": i % 2 == 0, "skill": "öffnen"} for i in range(len(episode.turns))),
        )
        for episode in episodes
    )


@pytest.fixture
def folder(tmp_path, info, traced):
    """A valid dataset of two shards."""
    writer = DatasetWriter(tmp_path / "toy", info)
    writer.write_shard(0, traced[:4])
    writer.write_shard(1, traced[4:])
    return writer.folder
