"""The claims of one split, from what is kept of its episodes, the points that were chosen, and who plays which part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.evaluation.metrics import EpisodeRecord
from mtrouter_rl.records import Split
from mtrouter_rl.statistics.mutual_information import MutualInformation
from mtrouter_rl.studies.full.claim_behavior import models_by_skill
from mtrouter_rl.studies.full.claim_evidence import Evidence
from mtrouter_rl.studies.full.claim_rules import (
    CLAIM_RULES,
    as_good_for_less,
    cheaper_and_better,
    gain_over_hull,
    headroom_closed,
    interval_half_widths,
    one_network_time,
)
from mtrouter_rl.studies.full.claims import Claim, ClaimRoles, SplitClaims, TrainingTimes
from mtrouter_rl.studies.full.frontier_points import FrontierPoints

NOT_OF_EPISODES = {one_network_time: "the times of the trainings", models_by_skill: "the skill due at every turn"}
"""Rules that ask for more than is kept of the episodes, and for what."""

_OF_CHOSEN_POINTS = (cheaper_and_better, as_good_for_less, gain_over_hull)
_ON_EVERY_VARIATION = (*_OF_CHOSEN_POINTS, headroom_closed, interval_half_widths)
_CHOSEN = "What is judged was chosen on validation: {}; the cheapest single model may be mixed in."
_FEWER = "On the {} of {} (task, variation) that every policy was run on."


@dataclass(frozen=True, kw_only=True)
class SplitJudge:
    """Judges one split.

    Attributes:
        split: Which one.
        records: Policy -> what is kept of its episodes.
        points: The points of the frontier that were chosen on validation.
        roles: Which policies the claims are about.
        reward: Default cost weight, and cost unit.
        seed: Seed of the resamples.
        training: How long trainings took; None if nobody knows.
        skill: What choice of model and skill due tell of each other; None if the skill is not known.
    """

    split: Split
    records: Mapping[str, Sequence[EpisodeRecord]]
    points: FrontierPoints
    roles: ClaimRoles
    reward: RewardCard
    seed: int
    training: TrainingTimes | None = None
    skill: MutualInformation | None = None

    @cached_property
    def curve(self) -> Evidence:
        """Evidence of everything, on the variations that all policies were run on."""
        found = self._evidence(self.roles, on_common=True)
        return replace(found, training=self.training, skill=self.skill)

    @cached_property
    def chosen(self) -> Evidence:
        """Evidence of what was run on every variation."""
        roles = self.roles
        key = ClaimRoles(
            frontier=self.points.policies,
            default=roles.default,
            strongest=roles.strongest,
            single_models=roles.single_models,
            monte_carlo=() if roles.monte_carlo_default is None else (roles.monte_carlo_default,),
            monte_carlo_default=roles.monte_carlo_default,
            references=roles.references,
            reference_default=roles.reference_default,
        )
        return self._evidence(key, on_common=False)

    def claims(self) -> SplitClaims:
        """All claims, on every variation where all that they are about was run on each, else on those of all policies."""
        return SplitClaims(
            split=self.split,
            n_clusters=len(self.chosen.resamples.means.clusters),
            n_left_out=len(self.chosen.resamples.means.left_out),
            n_resamples=self.curve.resamples.n_resamples,
            roles=self.curve.roles,
            targets=self.curve.targets,
            claims=tuple(map(self.claim, CLAIM_RULES)),
        )

    def claim(self, rule: Callable[[Evidence], Claim]) -> Claim:
        """The claim of a rule, with what a reader has to know beside it."""
        policies, chosen = self._chosen_for(rule), self.chosen
        if rule in _OF_CHOSEN_POINTS:
            chosen = replace(chosen, roles=chosen.roles.model_copy(update={"frontier": policies}))
        claim = rule(chosen if rule in _ON_EVERY_VARIATION else self.curve)
        notes = list(claim.notes)
        if rule in _OF_CHOSEN_POINTS:
            notes.append(_CHOSEN.format(", ".join(policies)))
        n_clusters, n_all = (len(one.resamples.means.clusters) for one in (self.curve, chosen))
        if rule not in _ON_EVERY_VARIATION and n_clusters < n_all:
            notes.append(_FEWER.format(n_clusters, n_all))
        return claim.model_copy(update={"notes": tuple(notes)})

    def _chosen_for(self, rule: Callable[[Evidence], Claim]) -> tuple[str, ...]:
        """The points that were chosen on validation for a claim."""
        if rule is cheaper_and_better:
            return (self.points.policy("beat" if self.split == "test" else "beat-ood"),)
        return (self.points.policy("keep"),) if rule is as_good_for_less else self.points.policies

    def _evidence(self, roles: ClaimRoles, *, on_common: bool) -> Evidence:
        named = {name: self.records[name] for name in roles.names}
        if on_common:
            common = set.intersection(*({(one.task, one.variation) for one in logged} for logged in named.values()))
            named = {
                name: [one for one in logged if (one.task, one.variation) in common] for name, logged in named.items()
            }
        return Evidence.of(named, roles=roles, reward=self.reward, seed=self.seed)
