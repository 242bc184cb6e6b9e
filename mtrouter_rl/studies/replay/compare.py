"""Families against single models on held-out tasks: paired intervals, corrected for all, and what so many tasks could show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm  # type: ignore[import-untyped]

from mtrouter_rl.records import SCORE_PER_UTILITY
from mtrouter_rl.statistics.estimate import FEWEST_CLUSTERS, Estimate
from mtrouter_rl.statistics.hull import Hulls
from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value, holm
from mtrouter_rl.studies.replay.crossval import GOALS, PRICES, Goal, HeldOut, Scheme
from mtrouter_rl.studies.replay.exact import NOBODY, ExactSuite, Legs, Outcome
from mtrouter_rl.studies.replay.record import Answer, Comparison, FamilyRow, Move, Point

TARGET_POINTS = 2.0
TARGET_SAVING = 0.25
POWER = 0.8
LEVEL = 0.05
REFERENCE = "best single model"
"""The single model that scored best on the training tasks of each fold."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A policy on held-out tasks."""

    family: str
    goal: Goal
    legs: Legs
    told: tuple[str, ...]


def resamples_of(exact: ExactSuite, policies: Mapping[str, Outcome], *, seed: int) -> Resamples:
    """Single models and policies on the same tasks, on the same resamples; singles are called by their index."""
    suite = exact.suite
    names = (*(str(m) for m in range(len(suite.models))), *policies)
    scores = np.concatenate([suite.scores, *(one.scores[:, None] for one in policies.values())], axis=1)
    costs = np.concatenate([suite.costs_usd, *(one.costs_usd[:, None] for one in policies.values())], axis=1)
    means = PairedMeans(
        policies=names,
        clusters=tuple((task.id, 0) for task in suite.tasks),
        scores=SCORE_PER_UTILITY * scores,
        costs_usd=costs,
        n_episodes=dict.fromkeys(names, suite.n_tasks),
        left_out=(),
    )
    return Resamples.of(means, seed=seed)


def mean_estimates(resamples: Resamples, policy: str) -> tuple[Estimate, Estimate]:
    """Mean score and mean cost of a policy."""
    column = resamples.columns([policy])[0]
    means = resamples.means
    return (
        resamples.mean_estimate(means.scores[:, column], [policy]),
        resamples.mean_estimate(means.costs_usd[:, column], [policy]),
    )


def compare(
    exact: ExactSuite, held: Mapping[str, HeldOut], singles: HeldOut, *, scheme: Scheme, seed: int
) -> list[tuple[Comparison, float]]:
    """Every family and goal of a scheme, p-values not corrected yet, with the standard error of what is tested.

    Args:
        exact: The suite.
        held: Family -> what it did on the held-out tasks.
        singles: The best single models of the folds, at every price.
        scheme: What was held out.
        seed: Of the resamples.
    """
    part = exact.part(singles.tasks)
    entries = [
        Entry(family=family, goal=goal, legs=one.of_goal(goal), told=one.told[goal])
        for family, one in held.items()
        for goal in GOALS
    ]
    outcomes = {f"{entry.family}/{entry.goal}": part.value(entry.legs) for entry in entries}
    resamples = resamples_of(part, {REFERENCE: part.value(singles.legs[-1]), **outcomes}, seed=seed)
    hull = _hulls(resamples, len(exact.suite.models))
    return [_comparison(part, resamples, hull, entry, scheme=scheme) for entry in entries]


def _hulls(resamples: Resamples, n_models: int) -> Hulls:
    names = [str(m) for m in range(n_models)]
    return Hulls.of(resamples.costs_usd(names), resamples.scores(names))


def _comparison(
    part: ExactSuite, resamples: Resamples, hulls: Hulls, entry: Entry, *, scheme: Scheme
) -> tuple[Comparison, float]:
    name = f"{entry.family}/{entry.goal}"
    score, cost = resamples.scores([name])[:, 0], resamples.costs_usd([name])[:, 0]
    gains = score - hulls.scores_at(np.maximum(cost, hulls.costs_usd[:, 0]))
    savings = 1 - cost / np.maximum(hulls.costs_at(np.minimum(score, hulls.heights.max(axis=1))), 1e-12)
    reference_cost = resamples.costs_usd([REFERENCE])[:, 0]
    own_savings = 1 - cost / np.maximum(reference_cost, 1e-12)
    tested = gains if entry.goal == "gain" else savings
    spread = float(np.diff(np.quantile(tested[1:], [0.16, 0.84]))[0] / 2)
    is_enough = part.suite.n_tasks >= FEWEST_CLUSTERS
    p_value = max(bootstrap_p_value(tested[1:]), 2.0 ** (1 - part.suite.n_tasks)) if is_enough else None
    means = mean_estimates(resamples, name)
    outcome = part.value(entry.legs)
    column, reference = resamples.columns([name, REFERENCE])
    has_abstained = all(
        np.array_equal(by_task[:, column], by_task[:, reference])
        for by_task in (resamples.means.scores, resamples.means.costs_usd)
    )
    comparison = Comparison(
        scheme=scheme,
        family=entry.family,
        goal=entry.goal,
        score=means[0],
        cost_usd=means[1],
        hull_gain=resamples.estimate(gains, [name]),
        saving=resamples.estimate(savings, [name]),
        score_difference=resamples.score_difference(name, REFERENCE),
        cost_saving=resamples.estimate(own_savings, [name, REFERENCE]),
        p_value=p_value,
        p_adjusted=None,
        detectable=0.0,
        n_needed=None,
        answer="abstained" if has_abstained else "not shown",
        told=entry.told,
        moves=moves_of(part, entry.legs, outcome),
        share_restarted=float(((outcome.n_legs > 1) | ~outcome.is_ended).mean()),
    )
    return comparison, spread


def judge(found: Sequence[tuple[Comparison, float]]) -> tuple[Comparison, ...]:
    """Correct all comparisons of a study together, and say what each shows."""
    known = [one for one, _ in found if one.p_value is not None]
    adjusted = iter(holm([one.p_value for one in known if one.p_value is not None]))
    return tuple(
        _judged(one, spread, None if one.p_value is None else next(adjusted), n_comparisons=len(found))
        for one, spread in found
    )


def _judged(one: Comparison, spread: float, p_adjusted: float | None, *, n_comparisons: int) -> Comparison:
    target = TARGET_POINTS if one.goal == "gain" else TARGET_SAVING
    estimate = one.hull_gain if one.goal == "gain" else one.saving
    factor = float(norm.ppf(1 - LEVEL / 2 / n_comparisons) + norm.ppf(POWER))
    detectable = factor * spread
    n_tasks = estimate.n_clusters
    n_needed = math.ceil(n_tasks * (detectable / target) ** 2) if spread > 0 else None
    is_above = estimate.value >= target and estimate.is_above_zero and p_adjusted is not None and p_adjusted <= LEVEL
    if one.goal == "save":
        is_above = is_above and one.score_difference.value >= 0
    answer: Answer
    if one.answer == "abstained":
        answer = "abstained"
    elif is_above:
        answer = "shown"
    elif p_adjusted is None:
        answer = "too few to tell"
    elif estimate.bounds[1] < target:
        answer = "excluded"
    else:
        answer = "too few to tell" if detectable > target else "not shown"
    update = {"p_adjusted": p_adjusted, "detectable": detectable, "n_needed": n_needed, "answer": answer}
    return one.model_copy(update=update)


def moves_of(part: ExactSuite, legs: Legs, outcome: Outcome) -> tuple[Move, ...]:
    """Restarts that really happened, by first and second model."""
    suite = part.suite
    first = legs.models[:, 0]
    is_left = (outcome.n_legs > 1) | ~outcome.is_ended
    found: dict[tuple[int, int], list[int]] = {}
    for n in np.flatnonzero(is_left).tolist():
        second = int(legs.models[n, 1]) if outcome.n_legs[n] > 1 else NOBODY
        found.setdefault((int(first[n]), second), []).append(n)
    rows = []
    for (a, b), tasks in found.items():
        turns = legs.limits[tasks, 0]
        spent = part.spent[tasks, a, np.minimum(turns, part.spent.shape[2] - 1)]
        rows.append(
            Move(
                first=suite.models[a],
                second="" if b == NOBODY else suite.models[b],
                n_tasks=len(tasks),
                median_turn=float(np.median(turns)),
                median_usd=float(np.median(spent)),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.n_tasks, row.first, row.second)))


def frontier(exact: ExactSuite, family: str, held: HeldOut, scheme: Scheme) -> FamilyRow:
    """What a family reaches at every price."""
    part = exact.part(held.tasks)
    points = []
    for price, legs in zip(PRICES, held.legs, strict=False):
        outcome = part.value(legs)
        points.append(
            Point(
                price=price,
                score=SCORE_PER_UTILITY * float(outcome.scores.mean()),
                cost_usd=float(outcome.costs_usd.mean()),
            )
        )
    return FamilyRow(scheme=scheme, family=family, points=tuple(points))


def answers_of(comparisons: Sequence[Comparison], exact: ExactSuite) -> tuple[str, ...]:
    """What came of the two targets, and what so many tasks can show at all, in plain words."""
    answers = [_answer([one for one in comparisons if one.goal == goal], goal) for goal in GOALS]
    return (*answers, power_of(exact, max(len(comparisons), 1)))


def power_of(exact: ExactSuite, n_comparisons: int) -> str:
    """What difference of score the tasks can show, by how far the two best single models differ from task to task."""
    suite = exact.suite
    second, first = np.argsort(suite.scores.mean(axis=0), kind="stable")[-2:]
    differences = SCORE_PER_UTILITY * (suite.scores[:, first] - suite.scores[:, second])
    error = float(differences.std(ddof=1)) / math.sqrt(suite.n_tasks)
    factor = float(norm.ppf(1 - LEVEL / 2 / n_comparisons) + norm.ppf(POWER))
    needed = math.ceil(suite.n_tasks * (factor * error / TARGET_POINTS) ** 2)
    return (
        f"Power: two policies that differ as much as the two best single models ({suite.models[first]} and "
        f"{suite.models[second]}) are "
        f"told apart on {suite.n_tasks} tasks from {factor * error:.1f} points on (80% power, {n_comparisons} comparisons); "
        f"{TARGET_POINTS:g} points would take about {needed} tasks. Policies that differ on fewer tasks need fewer."
    )


def _answer(found: Sequence[Comparison], goal: Goal) -> str:
    target = (
        f"at least {TARGET_SAVING:.0%} less cost at the score of the best single model"
        if goal == "save"
        else f"at least {TARGET_POINTS:g} points above blind mixing of the single models at equal cost"
    )
    if not found:
        return f"{target}: not studied."
    shown = [one for one in found if one.answer == "shown"]
    if shown:
        names = ", ".join(f"{one.family} ({one.scheme} held out)" for one in shown)
        return f"{target}: SHOWN by {names}."
    acting = [one for one in found if one.answer != "abstained"]
    abstained = f"{len(found) - len(acting)} of {len(found)} found nothing on the training tasks to bet on"
    if not acting:
        return f"{target}: NOT SHOWN, {abstained} and did what the best single model does."
    best = max(acting, key=lambda one: (one.hull_gain if goal == "gain" else one.saving).value)
    estimate = best.hull_gain if goal == "gain" else best.saving
    n_excluded = sum(one.answer == "excluded" for one in acting)
    if n_excluded == len(acting):
        words = "NOT SHOWN, and the intervals of all that acted lie below it"
    else:
        words = "TOO FEW TO TELL" if any(one.answer == "too few to tell" for one in acting) else "NOT SHOWN"
    value = _amount(estimate.value, goal)
    ends = "no interval" if estimate.ends is None else " to ".join(_amount(end, goal) for end in estimate.bounds)
    needed = [one.n_needed for one in acting if one.n_needed and one.answer == "too few to tell"]
    how_many = f" Those that could not be told would need about {min(needed)} tasks or more." if needed else ""
    return (
        f"{target}: {words}. Of {len(found)} comparisons the best is {best.family} ({best.scheme} held out): {value} "
        f"({ends}) on "
        f"{estimate.n_clusters} tasks; {n_excluded} of the {len(acting)} that acted lie wholly below the target; "
        f"{abstained}.{how_many}"
    )


def _amount(value: float, goal: Goal) -> str:
    return f"{value:+.1f} points" if goal == "gain" else f"{value:+.0%}"
