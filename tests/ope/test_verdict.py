"""The verdict on a router: its word, its numbers, what it is not said of, and what would settle it."""

import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.ope.record import Difference, Estimated, OpeReport, PolicyReport
from mtrouter_rl.ope.verdict import (
    VERDICT_FILE,
    Verdict,
    cannot_tell,
    enough_episodes,
    fixes,
    judge,
    load_verdict,
    verdict_of_estimates,
)


def policy(name, value, headline="dm"):
    number = Estimated(value=value, low=value - 1, high=value + 1)
    estimates = {headline: dict.fromkeys(("utility", "cost_usd", "return"), number)} if headline else {}
    reasons = {} if headline else {"fitted": ("too few episodes",)}
    return PolicyReport(policy=name, router=name, headline=headline, refusals=reasons, estimates=estimates)


def report(policies, differences=()):
    return OpeReport(
        dataset_id="log-v1",
        model_names=("small", "big"),
        split="test",
        n_episodes=100,
        n_left_out=0,
        n_turns=200,
        n_clusters=100,
        behavior_policy="logged",
        propensities="estimated",
        logged={"utility": 0.5, "cost_usd": 0.1, "return": 0.4},
        cost_weight=0.4,
        cost_unit_usd=0.1,
        seed=0,
        encoder=None,
        fqe=None,
        thresholds={},
        policies=tuple(policies),
        differences=tuple(differences),
        selection=None,
        notes=(),
        package_version="0.1.0",
    )


def difference(one, other, low, high):
    value = Estimated(value=(low + high) / 2, low=low, high=high)
    return Difference(policy=one, other=other, estimator="dm", difference=value, p_value=0.5, p_value_holm=0.5)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.2, "better"), (-0.2, 0.2, "not distinguishable"), (-0.3, -0.1, "worse")]
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_the_verdict_is_against_the_best_single_model(low, high, word, is_turned):
    rows = [policy("mine", 0.6), policy("single:small", 0.2), policy("single:big", 0.5)]
    pair = difference("single:big", "mine", -high, -low) if is_turned else difference("mine", "single:big", low, high)
    found = verdict_of_estimates(report(rows, [pair]), "mine")
    assert (found.word, found.baseline) == (word, "single:big")
    assert f"[{low:+.3f}, {high:+.3f}]" in found.text
    if word == "not distinguishable":
        assert "about 1600 episodes" in found.text, "the half-width falls with the root of the episodes"


def test_a_router_that_cannot_be_estimated_has_no_verdict():
    found = verdict_of_estimates(report([policy("mine", 0.0, None), policy("single:big", 0.5)]), "mine")
    assert (found.word, found.text) == ("cannot tell", "this log cannot tell: too few episodes")
    assert verdict_of_estimates(report([policy("mine", 0.6), policy("single:big", 0.0, None)]), "mine").word == (
        "cannot tell"
    )


def test_a_single_model_that_looks_best_and_cannot_be_estimated_leaves_it_open():
    rows = [policy("mine", 0.6), policy("single:small", 0.2), policy("single:big", 0.7)]
    long = "70% of its turns would follow 4 or more calls of one model in a row, must be at most 50%"
    rows[2] = rows[2].model_copy(update={"headline": None, "refusals": {"fitted": (long,)}})
    found = verdict_of_estimates(report(rows, [difference("mine", "single:small", 0.1, 0.3)]), "mine")
    assert (found.word, found.baseline) == ("cannot tell", "single:big")
    assert "looks like the best single model" in found.text
    assert any("sticky:0.2" in need for need in found.needs)


def test_episodes_that_would_tell_fall_with_the_square_of_the_interval():
    assert enough_episodes(0.2, 300) == "about 4800 episodes to judge by would tell a difference of 0.05"
    assert enough_episodes(0.05, 300) == ""


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("the log has no propensities", "'propensity'"),
        ("the effective sample size is 2.0 episodes, must be at least 30", "drawn more like the router"),
        ("fitted values contradict held-out turns: return is off", "a larger log"),
    ],
)
def test_each_refusal_has_its_remedy(reason, fix):
    assert fix in fixes([reason, reason])[0]
    assert len(fixes([reason, reason])) == 1


def test_a_verdict_comes_back_and_never_speaks_of_another_router(tmp_path):
    number = Estimated(value=-0.2, low=-0.3, high=-0.1)
    learned = judge("mine", "single:big", number, n_episodes=90, design="folds")
    made = cannot_tell("why", policy="mine-safe", design="folds", needs=("more",))
    made = made.model_copy(update={"router": "abc", "learned": learned})
    made.write(tmp_path / VERDICT_FILE)
    assert load_verdict(tmp_path, "abc") == made
    assert load_verdict(tmp_path, "abd") is None
    assert load_verdict(tmp_path / "nobody", "abc") is None
    assert made.lines[0] == "this log cannot tell: why"
    assert made.lines[1].startswith("the learned router alone: mine is worse: return -0.200 [-0.300, -0.100]")
    assert made.lines[2] == "what would settle it: more"
    (tmp_path / VERDICT_FILE).write_text("{}")
    with pytest.raises(ResultsError, match="run mtrouter-rl train --verdict again"):
        Verdict.load(tmp_path / VERDICT_FILE)
