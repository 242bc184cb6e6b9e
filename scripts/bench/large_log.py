"""A made-up log of any size, to measure what memory and time depend on: uniform routing over ScienceWorld's pool.

Tasks, models and texts are random words; half of the observations are new in the log. Nothing about it is worth learning.

    python scripts/bench/large_log.py logs/million --turns 1000000
    mtrouter-rl inspect logs/million
"""

import argparse
from pathlib import Path

import numpy as np

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.records import Episode, TokenUsage, TracedEpisode, Turn

ENV = "scienceworld"
TURNS_OF_EPISODE = 25
N_CLUSTERS = 500
_N_TASKS = 20


def made_up_episodes(n_turns, config):
    """Episodes of 1 to 2 * `TURNS_OF_EPISODE` - 1 turns, so many turns together or a few less."""
    rng, left, number = np.random.default_rng(0), n_turns, 0
    words = [f"word{index}" for index in range(2000)]
    while left > 0:
        length = min(left, int(rng.integers(1, 2 * TURNS_OF_EPISODE)))
        yield made_up_episode(number, length, config, words, rng)
        left, number = left - length, number + 1


def made_up_episode(number, length, config, words, rng):
    names = config.pool.model_names
    actions = rng.integers(len(names), size=length).tolist()
    texts = rng.integers(len(words), size=(length, 20)).tolist()
    rooms = rng.integers(100, size=(length, 2)).tolist()
    gains = (rng.random(length) < 0.05) * 0.02
    outputs = rng.integers(20, 400, size=length).tolist()
    usages = [TokenUsage(n_fresh=300 + 60 * index, n_output=output) for index, output in enumerate(outputs)]
    turns = tuple(
        Turn(
            model=names[action],
            served_model=names[action],
            action_text=f"go to room {rooms[index][0]}",
            observation_text=" ".join(words[word] for word in texts[index])
            if index % 2
            else f"You are in room {rooms[index][1]}.",
            usage=usages[index],
            cost_usd=config.pool.models[action].prices.cost_usd(usages[index]),
            utility_gain=float(gains[index]),
            propensity=1 / len(names),
            action_mask=(True,) * len(names),
            warm=(False,) * len(names),
            error="",
            latency_s=1.0,
            terminated=index == length - 1,
            truncated=False,
        )
        for index, action in enumerate(actions)
    )
    cluster = number % N_CLUSTERS
    return Episode(
        episode_id=f"made-up-{number}",
        task=f"task-{cluster % _N_TASKS}",
        variation=cluster // _N_TASKS,
        seed=number,
        split="train",
        task_text=f"Do what word{cluster} says.",
        first_observation=f"You are in room {cluster % 100}.",
        behavior_policy="uniform",
        budget_usd=config.limits.budget_usd,
        max_turns=config.limits.max_turns,
        turns=turns,
        usage_source="logged",
    )


def write_log(folder, n_turns):
    """Write it as a dataset."""
    config = resolve_env(ENV)
    draft = DatasetInfo(
        dataset_id="made-up-v1",
        env=ENV,
        pool_name=config.pool.name,
        models=config.pool.models,
        prompt_cache=config.pool.prompt_cache,
        behavior_policy="uniform",
        split="train",
        seed=0,
        n_episodes_planned=1,
        max_turns=config.limits.max_turns,
        budget_usd=config.limits.budget_usd,
        is_simulated=True,
        package_version="0",
        created_by={"made_up": True, "n_turns": n_turns},
    )
    episodes = (TracedEpisode(episode=one) for one in made_up_episodes(n_turns, config))
    return write_dataset(folder, draft, episodes, compression_level=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--turns", type=int, default=1_000_000)
    args = parser.parse_args()
    info = write_log(args.out, args.turns)
    print(f"{args.out}: {info.n_episodes_planned} episodes, {args.turns} turns")


if __name__ == "__main__":
    main()
