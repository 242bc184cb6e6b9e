"""Speed and memory of the turn-level off-policy estimators on a made-up log.

All of them (is, wis, pdis, wpdis, dm, dr, wdr), for utility, cost and return, with a bootstrap over clusters, and the
diagnosis, for several policies one after the other. Fitting the values that dm, dr and wdr rest on is not part of it: that
depends on the network (see docs/off-policy-evaluation.md for a measured run).

    OMP_NUM_THREADS=1 python scripts/bench/ope_speed.py --turns 1000000
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from mtrouter_rl.evaluation.ope import ESTIMATORS, TurnLog, Values, diagnose, estimate
from mtrouter_rl.evaluation.statistics import N_RESAMPLES

N_MODELS = 6
N_COLUMNS = 3  # utility, cost, return
EPISODES_PER_CLUSTER = 5


def made_up_log(n_turns, mean_length, rng):
    """A uniform log with episodes of 1 to 2 * mean_length - 1 turns."""
    lengths = []
    while sum(lengths) < n_turns:
        lengths += rng.integers(1, 2 * mean_length, size=max(1, n_turns // mean_length // 4)).tolist()
    n_episodes = int(np.searchsorted(np.cumsum(lengths), n_turns)) + 1
    lengths = np.array(lengths[:n_episodes], dtype=np.int64)
    lengths[-1] -= lengths.sum() - n_turns
    return TurnLog(
        lengths=lengths,
        actions=rng.integers(N_MODELS, size=n_turns),
        propensities=np.full(n_turns, 1 / N_MODELS),
        rewards=rng.normal(size=(n_turns, N_COLUMNS)),
        clusters=np.arange(n_episodes) // EPISODES_PER_CLUSTER,
        n_models=N_MODELS,
    )


def peak_gib():
    """Largest resident size of this process so far, GiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--mean-length", type=int, default=32, help="turns of an episode (default: 32)")
    parser.add_argument("--policies", type=int, default=1, help="how many (default: 1)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    log = made_up_log(args.turns, args.mean_length, rng)
    print(
        f"{len(log.actions)} turns, {len(log.lengths)} episodes of up to {log.lengths.max()} turns, "
        f"{log.clusters.max() + 1} clusters; {N_RESAMPLES} resamples; {peak_gib():.2f} GiB before"
    )
    for number in range(args.policies):
        probabilities = rng.dirichlet(np.ones(N_MODELS), size=len(log.actions))
        values = Values(
            logged=rng.normal(size=(len(log.actions), N_COLUMNS)), states=rng.normal(size=(len(log.actions), N_COLUMNS))
        )
        start = time.perf_counter()
        for name in ESTIMATORS:
            begin = time.perf_counter()
            estimate(log, probabilities, values=values, seed=0, estimators=(name,))
            print(f"  policy {number}, {name}: {time.perf_counter() - begin:.1f} s", flush=True)
        diagnose(log, probabilities)
        print(
            f"  policy {number}, all and the diagnosis: {time.perf_counter() - start:.1f} s; peak {peak_gib():.2f} GiB"
        )


if __name__ == "__main__":
    main()
