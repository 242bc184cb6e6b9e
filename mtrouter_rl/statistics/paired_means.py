"""Means of many policies over the same (task, variation) clusters, and all of them again in every bootstrap resample.

Whatever is worked out from several policies' means (a hull, a difference, an area) is worked out once for every resample
of the clusters, with all policies on the same draw: the interval is then paired, and holds what the working-out adds. The
draws are those of `mtrouter_rl.statistics.resamples`, so they are the same as behind the rows of a results file of the same
clusters and seed. Plain differences of means have studentised ends as the rows have, all else percentile ends.

Every (task, variation) counts once, however many seeds it was run with, so that policies with different numbers of seeds
are compared on the same mixture of tasks. Where all clusters of a policy have equally many completed episodes, its mean
is the mean over episodes that `results.json` holds.

Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 (clusters) and 5.3 (percentile).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.records import SCORE_PER_UTILITY, EpisodeStatus, FloatArray
from mtrouter_rl.statistics.cluster_bootstrap import bootstrap_means
from mtrouter_rl.statistics.estimate import Estimate, percentile_ends
from mtrouter_rl.statistics.resamples import N_RESAMPLES, all_counts, check_resamples

Cluster = tuple[str, int]
"""(task, variation)."""
_WIDTH = 8
"""Columns of the products of `_by_draw`."""


class Played(Protocol):
    """An episode, or what is kept of it."""

    @property
    def task(self) -> str:
        """Task name."""

    @property
    def variation(self) -> int:
        """Index of the task's variation."""

    @property
    def seed(self) -> int:
        """Seed of the episode."""

    @property
    def status(self) -> EpisodeStatus:
        """Whether it ran to its end; if not, its utility is not asked for."""

    @property
    def utility(self) -> float:
        """Utility at the end."""

    @property
    def cost_usd(self) -> float:
        """Money spent, USD."""


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
    def of(cls, episodes: Mapping[str, Sequence[Played]]) -> "PairedMeans":
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
        seed: Seed of the resamples.
        n_resamples: R.
        weights: Share of every cluster in every draw, shape (1 + R, C).
        scores_by_draw: Mean score of every policy, shape (1 + R, P).
        costs_usd_by_draw: Its mean cost of an episode, USD, shape (1 + R, P). Worked out once for all: a policy has to have the
            very same cost wherever it stands, or rounding decides whether it is on its own hull.
    """

    means: PairedMeans
    seed: int
    n_resamples: int
    weights: FloatArray
    scores_by_draw: FloatArray
    costs_usd_by_draw: FloatArray

    @classmethod
    def of(cls, means: PairedMeans, *, seed: int, n_resamples: int = N_RESAMPLES) -> "Resamples":
        """Draw resamples; equal seeds give equal ones, whatever the order of episodes and whatever the policies.

        Raises:
            InvalidConfigError: If there are fewer than 100 resamples.
        """
        check_resamples(n_resamples)
        n_clusters = len(means.clusters)
        counts = all_counts(n_clusters, seed=seed, n_resamples=n_resamples)
        weights = np.concatenate([np.ones((1, n_clusters)), counts]) / n_clusters
        by_draw = _by_draw(weights, means.scores, means.costs_usd)
        return cls(
            means=means,
            seed=seed,
            n_resamples=n_resamples,
            weights=weights,
            scores_by_draw=by_draw[..., 0].T,
            costs_usd_by_draw=by_draw[..., 1].T,
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
        """Value and percentile interval of a number that was worked out in every draw; see `percentile_ends`.

        Args:
            draws: Shape (1 + R,).
            policies: Whose means it was worked out from.
        """
        low, high = percentile_ends(float(draws[0]), draws[1:]) if len(self.means.clusters) >= 2 else (None, None)
        return self._estimate(float(draws[0]), policies, low=low, high=high)

    def score_difference(self, policy: str, other: str) -> Estimate:
        """Mean score of a policy minus another's. Raises as `columns`."""
        draws, places = self.scores([policy, other]), self.columns([policy, other])
        return self._difference(draws[0], self.means.scores[:, places], (policy, other))

    def return_difference(self, policy: str, other: str, reward: RewardCard) -> Estimate:
        """Mean return of a policy minus another's, at a cost weight. Raises as `columns`."""
        draws, places = self.returns([policy, other], reward), self.columns([policy, other])
        scores, costs_usd = self.means.scores[:, places], self.means.costs_usd[:, places]
        return self._difference(draws[0], reward.reward(scores / SCORE_PER_UTILITY, costs_usd), (policy, other))

    def mean_estimate(self, by_cluster: FloatArray, policies: Iterable[str], *, value: float | None = None) -> Estimate:
        """A mean over clusters with its studentised interval.

        Args:
            by_cluster: One number per cluster, shape (C,); differences of two policies make the interval paired.
            policies: Whose numbers they are.
            value: The mean, where it was worked out in another order, so that it may differ by a rounding.
        """
        found = bootstrap_means([by_cluster], self.means.clusters, seed=self.seed, n_resamples=self.n_resamples)
        one = found.estimate()
        mean = float(self.mean(by_cluster)[0]) if value is None else value
        return self._estimate(mean, policies, low=one.low, high=one.high)

    def _difference(self, means: FloatArray, by_cluster: FloatArray, policies: tuple[str, str]) -> Estimate:
        """Of means of two policies, shape (2,), and their numbers by cluster, shape (C, 2)."""
        return self.mean_estimate(by_cluster[:, 0] - by_cluster[:, 1], policies, value=float(means[0] - means[1]))

    def _estimate(self, value: float, policies: Iterable[str], *, low: float | None, high: float | None) -> Estimate:
        return Estimate(
            value=value,
            low=low,
            high=high,
            n_episodes=min(self.means.n_episodes[policy] for policy in policies),
            n_clusters=len(self.means.clusters),
        )


def _by_draw(weights: FloatArray, scores: FloatArray, costs_usd: FloatArray) -> FloatArray:
    """Mean score and cost of every policy in every draw, shape (P, 1 + R, 2), of means by cluster, shape (C, P) each.

    Every policy is multiplied alone, in a matrix of one fixed width: a product's last digit may hang on its width, and so a
    policy's numbers would hang on how many others stand beside it.
    """
    means = []
    for policy in range(scores.shape[1]):
        padded = np.zeros((len(scores), _WIDTH))
        padded[:, 0], padded[:, 1] = scores[:, policy], costs_usd[:, policy]
        means.append((weights @ padded)[:, :2])
    return np.stack(means)


def _by_cluster(policy: str, episodes: Sequence[Played]) -> dict[Cluster, list[tuple[float, float]]]:
    """Cluster -> (score, cost) of its completed episodes; empty where all failed."""
    if not episodes:
        raise ResultsError(f"policy '{policy}': has no episode; run it, or leave it out")
    found: dict[Cluster, list[tuple[float, float]]] = {}
    seen: set[tuple[str, int, int]] = set()
    for one in episodes:
        key = (one.task, one.variation, one.seed)
        if key in seen:
            raise ResultsError(
                f"policy '{policy}': (task, variation, seed) {key} appears more than once, must be unique; give every episode "
                "its own seed, and the episodes of one split at a time"
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
