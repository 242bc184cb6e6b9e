"""Collection by Ray beside collection by processes of this machine, in one run, alternating.

    python scripts/bench/ray_overhead.py [--env scienceworld] [--episodes 60] [--workers 2] [--rounds 3]

Prints episodes a second of either, and the ratio of every round. The workers are started before the clock.
"""

import argparse
import os
import statistics
import time

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="scienceworld")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(address="local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
    config = resolve_env(args.env)
    ratios = []
    with RolloutPool(config, n_workers=args.workers) as here, RolloutPool(config, n_workers=Cluster()) as there:
        for pool in (here, there):
            run(pool, jobs_of(config, 5 * args.workers, seed=0))
        for number in range(args.rounds):
            jobs = jobs_of(config, args.episodes, seed=number + 1)
            pools = (here, there) if number % 2 == 0 else (there, here)
            found = {pool is there: run(pool, jobs) for pool in pools}
            assert found[False][1] == found[True][1], "Ray played other episodes than the processes"
            ratios.append(found[True][0] / found[False][0])
            print(
                f"processes {found[False][0]:.2f} episodes/s, Ray {found[True][0]:.2f}, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(
        f"median ratio {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}] of {len(ratios)} rounds"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
