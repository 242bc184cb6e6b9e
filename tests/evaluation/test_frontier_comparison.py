import time

import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from mtrouter_rl.evaluation.frontier_comparison import (
    Frontier,
    area_difference,
    area_under_frontier,
    cost_at_equal_score,
    score_at_equal_cost,
    share_of_headroom,
)
from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from tests.cases.frontier_cases import episodes_of, flat, resamples_of, spread

REWARD = RewardCard(cost_weight=0.5, cost_unit_usd=2.0)
HAND = {
    "router@0": flat(60, 4.0),
    "router@1": flat(40, 2.0),
    "small": flat(10, 1.0),
    "big": flat(50, 8.0),
    "other": flat(30, 3.0),
    "free": flat(5, 0.5),
}
ROUTER = Frontier(name="router", policies=("router@0", "router@1"))
ANCHORED = Frontier(name="router", policies=("router@0", "router@1"), anchor="small")


def test_score_at_equal_cost_by_hand():
    """At 3 USD half of each: 50 against 30. At 8 USD flat: 60 against 50. At 0.5 and 1 USD nothing without the anchor."""
    found = score_at_equal_cost(resamples_of(HAND), ROUTER, ["other", "big", "small"])
    assert [one.value for one in found.values()] == [pytest.approx(20), pytest.approx(10), -np.inf]
    assert (found["other"].low, found["other"].high) == (pytest.approx(20), pytest.approx(20))
    assert (found["small"].low, found["small"].high) == (-np.inf, -np.inf)


def test_an_anchor_carries_the_frontier_down_to_its_cost():
    resamples = resamples_of(HAND | {"between": flat(20, 1.5)})
    found = score_at_equal_cost(resamples, ANCHORED, ["between", "small", "free"])
    assert [one.value for one in found.values()] == [pytest.approx(5), 0, -np.inf]
    assert (found["small"].low, found["small"].high) == (0, 0)


def test_cost_at_equal_score_by_hand():
    """The score 50 takes 3 USD against 8; the score 30 is reached by the cheapest point; 70 never."""
    resamples = resamples_of(HAND | {"best": flat(70, 9.0)})
    found = cost_at_equal_score(resamples, ROUTER, ["big", "other", "best"])
    assert found["big"].saved_usd.value == pytest.approx(5)
    assert found["big"].cost_ratio.value == pytest.approx(3 / 8)
    assert found["other"].saved_usd.value == pytest.approx(1)
    assert (found["best"].saved_usd.value, found["best"].cost_ratio.value) == (-np.inf, np.inf)
    assert found["best"].saved_usd.high == -np.inf
    anchored = cost_at_equal_score(resamples, ANCHORED, ["other"])
    assert anchored["other"].saved_usd.value == pytest.approx(3 - (1 + 20 / 30))


def test_area_by_hand():
    """From small (1 USD, 10) to big (8 USD): lines to (2, 40) and (4, 60), then flat.

    Over ln c: 10 + 30 (c - 1) gives 30 - 20 ln 2, 40 + 10 (c - 2) gives 20 ln 2 + 20, and 60 ln 2.
    """
    found = area_under_frontier(resamples_of(HAND), ANCHORED, cheapest="small", dearest="big")
    assert found.value == pytest.approx((50 + 60 * np.log(2)) / np.log(8))
    assert found.low == pytest.approx(found.value)


def test_difference_of_areas():
    """small alone is 10 throughout; without an anchor the router has no area from 1 USD on."""
    resamples = resamples_of(HAND)
    alone = Frontier(name="small", policies=("small",))
    limits = {"cheapest": "small", "dearest": "big"}
    found = area_difference(resamples, ANCHORED, alone, **limits)
    assert found.value == pytest.approx((50 + 60 * np.log(2)) / np.log(8) - 10)
    assert area_difference(resamples, ROUTER, alone, **limits).value == -np.inf
    assert np.isnan(area_difference(resamples, ROUTER, ROUTER, **limits).value)


@pytest.mark.parametrize(("cheapest", "dearest"), [("big", "small"), ("small", "small"), ("gratis", "big")])
def test_area_needs_a_range(cheapest, dearest):
    resamples = resamples_of(HAND | {"gratis": flat(0, 0.0)})
    with pytest.raises(InvalidConfigError, match="must begin above 0 and rise"):
        area_under_frontier(resamples, ANCHORED, cheapest=cheapest, dearest=dearest)


def test_share_of_headroom_by_hand():
    """Returns: small 0.1 - 0.25, big 0.5 - 2, router@1 0.4 - 0.5, reference 0.9 - 0.5: (0.05) / (0.55)."""
    resamples = resamples_of(HAND | {"seer": flat(90, 2.0)})
    found = share_of_headroom(
        resamples,
        "router@1",
        single_models=["small", "big"],
        reference="seer",
        reward=REWARD,
        asked_share=0.05,
    )
    assert found.gap.value == pytest.approx(0.55)
    assert found.share.value == pytest.approx(0.05 / 0.55)
    assert found.above_share.value == pytest.approx(0.05 - 0.05 * 0.55)
    assert found.is_gap_clear


def test_a_gap_that_touches_zero_is_flagged():
    values = HAND | {"seer": spread(20, 1.0, shifts=(-40.0, 0.0, 0.0, 40.0))}
    found = share_of_headroom(
        resamples_of(values), "router@1", single_models=["small"], reference="seer", reward=REWARD, asked_share=0.7
    )
    assert found.gap.value > 0
    assert not found.is_gap_clear
    assert (found.share.low, found.share.high) == (-np.inf, np.inf)


def test_pairing_takes_out_what_policies_share():
    """Every policy is 10 points better on two variations: the scores spread, the differences do not."""
    values = {"router": spread(60, 2.0), "other": spread(30, 3.0)}
    resamples = resamples_of(values)
    found = score_at_equal_cost(resamples, Frontier(name="router", policies=("router",)), ["other"])["other"]
    assert (found.value, found.low, found.high) == (pytest.approx(30),) * 3
    alone = resamples.estimate(resamples.scores(["other"])[:, 0], ["other"])
    assert alone.half_width > 3


def test_unequal_numbers_of_seeds_change_no_number():
    more = {name: flat(*point, n_seeds=3) for name, point in {"router@0": (60, 4.0), "other": (30, 3.0)}.items()}
    found = score_at_equal_cost(resamples_of(HAND | more), ROUTER, ["other"])["other"]
    assert found.value == pytest.approx(20)
    assert found.n_episodes == 4


def test_order_changes_nothing():
    rng = np.random.default_rng(0)
    values = {
        name: episodes_of(
            {("boil", v, 0): (float(rng.normal(s, 9)), float(c * rng.lognormal(0, 0.2))) for v in range(20)}
        )
        for name, (s, c) in {"router@0": (60, 4), "router@1": (40, 2), "small": (10, 1), "other": (30, 3)}.items()
    }
    turned = {name: values[name][::-1] for name in reversed(values)}
    other = Frontier(name="router", policies=("router@1", "router@0"), anchor="small")
    for compare in (score_at_equal_cost, cost_at_equal_score):
        assert compare(resamples_of(values), ANCHORED, ["other"]) == compare(resamples_of(turned), other, ["other"])


def one_side_errors(points, frontier, *, truth, n_trials=300, n_clusters=40):
    """Shares of the intervals that lie wholly above, and wholly below, the true difference to "other"; costs are drawn too."""
    rng, n_above, n_below = np.random.default_rng(1), 0, 0
    for trial in range(n_trials):
        common, shape = rng.normal(0, 15, (n_clusters, 1)), (n_clusters, len(points))
        means = PairedMeans(
            policies=tuple(points),
            clusters=tuple(("boil", v) for v in range(n_clusters)),
            scores=np.array([score for score, _ in points.values()]) + common + rng.normal(0, 10, shape),
            costs_usd=np.array([cost for _, cost in points.values()]) * rng.uniform(0.6, 1.4, shape),
            n_episodes=dict.fromkeys(points, n_clusters),
            left_out=(),
        )
        resamples = Resamples.of(means, seed=trial, n_resamples=400)
        found = score_at_equal_cost(resamples, frontier, ["other"])["other"]
        n_above += truth < found.low
        n_below += truth > found.high
    return n_above / n_trials, n_below / n_trials


def test_coverage_at_equal_cost():
    """The truth is 50 (half of 60 at 4 and 40 at 2) - 45."""
    above, below = one_side_errors(
        {"router@0": (60, 4.0), "router@1": (40, 2.0), "other": (45, 3.0)}, ROUTER, truth=5.0
    )
    assert 0.005 < above < 0.06
    assert 0.005 < below < 0.07


def test_coverage_where_the_hull_has_most_to_gain_by_chance():
    """Six points on one line, with independent noise: a percentile interval alone would lie too high in 19% of the cases."""
    line = {f"router@{number}": (20.0 + 10 * number, 1.0 + number) for number in range(6)}
    frontier = Frontier(name="router", policies=tuple(line))
    above, below = one_side_errors(line | {"other": (45, 3.5)}, frontier, truth=0.0)
    assert above < 0.12
    assert below < 0.02


def test_thirty_policies_take_far_less_than_a_second():
    rng = np.random.default_rng(0)
    names = tuple(f"p{number}" for number in range(30))
    means = PairedMeans(
        policies=names,
        clusters=tuple(("boil", v) for v in range(120)),
        scores=rng.uniform(0, 100, (120, 30)),
        costs_usd=rng.uniform(0.1, 1, (120, 30)) * np.linspace(0.1, 3, 30),
        n_episodes=dict.fromkeys(names, 120),
        left_out=(),
    )
    start = time.process_time()
    resamples = Resamples.of(means, seed=0, n_resamples=2000)
    score_at_equal_cost(resamples, Frontier(name="router", policies=names[:8]), names)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("policies", [(), ("a", "a")])
def test_bad_frontiers(policies):
    with pytest.raises(
        InvalidConfigError, match=r"frontier 'router': policies are .*, must be at least one, each named once"
    ):
        Frontier(name="router", policies=policies)


def test_unknown_policies_and_no_single_model():
    with pytest.raises(UnknownNameError, match="unknown policy 'othr'; did you mean 'other'"):
        score_at_equal_cost(resamples_of(HAND), ROUTER, ["othr"])
    with pytest.raises(InvalidConfigError, match="single_models is empty"):
        share_of_headroom(
            resamples_of(HAND), "other", single_models=[], reference="big", reward=REWARD, asked_share=0.7
        )
