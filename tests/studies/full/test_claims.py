import json
import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, UnknownNameError
from mtrouter_rl.statistics.mutual_information import MutualInformation
from mtrouter_rl.statistics.paired_means import Estimate
from mtrouter_rl.studies.full import claim_rules
from mtrouter_rl.studies.full.claim_evidence import Evidence
from mtrouter_rl.studies.full.claims import (
    Claim,
    ClaimRoles,
    Claims,
    ClaimTargets,
    Goal,
    Measured,
    SplitClaims,
    TrainingTimes,
    joint_verdict,
)
from mtrouter_rl.studies.full.report import claims_markdown, claims_text, format_measured, save_claims
from tests.cases.evaluation_cases import make_episode, make_turn
from tests.cases.frontier_cases import flat, spread

REWARD = RewardCard(cost_weight=0.5, cost_unit_usd=2.0)
WILD = (-60.0, 0.0, 0.0, 60.0)
"""Shifts that make an interval wider than any difference here."""
SINGLES = {"small": flat(10, 0.1), "big": flat(50, 1.0)}
WORLD = {
    **SINGLES,
    "router@0.1": flat(60, 0.4),
    "router@3": flat(40, 0.2),
    "mc-w0.1": flat(45, 0.4),
    "mc-w3": flat(20, 0.2),
    "seer": flat(80, 0.4),
    "random": flat(30, 0.5),
    "separate-w0.1": flat(61, 0.4),
    "quarter": flat(50, 0.4),
}
ROLES = ClaimRoles(
    frontier=("router@0.1", "router@3"),
    default="router@0.1",
    strongest="big",
    single_models=("small", "big"),
    monte_carlo=("mc-w0.1", "mc-w3"),
    monte_carlo_default="mc-w0.1",
    references=("seer",),
    reference_default="seer",
    baselines=("random", "small"),
    separate=("separate-w0.1",),
    quarter="quarter",
    multi_turn=("random",),
)


def evidence(changes=None, *, roles=ROLES, **rest):
    world = WORLD | (changes or {})
    made = Evidence.of(world, roles=roles, reward=REWARD, seed=0, n_resamples=300)
    return replace(made, **rest)


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high, n_episodes=8, n_clusters=4)


@pytest.mark.parametrize(
    ("kind", "interval", "verdict"),
    [
        ("above", (2, 2, 3), "not distinguishable"),
        ("above", (2, 2.001, 3), "holds"),
        ("above", (2, 2, 2), "not distinguishable"),
        ("above", (1, 0, 1.999), "does not hold"),
        ("at least", (2, 2, 3), "holds"),
        ("at least", (2, 1.999, 3), "not distinguishable"),
        ("at least", (1, 0, 2), "not distinguishable"),
        ("at least", (1, 0, 1.999), "does not hold"),
        ("at most", (1, 0, 2), "holds"),
        ("at most", (1, 0, 2.001), "not distinguishable"),
        ("at most", (3, 2, 4), "not distinguishable"),
        ("at most", (3, 2.001, 4), "does not hold"),
        ("at least", (3, -math.inf, math.inf), "not distinguishable"),
        ("at least", (-math.inf, -math.inf, -math.inf), "does not hold"),
        ("above", (math.nan, -math.inf, math.inf), "not distinguishable"),
    ],
)
def test_verdicts_at_the_edges_of_the_target_2(kind, interval, verdict):
    assert Goal(kind=kind, target=2.0).verdict(estimate(*interval)) == verdict


@pytest.mark.parametrize(
    ("verdicts", "joint"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "not distinguishable"], "not distinguishable"),
        (["not distinguishable", "does not hold", "holds"], "does not hold"),
    ],
)
def test_all_of_several(verdicts, joint):
    assert joint_verdict(verdicts) == joint


def test_cheaper_and_better_by_hand():
    """0.413 USD buy router@0.1 and nothing more: 60 - 50; the reference gains 30, so the proviso does not apply."""
    claim = claim_rules.cheaper_and_better(evidence())
    assert claim.measured.value == pytest.approx(10)
    assert (claim.goal.kind, claim.goal.target) == ("at least", 5.4)
    assert (claim.verdict, claim.is_reached) == ("holds", True)
    assert any("+30.0 points" in note for note in claim.notes)
    assert any("Without mixing: router@0.1, +10.0 points at 0.400 USD of 0.413 USD" in note for note in claim.notes)


def test_cheaper_and_better_may_mix_two_points():
    """At 0.413 USD, between 40 at 0.2 and 56 at 0.5: 40 + 16 x 0.71 = 51.36."""
    claim = claim_rules.cheaper_and_better(evidence({"router@0.1": flat(56, 0.5)}))
    assert claim.measured.value == pytest.approx(1.36)
    assert (claim.verdict, claim.is_reached) == ("does not hold", False)
    assert any("Without mixing: router@3, -10.0 points" in note for note in claim.notes)


@pytest.mark.parametrize(
    ("reference", "beyond", "verdict"),
    [
        (flat(57, 0.4), 10 - 0.7 * 7, "holds"),
        (flat(57.99, 0.4), 10 - 0.7 * 7.99, "holds"),
        (spread(57, 0.4, shifts=WILD), 10 - 0.7 * 7, "not distinguishable"),
        (flat(20, 0.4), 10.0, "holds"),
    ],
    ids=["less than 8", "just less than 8", "a reference of wide spread", "below the strongest"],
)
def test_the_proviso_asks_for_a_share_of_what_a_poor_reference_gains(reference, beyond, verdict):
    claim = claim_rules.cheaper_and_better(evidence({"seer": reference}))
    assert claim.goal.target == 0
    assert claim.measured.value == pytest.approx(beyond)
    assert claim.verdict == verdict
    assert "70.0% of what the hidden-state reference gains" in claim.text


def test_held_out_tasks_have_their_own_targets():
    world = {name: [*flat(60, 0.3, split="ood")] for name in WORLD} | {"big": flat(50, 1.0, split="ood")}
    made = Evidence.of(world, roles=ROLES, reward=REWARD, seed=0, n_resamples=100)
    assert made.targets == ClaimTargets(cost_share=0.342, score_gain=5.0)
    assert "34.2%" in claim_rules.cheaper_and_better(made).text


@pytest.mark.parametrize(("score", "verdict"), [(49, "holds"), (47.9, "does not hold")])
def test_as_good_for_less(score, verdict):
    """0.25 USD lie between 40 at 0.2 and the point at 0.225, beyond which the hull is flat."""
    roles = ROLES.model_copy(update={"frontier": ("router@3", "router@1")})
    claim = claim_rules.as_good_for_less(evidence({"router@1": flat(score, 0.225)}, roles=roles))
    assert claim.measured.value == pytest.approx(score - 50)
    assert claim.verdict == verdict


def test_gain_over_hull_takes_the_best_point():
    """The hull is 10 + 40 (c - 0.1) / 0.9: 23.3 at 0.4, 14.4 at 0.2."""
    claim = claim_rules.gain_over_hull(evidence())
    assert claim.measured.value == pytest.approx(60 - (10 + 40 * 0.3 / 0.9))
    assert claim.verdict == "holds"
    assert "router@0.1, of 2" in claim.notes[0]
    below = claim_rules.gain_over_hull(evidence({"router@0.1": flat(8, 0.01), "router@3": flat(5, 0.05)}))
    assert below.measured.value == pytest.approx(-2)


def test_against_monte_carlo_by_hand():
    """At 0.4: 60 - 45, at 0.2: 40 - 20. For 45 points 0.25 USD against 0.4, for 20 points 0.1 + 10/30 x 0.1 against 0.2."""
    made = evidence()
    score = claim_rules.score_against_monte_carlo(made)
    assert {part.name: part.measured.value for part in score.parts} == {
        "mc-w0.1": pytest.approx(15),
        "mc-w3": pytest.approx(20),
    }
    assert score.measured.value == pytest.approx(15)
    cost = claim_rules.cost_against_monte_carlo(made)
    assert [part.measured.value for part in cost.parts] == pytest.approx([0.15, 0.2 - 0.1 - 0.1 / 3])
    assert "mc-w0.1 0.62 [0.62, 0.62]" in cost.notes[0]
    area = claim_rules.area_against_monte_carlo(made)
    assert area.measured.value > 0
    assert [score.verdict, cost.verdict, area.verdict] == ["holds"] * 3


def test_a_score_that_is_never_reached_speaks_against_a_lower_cost():
    claim = claim_rules.cost_against_monte_carlo(evidence({"mc-w3": flat(70, 2.0)}))
    assert claim.verdict == "does not hold"
    assert claim.measured.value is None
    assert claim.is_reached is False


def test_baselines_that_are_not_beaten_are_named():
    roles = ROLES.model_copy(update={"baselines": ("random", "wild", "better", "small")})
    claim = claim_rules.score_against_baselines(
        evidence({"wild": spread(55, 0.4, shifts=WILD), "better": flat(65, 0.4)}, roles=roles)
    )
    assert {part.name: part.verdict for part in claim.parts} == {
        "random": "holds",
        "wild": "not distinguishable",
        "better": "does not hold",
        "small": "not distinguishable",
    }
    assert claim.verdict == "does not hold"
    assert claim.notes[:3] == (
        "Higher than 1 of 4 baselines.",
        "Not distinguishable: wild, small.",
        "Better than the learned router, or cheaper than all that it can do: better.",
    )


@pytest.mark.parametrize(
    ("reference", "share", "verdict"),
    [
        (flat(80, 0.4), (0.5 - 0.25) / (0.7 - 0.25), "does not hold"),
        (flat(60.5, 0.4), 0.25 / 0.255, "holds"),
        (spread(62, 0.4, shifts=WILD), 0.25 / 0.27, "not distinguishable"),
    ],
    ids=["large gap", "small gap", "a gap that touches 0"],
)
def test_share_of_headroom(reference, share, verdict):
    """Returns are score / 100 - cost / 4; the best single model is big, 0.5 - 0.25."""
    claim = claim_rules.headroom_closed(evidence({"seer": reference}))
    assert claim.measured.value == pytest.approx(share, abs=0.003)
    assert claim.verdict == verdict
    assert any("touches 0" in note for note in claim.notes) == (verdict == "not distinguishable")


@pytest.mark.parametrize(("score", "verdict"), [(62, "holds"), (62.1, "does not hold"), (30, "holds")])
def test_one_network_against_one_for_each_weight(score, verdict):
    assert claim_rules.one_network_score(evidence({"separate-w0.1": flat(score, 0.4)})).verdict == verdict


@pytest.mark.parametrize(("seconds", "verdict"), [(20.0, "holds"), (20.1, "does not hold")])
def test_training_time(seconds, verdict):
    times = TrainingTimes(one_network_s=seconds, separate_s=dict.fromkeys("abcde", 20.0))
    claim = claim_rules.one_network_time(evidence(training=times))
    assert claim.measured.value == pytest.approx(seconds / 100)
    assert claim.verdict == verdict
    assert claim.measured.low is None


def test_a_quarter_of_the_log():
    """Returns 0.5 - 0.1 and 0.45 - 0.1."""
    claim = claim_rules.quarter_of_the_log(evidence())
    assert claim.measured.value == pytest.approx(0.05)
    assert claim.verdict == "holds"


@pytest.mark.parametrize(("shifts", "verdict"), [((-1, -0.5, 0.5, 1), "holds"), (WILD, "does not hold")])
def test_half_widths(shifts, verdict):
    claim = claim_rules.interval_half_widths(evidence({"big": spread(50, 1.0, shifts=shifts)}))
    assert claim.verdict == verdict
    assert [part.name for part in claim.parts] == ["big", "mc-w0.1"]
    assert claim.parts[1].measured.value == pytest.approx(0)


def routed(pattern, *, errors=()):
    """Four variations with the same models at the turns, some of which are errors."""
    turns = [make_turn(model, error="idle" if index in errors else "") for index, model in enumerate(pattern)]
    return [make_episode(turns, variation=variation) for variation in range(4)]


def test_switches_and_stays_by_hand():
    """Router: 1 switch, stays after 1 of 1 transient error (the second in a row is persistent); random: 3, and 1 of 2."""
    router = routed(["tiny", "tiny", "tiny", "big"], errors=(0, 1))
    other = routed(["tiny", "big", "big", "tiny", "big"], errors=(1, 3))
    made = evidence({"router@0.1": router, "random": other})
    switches = claim_rules.fewer_switches(made)
    assert switches.measured.value == pytest.approx(2)
    stays = claim_rules.stays_after_transient_errors(made)
    assert stays.measured.value == pytest.approx(1 - 1 / 2)
    assert (switches.verdict, stays.verdict) == ("holds", "holds")
    turned = evidence({"router@0.1": other, "random": router})
    assert claim_rules.fewer_switches(turned).verdict == "does not hold"
    assert claim_rules.stays_after_transient_errors(turned).verdict == "does not hold"


def test_a_policy_without_errors_cannot_be_compared():
    claim = claim_rules.stays_after_transient_errors(evidence({"random": routed(["tiny", "big"])}))
    assert (claim.verdict, claim.is_reached, claim.measured.value) == ("not distinguishable", False, None)


@pytest.mark.parametrize(
    ("low", "p_value", "verdict"),
    [
        (0.05, 0.01, "holds"),
        (0.05, 0.2, "not distinguishable"),
        (0.05, None, "not distinguishable"),
        (-0.01, 0.01, "not distinguishable"),
        (None, 0.01, "not distinguishable"),
    ],
)
def test_models_by_skill_asks_for_interval_and_p_value(low, p_value, verdict):
    found = MutualInformation(
        bits=0.2,
        bits_corrected=0.15,
        low=low,
        high=None if low is None else 0.3,
        bits_shuffled=0.02,
        p_value=p_value,
        n_turns=400,
        n_labels=5,
    )
    claim = claim_rules.models_by_skill(evidence(skill=found))
    assert claim.verdict == verdict
    assert claim.measured.value == pytest.approx(0.15)


def test_what_is_missing_is_not_measured():
    bare = ClaimRoles(frontier=ROLES.frontier, default="router@0.1", strongest="big", single_models=ROLES.single_models)
    found = {claim.key: claim for claim in all_claims(evidence(roles=bare)).claims}
    measured = {key for key, claim in found.items() if claim.verdict != "not measured"}
    assert measured == {"cheaper-and-better", "as-good-for-less", "hull-gain"}
    assert found["monte-carlo-area"].notes == ("Missing: the Monte-Carlo router.",)
    assert "the proviso" in found["cheaper-and-better"].notes[-1]


def test_an_area_without_a_range_is_not_measured():
    world = {"small": flat(10, 0.0)}
    assert claim_rules.area_against_monte_carlo(evidence(world)).verdict == "not measured"


def test_evidence_is_of_one_split_and_of_known_policies():
    with pytest.raises(UnknownNameError, match="unknown policy in roles 'mc-w9'"):
        evidence(roles=ROLES.model_copy(update={"monte_carlo_default": "mc-w9"}))
    with pytest.raises(ResultsError, match=r"episodes are of the splits \['ood', 'test'\], must be of one"):
        evidence({"random": flat(30, 0.5, split="ood")})


def all_claims(evidence):
    means = evidence.resamples.means
    return SplitClaims(
        split=evidence.split,
        n_clusters=len(means.clusters),
        n_left_out=len(means.left_out),
        n_resamples=evidence.resamples.n_resamples,
        roles=evidence.roles,
        targets=evidence.targets,
        claims=tuple(rule(evidence) for rule in claim_rules.CLAIM_RULES),
    )


def claims(**changes):
    fields = {
        "env": "kitchen",
        "pool": "tiny-pool",
        "is_simulated": True,
        "cost_weight": 0.5,
        "cost_unit_usd": 2.0,
        "seed": 0,
        "package_version": "0.1.0",
        "splits": (all_claims(evidence()),),
    }
    return Claims(**(fields | changes))


def test_the_file_is_read_back_as_it_was(tmp_path):
    made = claims()
    path, page = save_claims(made, tmp_path / "run")
    assert Claims.load(path) == made
    assert page.read_text(encoding="utf-8") == claims_markdown(made)
    keys = [claim["key"] for claim in json.loads(path.read_text())["splits"][0]["claims"]]
    assert len(keys) == len(set(keys)) == len(claim_rules.CLAIM_RULES) == 15


def test_bad_files(tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        Claims.load(tmp_path / "claims.json")
    data = claims().model_dump(mode="json")
    data["splits"][0]["claims"][0]["verdict"] = "proven"
    (tmp_path / "claims.json").write_text(json.dumps(data))
    with pytest.raises(ResultsError, match=r"(?s)claims\.json breaks the schema.*splits\.0\.claims\.0\.verdict"):
        Claims.load(tmp_path / "claims.json")
    with pytest.raises(ValidationError, match="each must appear once"):
        claims(splits=claims().splits * 2)
    with pytest.raises(ValidationError, match="'not measured' goes with null"):
        Claim.model_validate(claims().splits[0].claims[0].model_dump() | {"measured": None})


def test_pages_say_what_was_simulated_and_every_verdict():
    page = claims_markdown(claims())
    assert "> **Simulated models: no LLM was called.** Environment kitchen" in page
    assert "| At no more than 41.3% of the strongest single model's cost" in page
    assert "at least +5.4 points | +10.0 [+10.0, +10.0] points | 4 | yes | holds |" in page
    assert "| monte-carlo-at-equal-score | mc-w3 |" in page
    assert "not measured" in page
    assert "Simulated" not in claims_markdown(claims(is_simulated=False))
    text = claims_text(claims())
    assert text.startswith("Simulated models: no LLM was called. Environment kitchen")
    assert "cheaper-and-better" in text
    assert "| " not in text


def test_numbers_out_of_reach_are_said_to_be():
    measured = Measured.of(estimate(-math.inf, -math.inf, 2.0))
    assert format_measured(measured, "USD") == "no number [unbounded, +2.0000] USD"
    assert format_measured(Measured.exact(0.2), "share") == "20.0%"
    assert format_measured(None, "points") == "-"
