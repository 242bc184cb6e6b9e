"""How many passes over a log fitted Q evaluation needs: its error against exact values, and its intervals, by size of the log.

Random tabular tasks are logged, and three random policies are estimated by `dm` as `mtrouter-rl ope` does, from history
features of the usual layout: four blocks of text vectors (of the state and the turn, with noise of their own at every turn) and
a few plain columns. Every bound (`FqeParameters.max_passes`; "all" makes all steps whatever the size) sees the same logs.

The error is the root mean square over tasks, logs, policies, utility and cost, in standard deviations of logged episodes, with
its standard error over logs. Lower is better. "worst" is that of the largest errors: the mean of the worst tenth.

    OMP_NUM_THREADS=1 python scripts/bench/ope_passes.py --turns 200 1000 --passes 4 8 16 all
"""

import argparse
import time

import numpy as np
import torch

from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.ope.estimates import training_noise
from mtrouter_rl.ope.fqe import FqeData, FqeParameters, fitted_q_evaluation
from mtrouter_rl.ope.sequential import Values, estimate
from mtrouter_rl.statistics.estimate import studentized_ends
from mtrouter_rl.studies.ope_coverage.tabular import TabularTask
from mtrouter_rl.transitions.arrays import Transitions

N_BLOCKS = 4
N_RESAMPLES = 400


def features_of(logs, task, *, text_dim, noise, rng):
    """Text blocks that tell state and turn, with noise, and both as plain columns of which the state's is left out."""
    n = len(logs.turns)
    words = rng.normal(size=(N_BLOCKS, len(task.start) + task.max_turns, text_dim)) / np.sqrt(text_dim)
    meaning = words[:, logs.states] + words[:, len(task.start) + logs.turns]
    texts = meaning + noise * rng.normal(size=meaning.shape) / np.sqrt(text_dim)
    plain = np.stack([logs.turns / task.max_turns, 1 - logs.turns / task.max_turns], axis=1)
    return np.concatenate([texts.transpose(1, 0, 2).reshape(n, -1), plain], axis=1).astype(np.float32)


def data_of(logs, task, policies, args, rng):
    """One log as fitted Q evaluation takes it."""
    log, n_models = logs.log(0), task.stop.shape[1]
    features = features_of(logs, task, text_dim=args.text_dim, noise=args.noise, rng=rng)
    n, n_columns = features.shape
    episodes = np.repeat(np.arange(len(log.lengths)), log.lengths)
    rows = np.arange(n) + episodes
    observations = np.zeros((n + len(log.lengths), n_columns + n_models), dtype=np.float32)
    observations[rows, :n_columns] = features
    observations[rows, n_columns:] = 1
    zeros = np.zeros(n, dtype=np.float32)
    return FqeData(
        transitions=Transitions(
            observations=observations,
            rows=rows,
            actions=log.actions,
            rewards=zeros,
            terminals=zeros,
            utility_gains=logs.rewards[:, 0].astype(np.float32),
            costs_usd=logs.rewards[:, 1].astype(np.float32),
            episodes=episodes,
            turns=logs.turns,
            returns=zeros,
            n_models=n_models,
        ),
        layout=HistoryLayout(
            n_columns=n_columns,
            text_blocks=tuple((block * args.text_dim, (block + 1) * args.text_dim) for block in range(N_BLOCKS)),
        ),
        model_features=np.eye(n_models).tolist(),
        policies={name: policy[logs.states] for name, policy in policies.items()},
        clusters=log.clusters,
        strata=np.zeros(len(log.lengths), dtype=np.int64),
    )


def measure_log(seed, n_turns, args):
    """(errors (bounds, policies, 2), whether intervals hold the truth, their widths, seconds (bounds,)) of one log."""
    rng = np.random.default_rng([seed, n_turns])
    task = TabularTask.random(rng, max_turns=args.max_turns)
    policies = {f"policy {number}": task.random_policy(rng) for number in range(3)}
    mean_length = len(task.simulate(1, 500, rng=rng).turns) / 500
    n_episodes = max(8, round(n_turns / mean_length / 2) * 2)
    logs = task.simulate(1, n_episodes, rng=rng)
    log, data = logs.log(0), data_of(logs, task, policies, args, rng)
    scale = np.add.reduceat(log.rewards[:, :2], log.starts, axis=0).std(axis=0)
    rows = []
    for bound in args.passes:
        start = time.process_time()
        fitted = fitted_q_evaluation(data, FqeParameters(max_passes=bound), seed=seed)
        took = time.process_time() - start
        rows.append((*_against_truth(task, policies, log, fitted, scale=scale, seed=seed), took))
    return tuple(np.array(part) for part in zip(*rows, strict=True))


def _against_truth(task, policies, log, fitted, *, scale, seed):
    errors, inside, widths = [], [], []
    for number, (name, policy) in enumerate(policies.items()):
        truth = task.value(policy)[:2]
        pad = np.zeros((len(log.actions), 1))  # the return is left out
        values = Values(
            logged=np.append(fitted.values.logged[:, number], pad, axis=1),
            states=np.append(fitted.values.states[:, number], pad, axis=1),
        )
        pi = np.asarray(fitted_probabilities(name, policies, log))
        one = estimate(log, pi, values=values, seed=seed, estimators=("dm",), n_resamples=N_RESAMPLES)["dm"]
        gaps = np.append(fitted.gaps[:, number], np.zeros((len(fitted.gaps), 1)), axis=1)
        draws = one.draws + training_noise(gaps, n_resamples=N_RESAMPLES, seed=seed)
        ends = np.array([studentized_ends(draws[:, column]) for column in range(2)])
        errors.append((one.value[:2] - truth) / scale)
        inside.append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
        widths.append((ends[:, 1] - ends[:, 0]) / scale)
    return errors, inside, widths


def fitted_probabilities(name, policies, log):
    """Uniform: DM reads the first states' values alone, whatever the policy does later."""
    return np.full((len(log.actions), policies[name].shape[1]), 1 / policies[name].shape[1])


def print_size(n_turns, args):
    parts = [measure_log(seed, n_turns, args) for seed in range(args.logs)]
    errors, inside, widths, seconds = (np.array(part) for part in zip(*parts, strict=True))
    for number, bound in enumerate(args.passes):
        squares = (errors[:, number] ** 2).mean(axis=(1, 2))
        spread = squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * np.sqrt(squares.mean()))
        worst = np.sort(np.abs(errors[:, number]).ravel())[-max(1, errors[:, number].size // 10) :].mean()
        print(
            f"| {n_turns} | {'all' if bound is None else f'{bound:g}'} | {np.sqrt(squares.mean()):.3f} ± {spread:.3f} "
            f"| {worst:.3f} | {inside[:, number].mean():.1%} | {np.median(widths[:, number]):.2f} "
            f"| {np.median(seconds[:, number]):.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, nargs="+", default=[200, 1000], help="turns of a log, about")
    parser.add_argument("--passes", nargs="+", default=["4", "8", "16", "all"], help="bounds, or all")
    parser.add_argument("--logs", type=int, default=20, help="logs of a size, each of a task of its own (default: 20)")
    parser.add_argument("--max-turns", type=int, default=10, help="turn limit (default: 10)")
    parser.add_argument("--text-dim", type=int, default=96, help="size of a text vector (default: 96)")
    parser.add_argument("--noise", type=float, default=0.5, help="share of noise in a text vector (default: 0.5)")
    args = parser.parse_args()
    args.passes = [None if text == "all" else float(text) for text in args.passes]
    torch.set_num_threads(1)
    print(f"{args.logs} logs of a size; text vectors of {args.text_dim}, noise {args.noise}")
    print("| turns | passes at most | error | worst tenth | covered | width | CPU s |\n|---|---|---|---|---|---|---|")
    for n_turns in args.turns:
        print_size(n_turns, args)


if __name__ == "__main__":
    main()
