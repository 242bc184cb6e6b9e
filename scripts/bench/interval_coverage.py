"""How often the 95% intervals over (task, variation) clusters hold the truth, studentised and percentile.

Made-up studies, whose true means are known exactly, with numbers like ours: scores from -100 to 100 with a mass at both ends,
costs that are log-normal, returns of both, differences between two policies on the same episodes. Clusters differ by more
than the episodes within one; every episode belongs to a cluster of 1 to 5 seeds in the uneven studies, of 3 in the others.

    python scripts/bench/interval_coverage.py --studies 1000
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from mtrouter_rl.records import FloatArray, IntArray
from mtrouter_rl.statistics.cluster_bootstrap import bootstrap_means
from mtrouter_rl.statistics.estimate import percentile_ends, studentized_ends
from mtrouter_rl.statistics.resamples import all_counts

N_CLUSTERS = (12, 24, 73)
BETWEEN, WITHIN = 0.9, 0.19**0.5
"""Standard deviations of the hidden difficulty of a cluster and of an episode in it.

Their squares sum to 1, so that a hidden number is standard normal.
"""
COST_SPREAD = 0.8
COST_WEIGHT = 0.4
BOTTOM, TOP = -1.2, 0.9
"""Hidden difficulty below which all is lost (a score of -100), and above which all is solved (100)."""


def score_of(hidden: FloatArray, shift: float) -> FloatArray:
    """-100 below a hidden quality, 100 above another, and between them a score that rises evenly from 0 to 80."""
    quality = hidden + shift
    between = 80 * (quality - BOTTOM) / (TOP - BOTTOM)
    return np.where(quality < BOTTOM, -100.0, np.where(quality > TOP, 100.0, between))


def true_score(shift: float) -> float:
    """The exact mean of `score_of` where the hidden number is standard normal.

    For a standard normal Z, the mean of Z where it lies between a and b is phi(a) - phi(b).
    """
    low, high = BOTTOM - shift, TOP - shift
    inside = norm.cdf(high) - norm.cdf(low)
    mean_inside = norm.pdf(low) - norm.pdf(high)
    between = 80 / (TOP - BOTTOM) * (mean_inside + (shift - BOTTOM) * inside)
    return float(-100 * norm.cdf(low) + 100 * norm.sf(high) + between)


TRUE_COST = float(np.exp(COST_SPREAD**2 / 2))
STATISTICS: dict[str, float] = {
    "score": true_score(0.3),
    "hard score (mostly -100)": true_score(-1.4),
    "easy score (mostly 100)": true_score(1.6),
    "cost": TRUE_COST,
    "return": true_score(0.3) / 100 - COST_WEIGHT * TRUE_COST / 10,
    "difference of score": true_score(0.3) - true_score(0.0),
    "difference of cost": TRUE_COST - 0.5 * TRUE_COST,
}


def study(rng: np.random.Generator, sizes: IntArray) -> dict[str, FloatArray]:
    """Numbers of every episode of one study, by statistic; two policies share most of what an episode is like."""
    owner = np.repeat(np.arange(len(sizes)), sizes)

    def hidden() -> FloatArray:
        return BETWEEN * rng.normal(size=len(sizes))[owner] + WITHIN * rng.normal(size=len(owner))

    shared, own, own_cost = hidden(), hidden(), hidden()
    other = 0.8 * shared + 0.6 * own
    cost = np.exp(COST_SPREAD * (0.6 * own_cost - 0.8 * shared))
    other_cost = 0.5 * np.exp(COST_SPREAD * (0.6 * hidden() - 0.8 * shared))
    score = score_of(shared, 0.3)
    return {
        "score": score,
        "hard score (mostly -100)": score_of(shared, -1.4),
        "easy score (mostly 100)": score_of(shared, 1.6),
        "cost": cost,
        "return": score / 100 - COST_WEIGHT * cost / 10,
        "difference of score": score - score_of(other, 0.0),
        "difference of cost": cost - other_cost,
    }


def percentile_of(values: FloatArray, clusters: IntArray, counts: FloatArray) -> tuple[float, float]:
    """Percentile ends on the same resamples, for comparison."""
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters).astype(float)
    return percentile_ends(float(values.mean()), (counts @ sums) / (counts @ sizes))


def measure(n_clusters: int, n_studies: int, *, seed: int, sizes: Callable[[np.random.Generator], IntArray]) -> None:
    """Print a line for every statistic."""
    rng = np.random.default_rng([seed, n_clusters])
    held = {name: np.zeros((n_studies, 2)) for name in STATISTICS}
    widths = {name: np.zeros((n_studies, 2)) for name in STATISTICS}
    for number in range(n_studies):
        episodes_of = sizes(rng)
        clusters = np.repeat(np.arange(n_clusters), episodes_of)
        numbers = study(rng, episodes_of)
        counts = all_counts(n_clusters, seed=number)
        found = bootstrap_means(list(numbers.values()), clusters.tolist(), seed=number)
        for column, (name, values) in enumerate(numbers.items()):
            ends = studentized_ends(found.draws[:, column]), percentile_of(values, clusters, counts)
            held[name][number] = [low <= STATISTICS[name] <= high for low, high in ends]
            widths[name][number] = [high - low for low, high in ends]
    for name in STATISTICS:
        shares, means = held[name].mean(axis=0), widths[name].mean(axis=0)
        errors = np.sqrt(shares * (1 - shares) / n_studies)
        print(
            f"{name:<27}{n_clusters:>9}{shares[0]:>13.1%} ± {errors[0]:.1%}{shares[1]:>13.1%} ± {errors[1]:.1%}"
            f"{means[0]:>14.3f}{means[1]:>12.3f}",
            flush=True,
        )


def main() -> None:
    """Parse arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="studies for every number of clusters")
    parser.add_argument("--clusters", type=int, nargs="+", default=N_CLUSTERS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    for title, uneven in (("3 seeds a cluster", False), ("1 to 5 seeds a cluster", True)):
        print(f"\n{title}, {args.studies} studies each; coverage ± Monte-Carlo standard error, mean width")
        print(f"{'statistic':<27}{'clusters':>9}{'studentised':>20}{'percentile':>20}{'width stud.':>14}{'perc.':>12}")
        for n_clusters in args.clusters:
            if uneven:
                measure(n_clusters, args.studies, seed=args.seed, sizes=lambda rng, n=n_clusters: rng.integers(1, 6, n))
            else:
                measure(n_clusters, args.studies, seed=args.seed, sizes=lambda rng, n=n_clusters: np.full(n, 3))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
