"""`claims.json`: what a study was to show, claim by claim, what was measured, and whether that is enough.

`mtrouter_rl.studies.full.claim_rules` makes the claims from episodes, `mtrouter_rl.studies.full.report` shows them.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mtrouter_rl.files import ResultFile
from mtrouter_rl.records import Count, FiniteRecord, NonNegative, Share, Split
from mtrouter_rl.statistics.estimate import Estimate

CLAIMS_FILE = "claims.json"

Verdict = Literal["holds", "does not hold", "not distinguishable", "not measured"]
"""`holds`: the whole 95% interval reaches the target. `does not hold`: none of it does. `not distinguishable`: part of it
does. A number without an interval, such as a time, is compared itself. `not measured`: something that it needs is missing."""
Unit = Literal["points", "USD", "return", "share", "switches", "bits", "episodes"]
"""Unit of a measured number; `points` are of score, `return` is at the default cost weight."""


class ClaimTargets(FiniteRecord):
    """The numbers that claims are held against; the defaults are those of the test split.

    Attributes:
        cost_share: Share of the strongest single model's cost that may be spent to score above it.
        score_gain: Points that are to be gained over it for that.
        small_reference_gain: If the hidden-state reference gains fewer points there, `reference_share` of its gain is asked.
        reference_share: See `small_reference_gain`.
        low_cost_share: Share of the strongest single model's cost for which its score is to be kept.
        score_tolerance: Points below its score that count as kept.
        hull_gain: Points above the single models' hull.
        headroom_share: Share of the gap in return between best single model and reference.
        network_tolerance: Points below routers that were trained for one cost weight each.
        training_share: Share of these routers' summed training time.
        half_width: Points of half a paired 95% interval of score.

    Source: 5.4 points at 41.3% of the cost (5.0 at 34.2% on held-out tasks) and 18.7 points above the hull are the MTRouter
    paper's results on ScienceWorld; the others are this project's own.
    """

    cost_share: Share = 0.413
    score_gain: float = 5.4
    small_reference_gain: NonNegative = 8.0
    reference_share: Share = 0.7
    low_cost_share: Share = 0.25
    score_tolerance: NonNegative = 2.0
    hull_gain: float = 18.7
    headroom_share: Share = 0.7
    network_tolerance: NonNegative = 2.0
    training_share: Share = 0.2
    half_width: NonNegative = 4.0

    @classmethod
    def of_split(cls, split: Split) -> "ClaimTargets":
        """The targets of a split; on held-out tasks (`ood`) cost share and score gain differ."""
        return cls(cost_share=0.342, score_gain=5.0) if split == "ood" else cls()


class ClaimRoles(FiniteRecord):
    """Which policies the claims are about. What is left empty makes the claims that need it "not measured".

    Attributes:
        frontier: The learned router at the cost weights that were chosen on validation.
        default: The learned router at the default cost weight.
        strongest: The single model with the best score on validation.
        single_models: All single models; the cheapest of them may be mixed into every frontier.
        monte_carlo: The Monte-Carlo router at the cost weights that it was trained for.
        monte_carlo_default: The Monte-Carlo router at the default cost weight.
        references: Hidden-state references, at one or several cost weights.
        reference_default: The hidden-state reference at the default cost weight.
        baselines: Policies that the frontier is compared with at their cost.
        separate: Policies that were trained for one cost weight each, to compare one network for all weights with.
        quarter: The learned router at the default cost weight, trained with a quarter of the log.
        multi_turn: Policies without an LLM that choose anew at every turn, `random` among them.
    """

    frontier: Annotated[tuple[str, ...], Field(min_length=1)]
    default: str
    strongest: str
    single_models: Annotated[tuple[str, ...], Field(min_length=1)]
    monte_carlo: tuple[str, ...] = ()
    monte_carlo_default: str | None = None
    references: tuple[str, ...] = ()
    reference_default: str | None = None
    baselines: tuple[str, ...] = ()
    separate: tuple[str, ...] = ()
    quarter: str | None = None
    multi_turn: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every policy named, once."""
        alone = (self.default, self.strongest, self.monte_carlo_default, self.reference_default, self.quarter)
        many = (*self.frontier, *self.single_models, *self.monte_carlo, *self.references, *self.baselines)
        named = (*many, *self.separate, *self.multi_turn, *(name for name in alone if name is not None))
        return tuple(dict.fromkeys(named))


class TrainingTimes(FiniteRecord):
    """Seconds of processor time that trainings took on one machine.

    Attributes:
        one_network_s: The one network for all cost weights.
        separate_s: Policy -> its training for one weight.
    """

    one_network_s: Annotated[float, Field(gt=0)]
    separate_s: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Goal(FiniteRecord):
    """What a measured number has to reach.

    Attributes:
        kind: Which side of the target is right; `above` leaves the target itself out.
        target: The target, in the unit of the claim.
    """

    kind: Literal["at least", "above", "at most"]
    target: float

    def is_reached(self, value: float) -> bool:
        """Whether a number reaches it; NaN does not."""
        if self.kind == "above":
            return value > self.target
        return value >= self.target if self.kind == "at least" else value <= self.target

    def verdict(self, estimate: Estimate) -> Verdict:
        """Whether all, none or part of an interval reaches it.

        Example:
            >>> Goal(kind="above", target=0.0).verdict(Estimate(value=1.0, low=-0.5, high=2.5, n_episodes=8, n_clusters=4))
            'not distinguishable'
        """
        low, high = estimate.bounds
        worst, best = (high, low) if self.kind == "at most" else (low, high)
        if self.is_reached(worst):
            return "holds"
        # a limit that is only touched does not rule a claim out: two policies that are one are not distinguishable
        is_out = best > self.target if self.kind == "at most" else best < self.target
        return "does not hold" if is_out else "not distinguishable"

    def distance(self, value: float) -> float:
        """How far beyond the target a number lies; below 0 if it does not reach it, -inf for NaN."""
        if math.isnan(value):
            return -math.inf
        return self.target - value if self.kind == "at most" else value - self.target


class Measured(FiniteRecord):
    """A measured number.

    Attributes:
        value: The number; None where it is out of reach (a score that a frontier never has, a cost below all its points) or not
            defined (a share of no errors).
        low: Lower end of its 95% interval; None if it is unbounded, or if the number has no interval.
        high: Upper end, likewise.
        n_episodes: Completed episodes of the policy that has fewest of those compared; None for what is not of episodes.
        n_clusters: (task, variation) clusters, likewise.
    """

    value: float | None
    low: float | None
    high: float | None
    n_episodes: Count | None
    n_clusters: Count | None

    @classmethod
    def of(cls, estimate: Estimate) -> "Measured":
        """The finite numbers of an estimate."""
        value, low, high = (one if math.isfinite(one) else None for one in (estimate.value, *estimate.bounds))
        return cls(value=value, low=low, high=high, n_episodes=estimate.n_episodes, n_clusters=estimate.n_clusters)

    @classmethod
    def exact(cls, value: float) -> "Measured":
        """A number without an interval."""
        return cls(value=value if math.isfinite(value) else None, low=None, high=None, n_episodes=None, n_clusters=None)


class ClaimPart(FiniteRecord):
    """One of several comparisons that a claim is made of.

    Attributes:
        name: With what.
        measured: The number.
        is_reached: Whether the number itself, without its interval, reaches the target.
        verdict: See `Verdict`.
    """

    name: str
    measured: Measured
    is_reached: bool
    verdict: Verdict


class Claim(FiniteRecord):
    """One claim.

    Attributes:
        key: Short name.
        text: What is claimed.
        unit: Unit of the numbers.
        goal: What has to be reached.
        measured: The number; of a claim of several parts that which is farthest from the goal. None if not measured.
        is_reached: Whether the measured numbers themselves, without their intervals, reach the goal.
        verdict: See `Verdict`; of several parts: holds if all do, does not hold if one does not.
        parts: The comparisons, where there are several.
        notes: What a reader has to know beside it, a sentence each.
    """

    key: str
    text: str
    unit: Unit
    goal: Goal
    measured: Measured | None
    is_reached: bool | None
    verdict: Verdict
    parts: tuple[ClaimPart, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _nothing_measured_is_no_verdict(self) -> Self:
        if (self.measured is None) != (self.verdict == "not measured") or (self.measured is None) != (
            self.is_reached is None
        ):
            raise ValueError(
                f"claim '{self.key}': measured is {self.measured}, is_reached {self.is_reached} and verdict "
                f"'{self.verdict}'; 'not measured' goes with null, and nothing else does"
            )
        return self


class SplitClaims(FiniteRecord):
    """The claims on one split.

    Attributes:
        split: Which split.
        n_clusters: (task, variation) clusters behind them.
        n_left_out: Clusters that were left out, since all episodes of a policy failed there.
        n_resamples: Bootstrap resamples of every interval.
        roles: Which policies they are about.
        targets: The numbers that they are held against.
        claims: The claims.
    """

    split: Split
    n_clusters: Annotated[int, Field(ge=1)]
    n_left_out: Count
    n_resamples: Count
    roles: ClaimRoles
    targets: ClaimTargets
    claims: tuple[Claim, ...]


class Claims(ResultFile):
    """One claims file.

    Attributes:
        schema_version: Version of this layout.
        is_simulated: Whether the models were simulated, so that no LLM was called.
        cost_weight: The default cost weight, that of every return.
        cost_unit_usd: Cost unit of the reward, USD.
        seed: Seed of the bootstrap.
        splits: The claims, by split.
    """

    SOURCE: ClassVar[str] = "a full study writes it beside its results"
    FIX: ClassVar[str] = "correct it, or run the study again"
    IS_STRICT: ClassVar[bool] = True

    schema_version: Literal[1] = 1
    is_simulated: bool
    cost_weight: NonNegative
    cost_unit_usd: Annotated[float, Field(gt=0)]
    seed: int
    splits: Annotated[tuple[SplitClaims, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _splits_differ(self) -> Self:
        names = [one.split for one in self.splits]
        if len(set(names)) < len(names):
            raise ValueError(f"splits are {names}, each must appear once")
        return self


def claim_of(key: str, text: str, unit: Unit, *, goal: Goal, estimate: Estimate, notes: tuple[str, ...] = ()) -> Claim:
    """A claim about one number with an interval."""
    return Claim(
        key=key,
        text=text,
        unit=unit,
        goal=goal,
        measured=Measured.of(estimate),
        is_reached=goal.is_reached(estimate.value),
        verdict=goal.verdict(estimate),
        notes=notes,
    )


def joint_claim(
    key: str, text: str, unit: Unit, *, goal: Goal, parts: Mapping[str, Estimate | float], notes: tuple[str, ...] = ()
) -> Claim:
    """A claim that every one of several numbers reaches a goal; plain floats are numbers without an interval.

    That all hold is claimed only if each holds by its own 95% interval, which needs no correction for how many there are.

    Source: Berger, Multiparameter Hypothesis Testing and Acceptance Sampling (1982): the intersection-union test.
    """
    assert parts
    values = {name: one if isinstance(one, float) else one.value for name, one in parts.items()}
    found = {
        name: ClaimPart(
            name=name,
            measured=Measured.exact(one) if isinstance(one, float) else Measured.of(one),
            is_reached=goal.is_reached(values[name]),
            verdict=_exact_verdict(goal, one) if isinstance(one, float) else goal.verdict(one),
        )
        for name, one in parts.items()
    }
    worst = min(values, key=lambda name: goal.distance(values[name]))
    return Claim(
        key=key,
        text=text,
        unit=unit,
        goal=goal,
        measured=found[worst].measured,
        is_reached=all(part.is_reached for part in found.values()),
        verdict=joint_verdict([part.verdict for part in found.values()]),
        parts=tuple(found.values()),
        notes=notes,
    )


def joint_verdict(verdicts: list[Verdict]) -> Verdict:
    """Verdict on "all of these": holds if all do, does not hold if one does not, else not distinguishable."""
    if all(verdict == "holds" for verdict in verdicts):
        return "holds"
    return "does not hold" if "does not hold" in verdicts else "not distinguishable"


def not_measured(key: str, text: str, unit: Unit, *, goal: Goal, why: str) -> Claim:
    """A claim that something is missing for."""
    return Claim(
        key=key,
        text=text,
        unit=unit,
        goal=goal,
        measured=None,
        is_reached=None,
        verdict="not measured",
        notes=(f"Missing: {why}.",),
    )


def _exact_verdict(goal: Goal, value: float) -> Verdict:
    return "holds" if goal.is_reached(value) else "does not hold"
