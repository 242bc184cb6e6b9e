"""Means of many policies over the same (task, variation) clusters, and all of them again in every bootstrap resample.

Whatever is worked out from several policies' means (a hull, a difference, an area) is worked out once for every resample
of the clusters, with all policies on the same draw: the interval is then paired, and holds what the working-out adds.

Every (task, variation) counts once, however many seeds it was run with, so that policies with different numbers of seeds
are compared on the same mixture of tasks. Where all clusters of a policy have equally many completed episodes, its mean
is the mean over episodes that `results.json` holds.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 (clusters) and 5.3 (percentile).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError, ResultsError, unknown_name
from mtrouter_rl.records import SCORE_PER_UTILITY, Episode, FloatArray
from mtrouter_rl.statistics.intervals import CONFIDENCE, N_RESAMPLES
from mtrouter_rl.statistics.studentized import resample_counts

Cluster = tuple[str, int]
"""(task, variation)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number worked out from several policies' means, and its 95% interval.

    Attributes:
        value: The number; -inf or inf where something is out of reach (a cost that no mixture is as low as, say), NaN where it
            is not defined.
        low: Lower end; -inf where resamples below it are out of reach, or with fewer than two clusters, from which no
            spread can be told.
        high: Upper end, inf likewise.
        n_episodes: Completed episodes of the policy that has fewest of them.
        n_clusters: (task, variation) clusters.
    """

    value: float
    low: float
    high: float
    n_episodes: int
    n_clusters: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class PairedMeans:
    """Mean score and cost of P policies in C clusters that all of them ran.

    Attributes:
        policies: Names, length P.
        clusters: (task, variation), sorted, length C.
        scores: Mean score over the completed episodes of a cluster, shape (C, P).
        costs_usd: Mean cost of an episode, USD, shape (C, P).
        n_episodes: Policy -> its completed episodes in these clusters.
        left_out: Clusters that are left out for all, since a policy's episodes all failed there.
    """

    policies: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    scores: FloatArray
    costs_usd: FloatArray
    n_episodes: Mapping[str, int]
    left_out: tuple[Cluster, ...]

    @classmethod
    def of(cls, episodes: Mapping[str, Sequence[Episode]]) -> "PairedMeans":
        """Means of policies that ran the same (task, variation), each with any number of seeds.

        Args:
            episodes: Policy -> its episodes on one split, completed and failed.

        Raises:
            ResultsError: If there are no episodes, a policy did not run a (task, variation) that another ran, a (task,
                variation, seed) repeats, or no cluster is left.
        """
        started = {policy: _by_cluster(policy, logged) for policy, logged in episodes.items()}
        everything = sorted({cluster for found in started.values() for cluster in found})
        for policy, found in started.items():
            missing = [cluster for cluster in everything if cluster not in found]
            if missing:
                raise ResultsError(
                    f"policy '{policy}': has no episode of {len(missing)} (task, variation) that others ran, such as "
                    f"{missing[0]}; run every policy on the same ones, with any number of seeds"
                )
        clusters = [cluster for cluster in everything if all(found[cluster] for found in started.values())]
        if not clusters:
            raise ResultsError(
                f"{len(episodes)} policies have {len(everything)} (task, variation), in none of which each completed an "
                "episode; look at status_detail of the episodes, repair the cause and run them again"
            )
        policies = tuple(started)
        return cls(
            policies=policies,
            clusters=tuple(clusters),
            scores=_means(started, clusters, column=0),
            costs_usd=_means(started, clusters, column=1),
            n_episodes={policy: sum(len(started[policy][cluster]) for cluster in clusters) for policy in policies},
            left_out=tuple(cluster for cluster in everything if cluster not in set(clusters)),
        )


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """Means of all policies over the clusters (draw 0), and over R resamples of the clusters (the other draws).

    Attributes:
        means: Means by cluster.
        weights: Share of every cluster in every draw, shape (1 + R, C).
        scores_by_draw: Mean score of every policy, shape (1 + R, P).
        costs_usd_by_draw: Its mean cost of an episode, USD, shape (1 + R, P). Worked out once for all: a policy has to have the
            very same cost wherever it stands, or rounding decides whether it is on its own hull.
    """

    means: PairedMeans
    weights: FloatArray
    scores_by_draw: FloatArray
    costs_usd_by_draw: FloatArray

    @classmethod
    def of(cls, means: PairedMeans, *, rng: np.random.Generator, n_resamples: int = N_RESAMPLES) -> "Resamples":
        """Draw resamples; equal states of `rng` give equal ones, whatever the order of episodes and policies.

        Raises:
            InvalidConfigError: If there are fewer than 100 resamples.
        """
        if n_resamples < 100:
            raise InvalidConfigError(f"n_resamples is {n_resamples}, must be at least 100 for a 95% percentile")
        n_clusters = len(means.clusters)
        counts = resample_counts(n_clusters, rng=rng, n_resamples=n_resamples)
        weights = np.concatenate([np.ones((1, n_clusters)), *counts]) / n_clusters
        return cls(
            means=means,
            weights=weights,
            scores_by_draw=weights @ means.scores,
            costs_usd_by_draw=weights @ means.costs_usd,
        )

    def mean(self, values: FloatArray) -> FloatArray:
        """Mean over clusters, in every draw, of values by cluster of shape (C,); shape (1 + R,)."""
        mean: FloatArray = self.weights @ values
        return mean

    def scores(self, policies: Sequence[str]) -> FloatArray:
        """Mean scores, shape (1 + R, K). Raises as `columns`."""
        return np.asarray(self.scores_by_draw[:, self.columns(policies)])

    def costs_usd(self, policies: Sequence[str]) -> FloatArray:
        """Mean costs of an episode, USD, shape (1 + R, K). Raises as `columns`."""
        return np.asarray(self.costs_usd_by_draw[:, self.columns(policies)])

    def returns(self, policies: Sequence[str], reward: RewardCard) -> FloatArray:
        """Mean undiscounted returns at a cost weight, shape (1 + R, K). Raises as `columns`."""
        return reward.reward(self.scores(policies) / SCORE_PER_UTILITY, self.costs_usd(policies))

    def columns(self, policies: Sequence[str]) -> list[int]:
        """Places of policies.

        Raises:
            UnknownNameError: If one has no episodes.
        """
        known = self.means.policies
        for policy in policies:
            if policy not in known:
                raise unknown_name("policy", policy, known, fix="Name only policies whose episodes are given")
        return [known.index(policy) for policy in policies]

    def estimate(self, draws: FloatArray, policies: Iterable[str]) -> Estimate:
        """Value and interval of a number that was worked out in every draw.

        The interval is the percentile interval, and reaches farther by twice the bias of the resamples (median of the draws
        minus value) on the side that the bias leads away from; the other end stays. The height of a hull is a maximum: where
        points differ by chance alone, the sample's is too high, and a resample's is so once more.

        A draw of NaN, where the number is not defined, counts as -inf for the lower end and as inf for the upper one.

        Args:
            draws: Shape (1 + R,).
            policies: Whose means it was worked out from.

        Source: Davison and Hinkley (1997), sections 2.2.1 (bias) and 5.3; extending one end alone is ours.
        """
        value, low, high = float(draws[0]), -np.inf, np.inf
        if len(self.means.clusters) >= 2:
            tail, drawn = (1 - CONFIDENCE) / 2, draws[1:]
            low = _quantile(np.where(np.isnan(drawn), -np.inf, drawn), tail, is_lower=True)
            high = _quantile(np.where(np.isnan(drawn), np.inf, drawn), 1 - tail, is_lower=False)
            bias = _bias(drawn, value)
            low, high = low - 2 * max(bias, 0.0), high - 2 * min(bias, 0.0)
        return Estimate(
            value=value,
            low=low,
            high=high,
            n_episodes=min(self.means.n_episodes[policy] for policy in policies),
            n_clusters=len(self.means.clusters),
        )


def _quantile(draws: FloatArray, share: float, *, is_lower: bool) -> float:
    """A quantile; where draws are infinite, one of them instead of a number between two."""
    if np.isfinite(draws).all():
        return float(np.quantile(draws, share))
    index = share * (len(draws) - 1)
    return float(np.sort(draws)[int(np.floor(index) if is_lower else np.ceil(index))])


def _bias(draws: FloatArray, value: float) -> float:
    """Median of the finite draws minus the value; 0 where either is unknown."""
    finite = draws[np.isfinite(draws)]
    return float(np.median(finite)) - value if finite.size and np.isfinite(value) else 0.0


def _by_cluster(policy: str, episodes: Sequence[Episode]) -> dict[Cluster, list[tuple[float, float]]]:
    """Cluster -> (score, cost) of its completed episodes; empty where all failed."""
    if not episodes:
        raise ResultsError(f"policy '{policy}': has no episode; run it, or leave it out")
    found: dict[Cluster, list[tuple[float, float]]] = {}
    seen: set[tuple[str, int, int]] = set()
    for one in episodes:
        key = (one.task, one.variation, one.seed)
        if key in seen:
            raise ResultsError(
                f"policy '{policy}', episode '{one.episode_id}': (task, variation, seed) {key} appears more than once, must "
                "be unique; give every episode its own seed, and the episodes of one split at a time"
            )
        seen.add(key)
        results = found.setdefault((one.task, one.variation), [])
        if one.status == "completed":
            results.append((SCORE_PER_UTILITY * one.utility, one.cost_usd))
    return found


def _means(
    started: Mapping[str, Mapping[Cluster, Sequence[tuple[float, float]]]], clusters: Sequence[Cluster], *, column: int
) -> FloatArray:
    # sorted, so that sums do not depend on the order of the episodes by a rounding
    return np.array(
        [[np.mean(sorted(one[column] for one in found[cluster])) for found in started.values()] for cluster in clusters]
    )
