"""From plain Python records to a trained router: write a dataset, load it, train fitted-q, evaluate it closed-loop.

The records stand for what your own system logged, one dictionary a turn. Here a small loop over the toy environment
makes them, so that the example runs anywhere. Run it with: python examples/train_on_my_logs.py
"""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import mtrouter_rl
from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards import load_agent_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.records import Episode, TokenUsage, TracedEpisode, Turn
from mtrouter_rl.reporting.tables import format_table
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, evaluate_routers, train_router

CONFIG = resolve_env("corridor")
TINY = {"n_iterations": 4, "n_warm_start": 1, "steps_per_iteration": 25, "keep_last": 2, "batch_size": 64}


def my_records(n_episodes: int) -> list[list[dict[str, Any]]]:
    """Episodes as lists of turn records: the part that your own system has done already."""
    env = gymnasium.make("mtrouter_rl/Corridor-v0", split="train")
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(n_episodes):
        observation, info = env.reset(seed=seed)
        start = {"spec": info["spec"], "task": observation["task"], "first": observation["first_observation"]}
        records, is_over = [], False
        while not is_over:
            allowed = np.flatnonzero(observation["action_mask"])
            before = {"mask": observation["action_mask"], "warm": observation["warm"], "propensity": 1 / len(allowed)}
            observation, _, terminated, truncated, info = env.step(int(rng.choice(allowed)))
            records.append(start | before | info | {"terminated": terminated, "truncated": truncated})
            is_over = terminated or truncated
        episodes.append(records)
    env.close()
    return episodes


def to_turn(record: dict[str, Any], pool: PoolCard) -> Turn:
    """One record as a turn. Nothing has a default: what your logs lack has to be found out, not filled in."""
    usage: TokenUsage = record["usage"]
    return Turn(
        model=record["model"],
        served_model=record["served_model"],
        action_text=record["action_text"],
        observation_text=record["observation_text"],
        usage=usage,
        cost_usd=pool.model(record["served_model"]).prices.cost_usd(usage),
        utility_gain=record["utility_gain"],
        propensity=record["propensity"],
        action_mask=tuple(bool(allowed) for allowed in record["mask"]),
        warm=tuple(bool(warm) for warm in record["warm"]),
        error=record["error"],
        latency_s=record["latency_s"],
        terminated=record["terminated"],
        truncated=record["truncated"],
    )


def to_episode(records: list[dict[str, Any]], pool: PoolCard) -> TracedEpisode:
    """The records of one run as an episode."""
    spec = records[0]["spec"]
    episode = Episode(
        episode_id=spec.key,
        task=spec.task,
        variation=spec.variation,
        seed=spec.seed,
        split=spec.split,
        task_text=records[0]["task"],
        first_observation=records[0]["first"],
        behavior_policy="uniform",
        budget_usd=CONFIG.limits.budget_usd,
        max_turns=CONFIG.limits.max_turns,
        turns=tuple(to_turn(record, pool) for record in records),
    )
    return TracedEpisode(episode=episode)


def write_dataset(folder: Path, episodes: list[TracedEpisode]) -> Dataset:
    """Write a dataset of one shard, and load it back: loading checks every rule."""
    info = DatasetInfo(
        dataset_id="my-logs-v1",
        env=CONFIG.card.name,
        pool_name=CONFIG.pool.name,
        models=CONFIG.pool.models,
        prompt_cache=CONFIG.pool.prompt_cache,
        behavior_policy="uniform",
        split="train",
        seed=0,
        n_episodes_planned=len(episodes),
        max_turns=CONFIG.limits.max_turns,
        budget_usd=CONFIG.limits.budget_usd,
        is_simulated=True,
        package_version=mtrouter_rl.__version__,
        created_by={"script": "train_on_my_logs.py"},
    )
    DatasetWriter(folder, info).write_shard(0, episodes)
    return Dataset.load(folder)


def main() -> None:
    """Write, train, evaluate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_dataset(folder / "log", [to_episode(records, CONFIG.pool) for records in my_records(60)])
        print(f"dataset '{dataset.info.dataset_id}': {len(dataset.completed)} episodes, {dataset.n_turns} turns")
        card = load_agent_card("fitted-q")
        card = card.model_copy(update={"parameters": card.parameters | TINY})
        training = TrainRequest(
            agent=card, config=CONFIG, seed=0, out=folder / "router", dataset=folder / "log", encoder="hashing"
        )
        router = str(train_router(training, show_progress=False))
        print(f"trained router: {RouterRef.of(router)(CONFIG).name}")
        evaluation = EvaluateRequest(
            routers=(router, "random", "cheapest"), split="test", n_seeds=1, out=folder / "run"
        )
        with RolloutPool(CONFIG, n_workers=1) as workers:
            results = evaluate_routers(workers, evaluation, show_progress=False)
        print(format_table(results, "test"))


if __name__ == "__main__":
    main()
