"""Speed of whole ScienceWorld episodes, reset included: `RoutingEnv` with a simulated pool against `ScienceWorldEnv.step`.

Both play the same actions in the same order in this one run. Printed: turns per second of each, their ratio, and the memory
of one collection worker (this process before torch is loaded, and its JVM).

    python scripts/bench/env_speed.py --episodes 8
"""

import argparse
import os
import time
from pathlib import Path

from mtrouter_rl.agents.heuristics import UniformRouter
from mtrouter_rl.datasets.splits import sample_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.jvm import DETERMINISM_OPTIONS, find_java
from mtrouter_rl.envs.scienceworld import ScienceWorldTask
from mtrouter_rl.rollout import run_episode


def resident_mb(pid):
    """Resident memory of a process, MiB (Linux)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def play_ours(config, specs):
    env = build_env(config)
    router = UniformRouter(name="uniform", model_names=config.pool.model_names)
    run_episode(env, router, specs[0])  # starts the JVM and warms it up
    start = time.perf_counter()
    episodes = [run_episode(env, router, spec).episode for spec in specs]
    seconds = time.perf_counter() - start
    task = env._task
    jvm_mb = resident_mb(task.jvm_pid) if isinstance(task, ScienceWorldTask) else 0.0
    env.close()
    return episodes, seconds, jvm_mb


def play_theirs(episodes):
    os.environ["PATH"] = f"{Path(find_java()).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["JAVA_TOOL_OPTIONS"] = " ".join(DETERMINISM_OPTIONS)
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv()
    _play(env, episodes[0])  # warms up
    start = time.perf_counter()
    n_equal = sum(_play(env, episode) for episode in episodes)
    seconds = time.perf_counter() - start
    env.close()
    return seconds, n_equal


def _play(env, episode):
    """Plays an episode's actions; tells whether every observation was the same."""
    env.load(episode.task, episode.variation, "")
    first, _ = env.reset()
    seen = [env.step(turn.action_text)[0] for turn in episode.turns]
    return first == episode.first_observation and seen == [turn.observation_text for turn in episode.turns]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8, help="episodes, spread over the train tasks (default: 8)")
    args = parser.parse_args()
    config = resolve_env("scienceworld")
    specs = sample_specs(config.card, "train", n_episodes=args.episodes, seed=0)
    episodes, ours_s, jvm_mb = play_ours(config, specs)
    worker_mb = resident_mb(os.getpid())
    theirs_s, n_equal = play_theirs(episodes)
    n_turns = sum(len(episode.turns) for episode in episodes)
    print(f"episodes {len(episodes)}, turns {n_turns}; all observations equal in {n_equal} of {len(episodes)} episodes")
    print(f"ScienceWorldEnv.step: {n_turns / theirs_s:7.1f} turns/s")
    print(f"RoutingEnv:           {n_turns / ours_s:7.1f} turns/s")
    print(f"ratio:                {theirs_s / ours_s:7.1f}  (target: at least 8)")
    print(f"resident memory of a collection worker: {worker_mb:.0f} MiB + JVM {jvm_mb:.0f} MiB  (target: at most 1024)")


if __name__ == "__main__":
    main()
