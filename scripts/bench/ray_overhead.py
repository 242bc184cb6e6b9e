"""Collection by worker processes, by Ray, and by processes that know nothing of each other, in one run, by turns.

    python scripts/bench/ray_overhead.py [--env scienceworld] [--episodes 60] [--workers 2] [--rounds 3]

Processes that know nothing of each other show what the machine can do at most: each plays its share of the same episodes, and
their episodes a second are added up, each over its own time. Prints episodes a second of all three and two ratios of every
round: workers over processes apart, and Ray over workers. Everything is started before the clock.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.rollout import RolloutJob, RolloutPool
from mtrouter_rl.workers.executors import Cluster


def jobs_of(config, n_episodes, *, seed, per_job=5):
    specs = sample_specs(config.card, "train", n_episodes=n_episodes, seed=seed)
    factory = RouterRef.of("uniform", None)
    starts = range(0, n_episodes, per_job)
    return [RolloutJob(key=(0, 0, start), factory=factory, specs=specs[start : start + per_job]) for start in starts]


def run(pool, jobs):
    start = time.perf_counter()
    done = {job.key: episodes for job, episodes in pool.run(jobs)}
    seconds = time.perf_counter() - start
    episodes = [traced.episode for key in sorted(done) for traced in done[key]]
    return len(episodes) / seconds, episodes


class Apart:
    """A process that plays its share of the episodes of a seed whenever it is told to, with a simulator of its own."""

    def __init__(self, args, number, stack):
        command = [sys.executable, __file__, "--env", args.env, "--episodes", str(args.episodes)]
        command += ["--workers", str(args.workers), "--share", str(number)]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.stdin.close)
        self.answer()

    def begin(self, seed):
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()

    def answer(self):
        """Episodes a second; 0 when it is ready."""
        for line in self._process.stdout:
            if line.startswith("rate "):
                return float(line.removeprefix("rate "))
        raise SystemExit(f"a process ended with status {self._process.wait()}")


def play_share(args):
    """What a process apart does."""
    config = resolve_env(args.env)
    with RolloutPool(config, n_workers=1) as pool:
        run(pool, jobs_of(config, 5, seed=0))
        print("rate 0", flush=True)
        for seed in sys.stdin:
            jobs = jobs_of(config, args.episodes, seed=int(seed))[args.share :: args.workers]
            print(f"rate {run(pool, jobs)[0]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="scienceworld")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.share is not None:
        play_share(args)
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(address="local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
    config = resolve_env(args.env)
    ratios = []
    with ExitStack() as stack:
        apart = [Apart(args, number, stack) for number in range(args.workers)]
        here = stack.enter_context(RolloutPool(config, n_workers=args.workers))
        there = stack.enter_context(RolloutPool(config, n_workers=Cluster()))

        def by_processes_apart(seed):
            for one in apart:
                one.begin(seed)
            return sum(one.answer() for one in apart)

        def by_pool(pool, seed):
            found, episodes = run(pool, jobs_of(config, args.episodes, seed=seed))
            played.append(episodes)
            return found

        ways = {"apart": by_processes_apart, "workers": partial(by_pool, here), "Ray": partial(by_pool, there)}
        for pool in (here, there):
            run(pool, jobs_of(config, 5 * args.workers, seed=0))
        for number in range(args.rounds):
            played = []
            names = list(ways)[:: 1 if number % 2 == 0 else -1]
            rates = {name: ways[name](number + 1) for name in names}
            assert played[0] == played[1], "Ray played other episodes than the workers"
            ratios.append((rates["workers"] / rates["apart"], rates["Ray"] / rates["workers"]))
            told = ", ".join(f"{name} {rates[name]:.2f} episodes/s" for name in ways)
            print(f"{told}; workers / apart {ratios[-1][0]:.3f}, Ray / workers {ratios[-1][1]:.3f}", flush=True)
    for name, found in zip(("workers / apart", "Ray / workers"), zip(*ratios, strict=True), strict=True):
        print(
            f"{name}: median {statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}], {len(found)} rounds"
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
