"""A row depends on its own episodes and the seed alone: company, order and name change no digit."""

from dataclasses import replace

import pytest

from mtrouter_rl.evaluation.result_rows import Comparison, build_rows
from mtrouter_rl.evaluation.results import PolicyRoles
from tests.cases.evaluation_cases import MODELS, REWARD, ROLES, make_traced, rows_of

OF_OTHERS = {"hull_gain", "cost_saved_share", "paired"}
"""Fields that compare with other rows."""


@pytest.fixture(scope="module")
def traced():
    return make_traced(n_variations=4, n_seeds=3)


NO_ROLES = PolicyRoles()


def row_of(traced, policy, *, roles=NO_ROLES):
    return next(row for row in rows_of(traced, roles=roles) if row.policy == policy)


def own(row):
    return row.model_dump(exclude=OF_OTHERS)


def company(traced, n_others):
    """Other policies, each with episodes of its own."""
    sources = [name for name in traced if name != "random"]
    return {f"other{number}": traced[sources[number % len(sources)]] for number in range(n_others)}


def test_alone_first_last_and_among_twenty_others(traced):
    alone = own(row_of({"random": traced["random"]}, "random"))
    others = company(traced, 20)
    half = dict(list(others.items())[:10])
    assert own(row_of({"random": traced["random"]} | others, "random")) == alone
    assert own(row_of(others | {"random": traced["random"]}, "random")) == alone
    assert own(row_of(half | {"random": traced["random"]} | others, "random")) == alone


def test_paired_differences_hang_on_two_policies_alone(traced):
    pair = PolicyRoles(learned=("fitted-q",), baselines=("random",))
    two = row_of({name: traced[name] for name in ("random", "fitted-q")}, "fitted-q", roles=pair)
    many = row_of(company(traced, 20) | traced, "fitted-q", roles=pair)
    assert many.paired == two.paired
    more = row_of(traced, "fitted-q", roles=ROLES).paired["random"]
    assert more.return_ == two.paired["random"].return_
    assert more.p_value == two.paired["random"].p_value


def test_cheapest_is_the_single_model_that_it_is(traced):
    """In every column, those included that compare with other rows."""
    roles = ROLES.model_copy(update={"learned": ("cheapest", "tiny"), "baselines": ("random",)})
    rows = {row.policy: row for row in rows_of(traced | {"cheapest": traced["tiny"]}, roles=roles)}
    assert rows["tiny"].score_ci95 is not None
    assert rows["cheapest"].model_copy(update={"policy": "tiny"}) == rows["tiny"]


def test_order_of_episodes_changes_no_end(traced):
    turned = {policy: many[::-1] for policy, many in traced.items()}
    for one, other in zip(rows_of(traced), rows_of(turned), strict=True):
        for name in ("score_ci95", "cost_usd_ci95", "return_ci95"):
            assert getattr(one, name) == getattr(other, name)
        for baseline, difference in one.paired.items():
            assert difference.return_.ends == other.paired[baseline].return_.ends
            assert difference.p_value == other.paired[baseline].p_value


def test_score_cost_and_return_are_on_the_same_resamples(traced):
    """At a cost weight of 0 a return is a score over 100, and so are its ends."""
    reward = REWARD.model_copy(update={"cost_weight": 0.0})
    comparison = Comparison(split="test", reward=reward, model_names=MODELS, roles=ROLES, n_resamples=300)
    episodes = {policy: [one.episode for one in many] for policy, many in traced.items()}
    for row in build_rows(episodes, comparison, seed=1):
        assert row.return_ci95 == pytest.approx(tuple(end / 100 for end in row.score_ci95))


def test_a_failed_episode_changes_the_row_of_its_policy_alone(traced):
    broken = [
        replace(traced["tiny"][0], episode=replace(traced["tiny"][0].episode, status="failed")),
        *traced["tiny"][1:],
    ]
    rows = {row.policy: row for row in rows_of(traced | {"tiny": broken})}
    before = {row.policy: row for row in rows_of(traced)}
    assert rows["tiny"].score_ci95 != before["tiny"].score_ci95
    assert own(rows["random"]) == own(before["random"])
