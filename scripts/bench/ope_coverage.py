"""Bias and interval coverage of the turn-level estimators against the exact values of random tabular routing tasks.

For every task and estimator: mean error over the logs in its standard errors (within 3 may be chance; self-normalised ones have
a small bias by design), and the share of 95% intervals that hold the exact value, with that share's own 95% interval. The
latter also of DM with values fitted to halves of the log, and of differences of two policies.

    OMP_NUM_THREADS=1 python scripts/bench/ope_coverage.py --logs 1000
"""

import argparse
from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from mtrouter_rl.studies.ope_coverage.run import (
    Design,
    difference_coverage,
    effective_sample_sizes,
    fitted_dm_coverage,
    measure,
)
from mtrouter_rl.studies.ope_coverage.tabular import TabularTask


def make_design(seed, args):
    rng = np.random.default_rng(seed)
    task = TabularTask.random(rng, max_turns=args.turns)
    policy = task.random_policy(rng)
    logs = task.simulate(args.logs, args.episodes, rng=rng, cluster_size=args.cluster_size)
    return Design(task=task, policy=policy, q_values=args.distortion * task.q_values(policy), logs=logs)


def print_task(seed, args):
    design = make_design(seed, args)
    settings = {"seed": 0, "n_resamples": args.resamples}
    low, median = np.quantile(effective_sample_sizes(design), [0.05, 0.5])
    print(
        f"\ntask {seed}: effective sample size {median:.0f} (median), {low:.0f} (5%); exact {design.task.value(design.policy)}"
    )
    print("| estimator | quantity | bias (its standard errors) | covered | width / value |\n|---|---|---|---|---|")
    for one in measure(design, **settings):
        n_inside = round(one.coverage * args.logs)
        own = binomtest(n_inside, args.logs).proportion_ci(method="wilson")
        print(
            f"| {one.estimator} | {one.column} | {one.bias_in_errors:+.1f} "
            f"| {one.coverage:.1%} [{own.low:.1%}, {own.high:.1%}] "
            f"| {one.width / abs(one.truth):.2f} |",
            flush=True,
        )


def print_others(seed, args):
    """Of DM with values fitted to the log, and of differences to a second policy."""
    design = make_design(seed, args)
    policy = design.task.random_policy(np.random.default_rng([seed, 1]))
    other = replace(design, policy=policy, q_values=args.distortion * design.task.q_values(policy))
    settings = {"seed": 0, "n_resamples": args.resamples}
    rows = {"dm, fitted in halves": fitted_dm_coverage(design, **settings)}
    for name in ("pdis", "wdr"):
        rows[f"{name}, difference of two policies"] = difference_coverage(design, other, estimator=name, **settings)
    print("| task | estimator | covered: utility | cost | return |\n|---|---|---|---|---|")
    for name, shares in rows.items():
        print(f"| {seed} | {name} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=3, help="random tasks, one policy each (default: 3)")
    parser.add_argument("--logs", type=int, default=1000, help="logs of a task (default: 1000)")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of a log (default: 200)")
    parser.add_argument("--turns", type=int, default=3, help="turn limit (default: 3)")
    parser.add_argument(
        "--cluster-size", type=int, default=1, help="episodes that share their first state (default: 1)"
    )
    parser.add_argument(
        "--distortion", type=float, default=1.0, help="factor of the values that dm, dr and wdr are given"
    )
    parser.add_argument("--resamples", type=int, default=400, help="bootstrap resamples (default: 400)")
    args = parser.parse_args()
    print(f"{args.logs} logs of {args.episodes} episodes of up to {args.turns} turns, {args.cluster_size} to a cluster")
    for seed in range(args.tasks):
        print_task(seed, args)
        print_others(seed, args)


if __name__ == "__main__":
    main()
