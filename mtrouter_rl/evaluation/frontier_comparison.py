"""Frontiers of score against cost, and how two of them compare: at equal cost, at equal score, and by area.

A *frontier* is what a family of policies can do: one router at several cost weights, say. Drawing one of two policies for
every episode reaches, on average, any point on the line between theirs, so that a family's score at a cost is the upper
concave hull of its points there (`mtrouter_rl.statistics.hull`), flat beyond the best one. **Below its cheapest point a
frontier is not defined**: no mixture is that cheap. An *anchor*, such as the cheapest single model, is one more point that
anybody can mix in, and carries it down to the anchor's cost.

Intervals are paired: hull, mixture and difference are worked out again in every resample of `Resamples`. A hull is a
maximum, so that points which differ by chance alone lift it; `Resamples.estimate` widens the interval for it. Give few points,
chosen on other episodes. Measured in simulations (400 each, 600 resamples; scores with a shared and an own normal part, costs
uniform), how many of the 95% intervals held the true difference of score at equal cost:

| points of the frontier | 10 clusters | 40 | 120 |
|---|---:|---:|---:|
| two, far apart | 92% | 94% | 93% |
| six on one line, as bad as it gets between points | 84% | 92% | 92% |
| six that are the same point | 80% | 87% | 93% |

In the last two rows nearly all misses lie above the truth: there the frontier is flattered.

Source: the reasoning of `mtrouter_rl.statistics.hull`; the area is that of the cost-quality curves by which RouterBench (Hu et
al., 2024) compares routers, here over the logarithm of cost and with a paired interval, which are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.hull import Hulls
from mtrouter_rl.statistics.paired_means import Resamples


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """A family of policies that may be mixed by episode.

    Attributes:
        name: Name of the family.
        policies: Its points, at least one.
        anchor: A policy that may be mixed in beside them, such as the cheapest single model; None without.
    """

    name: str
    policies: tuple[str, ...]
    anchor: str | None = None

    def __post_init__(self) -> None:
        """Refuse a family without points, or with one twice."""
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise InvalidConfigError(
                f"frontier '{self.name}': policies are {list(self.policies)}, must be at least one, each named once"
            )

    @property
    def points(self) -> tuple[str, ...]:
        """All policies that may be mixed, the anchor last."""
        return tuple(dict.fromkeys((*self.policies, *([] if self.anchor is None else [self.anchor]))))


@dataclass(frozen=True, kw_only=True)
class EqualScore:
    """What a frontier spends to reach the score of a policy.

    Attributes:
        saved_usd: The policy's cost minus the frontier's, USD an episode; -inf where the frontier never scores as much.
        cost_ratio: The frontier's cost over the policy's; inf likewise.
    """

    saved_usd: Estimate
    cost_ratio: Estimate


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """How much of a gap in return a policy closes.

    Attributes:
        share: (policy - best single model) / (reference - best single model); NaN in a draw without a gap.
        gap: Reference minus best single model.
        gain: Policy minus best single model.
        above_share: Gain minus the asked share of the gap: the same question without a ratio.
    """

    share: Estimate
    gap: Estimate
    gain: Estimate
    above_share: Estimate

    @property
    def is_gap_clear(self) -> bool:
        """Whether the gap's interval lies above 0; if it touches 0, a share of it means nothing."""
        return self.gap.is_above_zero


def hulls_of(resamples: Resamples, frontier: Frontier) -> Hulls:
    """Hull of a frontier in every draw.

    Raises:
        UnknownNameError: If a policy of the frontier has no episodes; likewise all functions below, of any policy.
    """
    points = frontier.points
    return Hulls.of(resamples.costs_usd(points), resamples.scores(points))


def score_at_equal_cost(resamples: Resamples, frontier: Frontier, policies: Sequence[str]) -> dict[str, Estimate]:
    """The frontier's score at every policy's mean cost, minus the policy's score.

    Args:
        resamples: Means of all policies.
        frontier: The frontier.
        policies: What it is compared with: single policies, or the points of another frontier.

    Returns:
        Policy -> difference; -inf where the policy is cheaper than every point of the frontier.

    Raises:
        UnknownNameError: As `hulls_of`.
    """
    hulls = hulls_of(resamples, frontier)
    found = {}
    for policy in policies:
        costs_usd, scores = resamples.costs_usd([policy])[:, 0], resamples.scores([policy])[:, 0]
        found[policy] = resamples.estimate(hulls.scores_at(costs_usd) - scores, (*frontier.points, policy))
    return found


def cost_at_equal_score(resamples: Resamples, frontier: Frontier, policies: Sequence[str]) -> dict[str, EqualScore]:
    """What the frontier spends to score as much as every policy, against what the policy spends.

    Args:
        resamples: Means of all policies.
        frontier: The frontier.
        policies: As `score_at_equal_cost`.

    Raises:
        UnknownNameError: As `hulls_of`.
    """
    hulls = hulls_of(resamples, frontier)
    found = {}
    for policy in policies:
        costs_usd, scores = resamples.costs_usd([policy])[:, 0], resamples.scores([policy])[:, 0]
        least = hulls.costs_at(scores)
        ratios = np.divide(least, costs_usd, out=np.full_like(least, np.nan), where=costs_usd > 0)
        names = (*frontier.points, policy)
        found[policy] = EqualScore(
            saved_usd=resamples.estimate(costs_usd - least, names), cost_ratio=resamples.estimate(ratios, names)
        )
    return found


def area_under_frontier(resamples: Resamples, frontier: Frontier, *, cheapest: str, dearest: str) -> Estimate:
    """Mean score of a frontier from the cost of one policy to that of another, over the logarithm of cost.

    Costs of models lie orders of magnitude apart. Over cost itself nearly all of the area would lie where only the dearest
    models are, so the logarithm is taken, as the plots do. The limits are means too, and are resampled with the others.

    Args:
        resamples: Means of all policies.
        frontier: The frontier; give it `cheapest` as its anchor, or its area is -inf where its own points are dearer.
        cheapest: The policy at whose cost the range begins, such as the cheapest single model.
        dearest: The policy at whose cost it ends, such as the strongest single model.

    Raises:
        InvalidConfigError: If the range is none, or begins at 0 USD.
        UnknownNameError: As `hulls_of`.
    """
    draws = _areas(resamples, frontier, cheapest=cheapest, dearest=dearest)
    return resamples.estimate(draws, (*frontier.points, cheapest, dearest))


def area_difference(
    resamples: Resamples, frontier: Frontier, other: Frontier, *, cheapest: str, dearest: str
) -> Estimate:
    """Area of one frontier minus that of another: points of score, mean over the range. Raises as `area_under_frontier`.

    NaN where neither is defined at the cheaper limit.
    """
    draws, others = (_areas(resamples, one, cheapest=cheapest, dearest=dearest) for one in (frontier, other))
    with np.errstate(invalid="ignore"):  # -inf - -inf: nothing is known, which NaN says
        difference = draws - others
    return resamples.estimate(difference, (*frontier.points, *other.points, cheapest, dearest))


def share_of_headroom(
    resamples: Resamples,
    policy: str,
    *,
    single_models: Sequence[str],
    reference: str,
    reward: RewardCard,
    asked_share: float,
) -> Headroom:
    """Share of the gap in return between the best single model and a reference that a policy closes.

    The best single model has the best return in each draw, on these very episodes.

    Args:
        resamples: Means of all policies.
        policy: The policy.
        single_models: All single models, at least one.
        reference: The policy that sees the hidden state.
        reward: Cost weight and unit of the return.
        asked_share: Share that `above_share` is measured from.

    Raises:
        InvalidConfigError: If there is no single model.
        UnknownNameError: As `hulls_of`.
    """
    if not single_models:
        raise InvalidConfigError(
            "single_models is empty, must name at least one; headroom is measured from the best of them"
        )
    best = resamples.returns(single_models, reward).max(axis=1)
    gains = resamples.returns([policy], reward)[:, 0] - best
    gaps = resamples.returns([reference], reward)[:, 0] - best
    shares = np.divide(gains, gaps, out=np.full_like(gaps, np.nan), where=gaps > 0)
    names = (*single_models, policy, reference)
    share, gap, gain, above = (
        resamples.estimate(draws, names) for draws in (shares, gaps, gains, gains - asked_share * gaps)
    )
    return Headroom(share=share, gap=gap, gain=gain, above_share=above)


def _areas(resamples: Resamples, frontier: Frontier, *, cheapest: str, dearest: str) -> FloatArray:
    low_usd, high_usd = (resamples.costs_usd([policy])[:, 0] for policy in (cheapest, dearest))
    if not 0 < low_usd[0] < high_usd[0]:
        raise InvalidConfigError(
            f"frontier '{frontier.name}': the range of costs is {low_usd[0]:g} USD ('{cheapest}') to {high_usd[0]:g} USD "
            f"('{dearest}'), must begin above 0 and rise; name a cheaper and a dearer policy"
        )
    is_range = (low_usd > 0) & (high_usd > low_usd)
    low_usd, high_usd = np.where(is_range, low_usd, low_usd[0]), np.where(is_range, high_usd, high_usd[0])
    means = hulls_of(resamples, frontier).mean_over_log_cost(low_usd, high_usd)
    return np.where(is_range, means, np.nan)
