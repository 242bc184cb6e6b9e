"""Speed and memory of the turn-level off-policy estimators on a made-up log.

First fitted Q evaluation of all policies at once, with its default parameters; then, for one policy after the other, all
estimators (is, wis, pdis, wpdis, dm, dr, wdr) for utility, cost and return, with a bootstrap over clusters, and the diagnosis.
States are random vectors: what they hold changes no time, how many columns they have does.

    OMP_NUM_THREADS=2 python scripts/bench/ope_speed.py --turns 1000000
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.ope.fqe import FqeData, FqeParameters, fitted_q_evaluation
from mtrouter_rl.ope.reward_memory import HISTORY_NAMES, PAIR_NAMES, RewardMemory
from mtrouter_rl.ope.sequential import ESTIMATORS, TurnLog, Values, diagnose, estimate
from mtrouter_rl.statistics.resamples import N_RESAMPLES
from mtrouter_rl.transitions.arrays import Transitions

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


def fit_values(log, policies, n_columns, rng):
    """Fitted values of all policies on the made-up log, with its default parameters."""
    n_turns, n_episodes = len(log.actions), len(log.lengths)
    episodes = np.repeat(np.arange(n_episodes), log.lengths)
    zeros = np.zeros(n_turns, dtype=np.float32)
    data = FqeData(
        transitions=Transitions(
            observations=rng.standard_normal((n_turns + n_episodes, n_columns + N_MODELS), dtype=np.float32),
            rows=np.arange(n_turns) + episodes,
            actions=log.actions,
            rewards=zeros,
            terminals=zeros,
            utility_gains=log.rewards[:, 0].astype(np.float32),
            costs_usd=log.rewards[:, 1].astype(np.float32),
            episodes=episodes,
            turns=log.turns,
            returns=zeros,
            n_models=N_MODELS,
        ),
        layout=HistoryLayout(n_columns=n_columns, text_blocks=()),
        model_features=np.eye(N_MODELS).tolist(),
        policies=policies,
        clusters=log.clusters,
        strata=log.clusters % 12,
        memory=RewardMemory(
            history=rng.standard_normal((n_turns, len(HISTORY_NAMES)), dtype=np.float32),
            pairs=rng.standard_normal((n_turns, N_MODELS, len(PAIR_NAMES)), dtype=np.float32),
        ),
    )
    return fitted_q_evaluation(data, FqeParameters(), seed=0, show_progress=True).values


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
    parser.add_argument("--policies", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--columns", type=int, default=256, help="columns of a state (default: 256)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    log = made_up_log(args.turns, args.mean_length, rng)
    print(
        f"{len(log.actions)} turns, {len(log.lengths)} episodes of up to {log.lengths.max()} turns, "
        f"{log.clusters.max() + 1} clusters; {N_RESAMPLES} resamples; {peak_gib():.2f} GiB before"
    )
    policies = {str(number): rng.dirichlet(np.ones(N_MODELS), size=len(log.actions)) for number in range(args.policies)}
    begin = start = time.perf_counter()
    fitted = fit_values(log, policies, args.columns, rng)
    print(f"fitted values of {args.policies} policies: {time.perf_counter() - begin:.1f} s; peak {peak_gib():.2f} GiB")
    for number, (name, probabilities) in enumerate(policies.items()):
        begin = time.perf_counter()
        values = Values(
            logged=_with_return(fitted.logged[:, number]),
            states=_with_return(fitted.states[:, number]),
        )
        estimate(log, probabilities, values=values, seed=0, estimators=ESTIMATORS)
        diagnose(log, probabilities)
        print(f"policy {name}, all estimators and the diagnosis: {time.perf_counter() - begin:.1f} s", flush=True)
    print(f"all together: {(time.perf_counter() - start) / 60:.1f} min; peak {peak_gib():.2f} GiB")


def _with_return(values):
    return np.concatenate([values, values[:, :1] - values[:, 1:]], axis=1)


if __name__ == "__main__":
    main()
