"""Speed of whole ScienceWorld episodes, reset included: `RoutingEnv` with a simulated pool against `ScienceWorldEnv.step`.

Both play the same actions in the same order. Both are warmed up by whole episodes of their own first (a young JVM is slow),
then they take turns, episode by episode, so that whatever else the machine does meets both alike. Printed: turns per second
of each with and without the reset, their ratio with a 95% bootstrap interval over episodes, and the memory of one collection
worker (this process before torch is loaded, and its JVM).

    python scripts/bench/env_speed.py --episodes 20
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from mtrouter_rl.agents.rules.heuristics import UniformRouter
from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.scienceworld.jvm import DETERMINISM_OPTIONS, find_java
from mtrouter_rl.rollout import run_episode


def resident_mb(pid):
    """Resident memory of a process, MiB (Linux)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Ours:
    """Plays episodes through `RoutingEnv`, and keeps how long the whole and the reset of each took."""

    def __init__(self, config):
        self._env = build_env(config)
        self._router = UniformRouter(name="uniform", model_names=config.pool.model_names)
        self._task = self._env._task
        self._reset_s = 0.0
        inner_reset = self._task.reset

        def timed_reset(*args, **kwargs):
            start = time.perf_counter()
            result = inner_reset(*args, **kwargs)
            self._reset_s = time.perf_counter() - start
            return result

        self._task.reset = timed_reset

    def play(self, spec):
        """Return (episode, seconds, of which reset)."""
        start = time.perf_counter()
        episode = run_episode(self._env, self._router, spec).episode
        return episode, time.perf_counter() - start, self._reset_s

    def jvm_mb(self):
        """Resident memory of the JVM, MiB."""
        return resident_mb(self._task.jvm_pid)

    def close(self):
        self._env.close()


class Theirs:
    """Plays the same actions through `ScienceWorldEnv`, with the JVM options that make it reproducible and its own others."""

    def __init__(self):
        os.environ["PATH"] = f"{Path(find_java()).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["JAVA_TOOL_OPTIONS"] = " ".join(DETERMINISM_OPTIONS)
        from scienceworld import ScienceWorldEnv

        self._env = ScienceWorldEnv()
        del os.environ["JAVA_TOOL_OPTIONS"]

    def play(self, episode):
        """Return (whether every observation was the same, seconds, of which loading and reset)."""
        start = time.perf_counter()
        self._env.load(episode.task, episode.variation, "")
        first, _ = self._env.reset()
        reset_s = time.perf_counter() - start
        seen = [self._env.step(turn.action_text)[0] for turn in episode.turns]
        seconds = time.perf_counter() - start
        is_equal = first == episode.first_observation and seen == [turn.observation_text for turn in episode.turns]
        return is_equal, seconds, reset_s

    def close(self):
        self._env.close()


def ratio_interval(ours_s, theirs_s, n_resamples=2000):
    """95% percentile interval of the ratio of total times, episodes resampled."""
    chosen = np.random.default_rng(0).integers(len(ours_s), size=(n_resamples, len(ours_s)))
    return np.percentile(theirs_s[chosen].sum(axis=1) / ours_s[chosen].sum(axis=1), [2.5, 97.5])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20, help="episodes, spread over the train tasks (default: 20)")
    parser.add_argument("--warm-up", type=int, default=6, help="episodes that are played first, untimed (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of episodes (default: 0)")
    args = parser.parse_args()
    config = resolve_env("scienceworld")
    specs = sample_specs(config.card, "train", n_episodes=args.episodes + args.warm_up, seed=args.seed)
    ours = Ours(config)
    warm_ups = [ours.play(spec)[0] for spec in specs[: args.warm_up]]
    worker_mb, jvm_mb = resident_mb(os.getpid()), ours.jvm_mb()
    theirs = Theirs()
    for episode in warm_ups:
        theirs.play(episode)
    rows, n_turns, n_equal = [], 0, 0
    for spec in specs[args.warm_up :]:
        episode, ours_s, ours_reset_s = ours.play(spec)
        is_equal, theirs_s, theirs_reset_s = theirs.play(episode)
        rows.append((ours_s, ours_reset_s, theirs_s, theirs_reset_s))
        n_turns += len(episode.turns)
        n_equal += is_equal
    jvm_mb = max(jvm_mb, ours.jvm_mb())
    ours.close()
    theirs.close()
    ours_s, ours_reset_s, theirs_s, theirs_reset_s = np.array(rows).T
    low, high = ratio_interval(ours_s, theirs_s)
    steps_ratio = (theirs_s - theirs_reset_s).sum() / (ours_s - ours_reset_s).sum()
    print(f"episodes {len(rows)}, turns {n_turns}; all observations equal in {n_equal} of {len(rows)} episodes")
    for name, seconds, reset_s in (
        ("ScienceWorldEnv.step", theirs_s, theirs_reset_s),
        ("RoutingEnv", ours_s, ours_reset_s),
    ):
        print(
            f"{name + ':':22}{n_turns / seconds.sum():7.1f} turns/s; "
            f"reset {reset_s.mean() * 1e3:6.0f} ms, a turn {(seconds - reset_s).sum() / n_turns * 1e3:6.1f} ms"
        )
    print(f"ratio, reset included:{theirs_s.sum() / ours_s.sum():7.1f}  [{low:.1f}, {high:.1f}]  (target: at least 8)")
    print(f"ratio, turns alone:   {steps_ratio:7.1f}")
    print(f"resident memory of a collection worker: {worker_mb:.0f} MiB + JVM {jvm_mb:.0f} MiB  (target: at most 1024)")


if __name__ == "__main__":
    main()
