"""The claims of a full study about score and cost, each worked out from episodes by a function of its own.

Every function takes the same `Evidence` and gives a `Claim`, which is "not measured" where a role that it needs is empty.
Wherever a frontier is compared, two of its points, or one and the cheapest single model, may be mixed by episode
(`mtrouter_rl.evaluation.frontier_comparison`). The claims about behaviour are in `mtrouter_rl.studies.full.claim_behavior`.
"""

from collections.abc import Callable

import numpy as np

from mtrouter_rl.evaluation.frontier_comparison import (
    Frontier,
    area_difference,
    cost_at_equal_score,
    hulls_of,
    score_at_equal_cost,
    share_of_headroom,
)
from mtrouter_rl.reporting.tables import format_number, format_percent, format_usd
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.full.claim_behavior import fewer_switches, models_by_skill, stays_after_transient_errors
from mtrouter_rl.studies.full.claim_evidence import ABOVE_ZERO, Evidence
from mtrouter_rl.studies.full.claims import Claim, Goal, claim_of, joint_claim, not_measured


def cheaper_and_better(evidence: Evidence) -> Claim:
    """More score than the strongest single model for a share of its cost.

    Where the hidden-state reference itself gains little there, a share of its gain is asked instead; a reference that gains
    nothing asks for 0.
    """
    roles, targets, frontier = evidence.roles, evidence.targets, evidence.learned()
    key, limit = "cheaper-and-better", format_percent(targets.cost_share)
    draws = evidence.gain_over_strongest(frontier, targets.cost_share)
    names = (*frontier.points, roles.strongest)
    gain = evidence.estimate(draws, names)
    notes = _points_within(evidence, targets.cost_share)
    if not roles.references:
        notes = (*notes, "No reference was run, so the proviso about a reference that gains little was not looked at.")
    else:
        reference = evidence.frontier("reference", roles.references)
        gains = evidence.gain_over_strongest(reference, targets.cost_share)
        notes = (*notes, f"The hidden-state reference gains {_signed(gains[0])} points there.")
        if gains[0] < targets.small_reference_gain:
            notes = (*notes, f"The learned router gains {_signed(gain.value)} points there.")
            text = (
                f"At no more than {limit} of the strongest single model's cost, the score gained over it is at least "
                f"{format_percent(targets.reference_share)} of what the hidden-state reference gains, which is less than "
                f"{targets.small_reference_gain:g} points. Measured: gain minus this share of the reference's"
            )
            beyond = evidence.estimate(
                draws - targets.reference_share * np.maximum(gains, 0.0), (*names, *reference.points)
            )
            return claim_of(key, text, "points", goal=Goal(kind="at least", target=0.0), estimate=beyond, notes=notes)
    text = (
        f"At no more than {limit} of the strongest single model's cost, the score is at least {targets.score_gain:g} points "
        "above its score"
    )
    goal = Goal(kind="at least", target=targets.score_gain)
    return claim_of(key, text, "points", goal=goal, estimate=gain, notes=notes)


def as_good_for_less(evidence: Evidence) -> Claim:
    """The strongest single model's score, within a tolerance, for a small share of its cost."""
    roles, targets, frontier = evidence.roles, evidence.targets, evidence.learned()
    draws = evidence.gain_over_strongest(frontier, targets.low_cost_share)
    return claim_of(
        "as-good-for-less",
        f"At no more than {format_percent(targets.low_cost_share)} of the strongest single model's cost, the score is not "
        f"lower than its score (paired interval above -{targets.score_tolerance:g} points)",
        "points",
        goal=Goal(kind="above", target=-targets.score_tolerance),
        estimate=evidence.estimate(draws, (*frontier.points, roles.strongest)),
        notes=_points_within(evidence, targets.low_cost_share),
    )


def gain_over_hull(evidence: Evidence) -> Claim:
    """The best of the chosen points above the single models' hull at its cost; the best one anew in every resample."""
    roles, resamples = evidence.roles, evidence.resamples
    hulls = hulls_of(resamples, Frontier(name="single models", policies=roles.single_models))
    costs, scores = resamples.costs_usd(roles.frontier), resamples.scores(roles.frontier)
    # below the cheapest single model a policy is held to that model's score, as `mtrouter_rl.statistics.hull` does
    at_usd = np.maximum(costs, hulls.costs_usd[:, :1])
    gains = scores - np.stack([hulls.scores_at(column) for column in at_usd.T], axis=1)
    return claim_of(
        "hull-gain",
        "The best of the chosen points lies above the upper hull of the single models by at least "
        f"{evidence.targets.hull_gain:g} points",
        "points",
        goal=Goal(kind="at least", target=evidence.targets.hull_gain),
        estimate=evidence.estimate(gains.max(axis=1), (*roles.frontier, *roles.single_models)),
        notes=(
            f"Best point: {roles.frontier[int(np.argmax(gains[0]))]}, of {len(roles.frontier)}. The best of several is "
            "flattered a little by chance.",
        ),
    )


def score_against_monte_carlo(evidence: Evidence) -> Claim:
    """More score than the Monte-Carlo router at its cost, at every weight that it was trained for."""
    key, text = "monte-carlo-at-equal-cost", "At equal cost, the score is higher than that of the Monte-Carlo router"
    names = evidence.roles.monte_carlo
    return _at_equal_cost(evidence, key, text, names=names, goal=ABOVE_ZERO, why="the Monte-Carlo router")


def cost_against_monte_carlo(evidence: Evidence) -> Claim:
    """Less cost than the Monte-Carlo router at its score, at every weight that it was trained for."""
    key, text = "monte-carlo-at-equal-score", "At equal score, the cost is lower than that of the Monte-Carlo router"
    names = evidence.roles.monte_carlo
    if not names:
        return not_measured(key, text, "USD", goal=ABOVE_ZERO, why="the Monte-Carlo router")
    found = cost_at_equal_score(evidence.resamples, evidence.learned(), names)
    ratios = ", ".join(f"{name} {_interval(one.cost_ratio, decimals=2)}" for name, one in found.items())
    parts = {name: one.saved_usd for name, one in found.items()}
    notes = (f"Cost over its cost: {ratios}.",)
    return joint_claim(key, f"{text}. Measured: USD saved an episode", "USD", goal=ABOVE_ZERO, parts=parts, notes=notes)


def area_against_monte_carlo(evidence: Evidence) -> Claim:
    """A larger area under the frontier than the Monte-Carlo router has."""
    key, roles = "monte-carlo-area", evidence.roles
    text = (
        "The area under the frontier is larger than that of the Monte-Carlo router: mean score over the logarithm of cost, "
        "from the cheapest single model's cost to the strongest one's"
    )
    if not roles.monte_carlo:
        return not_measured(key, text, "points", goal=ABOVE_ZERO, why="the Monte-Carlo router")
    low_usd, high_usd = evidence.resamples.costs_usd([evidence.cheapest, roles.strongest])[0]
    if not 0 < low_usd < high_usd:
        why = f"a range of costs: it would be from {low_usd:g} to {high_usd:g} USD"
        return not_measured(key, text, "points", goal=ABOVE_ZERO, why=why)
    other = evidence.frontier("Monte-Carlo router", roles.monte_carlo)
    limits = {"cheapest": evidence.cheapest, "dearest": roles.strongest}
    estimate = area_difference(evidence.resamples, evidence.learned(), other, **limits)
    return claim_of(key, text, "points", goal=ABOVE_ZERO, estimate=estimate)


def score_against_baselines(evidence: Evidence) -> Claim:
    """More score than every baseline at its cost; those that it does not beat are named."""
    key, text = "baselines-at-equal-cost", "At equal cost, the score is higher than that of every baseline"
    names = evidence.roles.baselines
    claim = _at_equal_cost(evidence, key, text, names=names, goal=ABOVE_ZERO, why="baselines")
    if not names:
        return claim
    beaten = sum(part.verdict == "holds" for part in claim.parts)
    even = [part.name for part in claim.parts if part.verdict == "not distinguishable"]
    better = [part.name for part in claim.parts if part.verdict == "does not hold"]
    notes = [f"Higher than {beaten} of {len(names)} baselines."]
    notes += [f"Not distinguishable: {', '.join(even)}."] if even else []
    notes += (
        [f"Better than the learned router, or cheaper than all that it can do: {', '.join(better)}."] if better else []
    )
    notes += [
        f"{evidence.cheapest} is the cheapest single model, which the frontier may be mixed with: no better than it is 0."
        for _ in {evidence.cheapest} & set(names)
    ]
    return claim.model_copy(update={"notes": tuple(notes)})


def headroom_closed(evidence: Evidence) -> Claim:
    """Share of the gap in return between the best single model and the hidden-state reference."""
    roles, share = evidence.roles, evidence.targets.headroom_share
    goal = Goal(kind="at least", target=share)
    key, text = (
        "share-of-headroom",
        f"At the default cost weight, at least {format_percent(share)} of the gap in return between the best single model and "
        "the hidden-state reference is closed",
    )
    if roles.reference_default is None:
        return not_measured(key, text, "share", goal=goal, why="the hidden-state reference at the default cost weight")
    found = share_of_headroom(
        evidence.resamples,
        roles.default,
        single_models=roles.single_models,
        reference=roles.reference_default,
        reward=evidence.reward,
        asked_share=share,
    )
    notes: tuple[str, ...] = (
        f"Gap {_interval(found.gap, decimals=3)}, gain {_interval(found.gain, decimals=3)}, in return.",
    )
    claim = claim_of(key, text, "share", goal=goal, estimate=found.share, notes=notes)
    if not found.is_gap_clear:
        notes = (*notes, "The interval of the gap touches 0, so that a share of it means nothing.")
        return claim.model_copy(update={"verdict": "not distinguishable", "notes": notes})
    verdict = Goal(kind="at least", target=0.0).verdict(found.above_share)
    return claim.model_copy(update={"verdict": verdict})


def one_network_score(evidence: Evidence) -> Claim:
    """One network for all cost weights is nearly as good as one for each, at the cost of each."""
    tolerance = evidence.targets.network_tolerance
    goal = Goal(kind="at least", target=-tolerance)
    key, text = (
        "one-network-score",
        f"At equal cost, the score is at most {tolerance:g} points below that of every router that was trained for "
        "one cost weight",
    )
    why = "routers that were trained for one cost weight each"
    return _at_equal_cost(evidence, key, text, names=evidence.roles.separate, goal=goal, why=why)


def one_network_time(evidence: Evidence) -> Claim:
    """One network for all cost weights takes a share of the time that one for each takes."""
    goal = Goal(kind="at most", target=evidence.targets.training_share)
    key, text = (
        "one-network-time",
        f"Training one network for all cost weights takes at most {format_percent(goal.target)} of the time of training one "
        "for each",
    )
    times = evidence.training
    if times is None:
        return not_measured(key, text, "share", goal=goal, why="the times of the trainings")
    total_s = sum(times.separate_s.values())
    claim = joint_claim(key, text, "share", goal=goal, parts={"training time": times.one_network_s / total_s})
    note = f"{times.one_network_s:.0f} s against {total_s:.0f} s for {len(times.separate_s)} routers."
    return claim.model_copy(update={"parts": (), "notes": (note,)})


def quarter_of_the_log(evidence: Evidence) -> Claim:
    """A quarter of the log is enough to beat the Monte-Carlo router that has all of it."""
    roles = evidence.roles
    key, text = (
        "quarter-of-the-log",
        "At the default cost weight, the learned router with a quarter of the log has a higher return than the Monte-Carlo "
        "router with the whole log",
    )
    if roles.quarter is None or roles.monte_carlo_default is None:
        why = "both routers at the default cost weight"
        return not_measured(key, text, "return", goal=ABOVE_ZERO, why=why)
    estimate = evidence.return_difference(roles.quarter, roles.monte_carlo_default)
    return claim_of(key, text, "return", goal=ABOVE_ZERO, estimate=estimate)


def interval_half_widths(evidence: Evidence) -> Claim:
    """Paired intervals of score are narrow enough to see differences of a few points."""
    roles, width = evidence.roles, evidence.targets.half_width
    goal = Goal(kind="at most", target=width)
    key, text = (
        "interval-half-widths",
        f"Half a paired 95% interval of the learned router's score, against the strongest single model and the Monte-Carlo "
        f"router, is at most {width:g} points",
    )
    if roles.monte_carlo_default is None:
        return not_measured(key, text, "points", goal=goal, why="the Monte-Carlo router at the default cost weight")
    names = (roles.strongest, roles.monte_carlo_default)
    found = {name: evidence.resamples.score_difference(roles.default, name) for name in names}
    notes = (
        "Differences of score: "
        + ", ".join(f"{roles.default} - {name} {_interval(one, decimals=1)}" for name, one in found.items())
        + ".",
    )
    parts = {name: one.half_width for name, one in found.items()}
    return joint_claim(key, text, "points", goal=goal, parts=parts, notes=notes)


def _at_equal_cost(evidence: Evidence, key: str, text: str, *, names: tuple[str, ...], goal: Goal, why: str) -> Claim:
    """The learned router's score above that of every one of some policies at its cost; `why` is what is missing without any."""
    if not names:
        return not_measured(key, text, "points", goal=goal, why=why)
    parts = score_at_equal_cost(evidence.resamples, evidence.learned(), names)
    return joint_claim(key, text, "points", goal=goal, parts=parts)


def _points_within(evidence: Evidence, cost_share: float) -> tuple[str, ...]:
    """The best of the chosen points, unmixed, that costs no more than a share of the strongest single model's cost."""
    resamples, roles = evidence.resamples, evidence.roles
    costs, scores = resamples.costs_usd(roles.frontier)[0], resamples.scores(roles.frontier)[0]
    limit = cost_share * float(resamples.costs_usd([roles.strongest])[0, 0])
    if not (costs <= limit).any():
        return (f"No chosen point costs at most {format_usd(limit)} USD; what is measured is a mixture.",)
    best = int(np.argmax(np.where(costs <= limit, scores, -np.inf)))
    gain = float(scores[best] - resamples.scores([roles.strongest])[0, 0])
    return (
        f"Without mixing: {roles.frontier[best]}, {_signed(gain)} points at {format_usd(float(costs[best]))} USD of "
        f"{format_usd(limit)} USD.",
    )


def _signed(value: float) -> str:
    return format_number(float(value), decimals=1, sign=True)


def _interval(estimate: Estimate, *, decimals: int) -> str:
    value, low, high = (
        format_number(one, decimals=decimals) if np.isfinite(one) else "unbounded"
        for one in (estimate.value, *estimate.bounds)
    )
    return f"{value} [{low}, {high}]"


CLAIM_RULES: tuple[Callable[[Evidence], Claim], ...] = (
    cheaper_and_better,
    as_good_for_less,
    gain_over_hull,
    score_against_monte_carlo,
    cost_against_monte_carlo,
    area_against_monte_carlo,
    score_against_baselines,
    headroom_closed,
    one_network_score,
    one_network_time,
    quarter_of_the_log,
    fewer_switches,
    stays_after_transient_errors,
    models_by_skill,
    interval_half_widths,
)
"""The functions behind the claims, in the order in which they are shown."""
