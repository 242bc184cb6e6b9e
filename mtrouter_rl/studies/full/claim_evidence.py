"""What the claims of a study are judged by: the episodes of one split, the roles of policies, and all means resampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.evaluation.frontier_comparison import Frontier, hulls_of
from mtrouter_rl.evaluation.metrics import EpisodeRecord
from mtrouter_rl.records import Episode, FloatArray, Split
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.mutual_information import MutualInformation
from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from mtrouter_rl.statistics.resamples import N_RESAMPLES
from mtrouter_rl.studies.full.claims import ClaimRoles, ClaimTargets, Goal, TrainingTimes

ABOVE_ZERO = Goal(kind="above", target=0.0)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the claims on one split are judged by.

    Attributes:
        split: The split.
        roles: Which policies they are about.
        targets: The numbers that they are held against.
        reward: Default cost weight, and cost unit.
        episodes: Policy -> what is kept of its episodes.
        resamples: Means of all policies, in every resample.
        training: How long trainings took; None if nobody knows.
        skill: What the default router's choice of model and the skill due tell of each other, as `behavior.json` holds it; None
            if the skill is not known.
    """

    split: Split
    roles: ClaimRoles
    targets: ClaimTargets
    reward: RewardCard
    episodes: Mapping[str, Sequence[EpisodeRecord]]
    resamples: Resamples
    training: TrainingTimes | None = None
    skill: MutualInformation | None = None

    @classmethod
    def of(
        cls,
        episodes: Mapping[str, Sequence[Episode | EpisodeRecord]],
        *,
        roles: ClaimRoles,
        reward: RewardCard,
        seed: int,
        targets: ClaimTargets | None = None,
        n_resamples: int = N_RESAMPLES,
    ) -> "Evidence":
        """Check episodes of one split against the roles, and draw the resamples; policies without a role are left out.

        Args:
            episodes: Policy -> its episodes, completed and failed, all on the same (task, variation), or what is kept of them.
            roles: Which policies the claims are about.
            reward: Default cost weight, and cost unit.
            seed: Seed of the resamples.
            targets: What they are held against; None takes those of the split.
            n_resamples: Bootstrap resamples.

        Raises:
            UnknownNameError: If a role names a policy without episodes.
            ResultsError: If the episodes are of several splits, or as `PairedMeans.of`.
            InvalidConfigError: As `Resamples.of`.
        """
        for name in roles.names:
            if name not in episodes:
                raise unknown_name("policy in roles", name, episodes, fix="Name only policies whose episodes are given")
        named = {name: tuple(_record(one, reward) for one in episodes[name]) for name in roles.names}
        splits = sorted({one.split for logged in named.values() for one in logged})
        if len(splits) > 1:
            raise ResultsError(f"episodes are of the splits {splits}, must be of one; give one split at a time")
        means = PairedMeans.of(named)
        split: Split = next(one.split for logged in named.values() for one in logged)
        return cls(
            split=split,
            roles=roles,
            targets=targets or ClaimTargets.of_split(split),
            reward=reward,
            episodes=named,
            resamples=Resamples.of(means, seed=seed, n_resamples=n_resamples),
        )

    @property
    def cheapest(self) -> str:
        """The single model that costs least on the split."""
        costs = self.resamples.costs_usd(self.roles.single_models)[0]
        return self.roles.single_models[int(np.argmin(costs))]

    def frontier(self, name: str, policies: tuple[str, ...]) -> Frontier:
        """A frontier of policies into which the cheapest single model may be mixed."""
        return Frontier(name=name, policies=policies, anchor=self.cheapest)

    def learned(self) -> Frontier:
        """The frontier of the learned router."""
        return self.frontier("learned router", self.roles.frontier)

    def gain_over_strongest(self, frontier: Frontier, cost_share: float) -> FloatArray:
        """Score of a frontier at a share of the strongest single model's cost, minus that model's score, in every draw."""
        costs, scores = (
            draws([self.roles.strongest])[:, 0] for draws in (self.resamples.costs_usd, self.resamples.scores)
        )
        return hulls_of(self.resamples, frontier).scores_at(cost_share * costs) - scores

    def estimate(self, draws: FloatArray, policies: Sequence[str]) -> Estimate:
        """The estimate of what was worked out from policies' means in every draw."""
        return self.resamples.estimate(draws, policies)

    def return_difference(self, policy: str, other: str) -> Estimate:
        """A policy's mean return at the default cost weight minus another's."""
        return self.resamples.return_difference(policy, other, self.reward)


def _record(episode: Episode | EpisodeRecord, reward: RewardCard) -> EpisodeRecord:
    return episode if isinstance(episode, EpisodeRecord) else EpisodeRecord.of(episode, reward)
