"""The full study on the corridor, small, and killed on the way."""

import json
import shutil
from dataclasses import replace

import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import CardError, InvalidConfigError, MissingDependencyError, ResultsError
from mtrouter_rl.evaluation.results import HIDDEN_REFERENCE, Results
from mtrouter_rl.studies.budgets.record import BUDGET_FILE, BudgetSweep
from mtrouter_rl.studies.full import run as full_study
from mtrouter_rl.studies.full.claims import Claims
from mtrouter_rl.studies.full.claims_of_main import CURVE_WEIGHTS, WEIGHTS
from mtrouter_rl.studies.full.claims_of_parts import claims_of_other_parts, within_budgets
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints
from mtrouter_rl.studies.full.request import PARTS, FullSize, FullStudyRequest, full_size
from mtrouter_rl.studies.full.run import run_full_study
from mtrouter_rl.studies.headroom.run import HEADROOM_FILE, Headroom
from mtrouter_rl.studies.recompute.run import RecomputeRequest, recompute
from mtrouter_rl.workflows import quick_study, training_seconds
from mtrouter_rl.workflows.quick_study import STRONGEST

LEARNED = ("fitted-q", "monte-carlo-q", "fitted-q-frontier", "fitted-q-budget")
SIZE = FullSize(
    n_episodes=30,
    n_validation_seeds=1,
    n_narrow_seeds=3,
    n_key_seeds=2,
    n_curve_seeds=2,
    n_other_seeds=1,
    n_ood_narrow_seeds=2,
    n_ood_key_seeds=1,
    n_ood_other_seeds=1,
    ood_other_per_task=2,
    n_market_episodes=20,
    n_market_seeds=1,
    n_budget_seeds=1,
    n_ablation_seeds=1,
    n_pool_change_seeds=1,
)


@pytest.fixture(scope="module")
def config():
    """The corridor with trainings of a moment and a second market."""
    found = resolve_env("corridor")
    tiny = {name: {"n_iterations": 3, "steps_per_iteration": 4, "batch_size": 32} for name in LEARNED}
    own = {"full": {"markets": ["corridor-three"]}}
    return replace(found, card=found.card.model_copy(update={"agents": tiny, "studies": own}))


def request_of(config, out, **changes):
    made = FullStudyRequest(
        config=config,
        out=out,
        size=SIZE,
        n_workers=1,
        encoder="hashing",
        agents=("fitted-q", "monte-carlo-q", "cheap-first"),
    )
    return replace(made, **changes)


def run(request, said=None):
    return run_full_study(request, say=(said if said is not None else []).append, show_progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory, config):
    """The study, killed once in the middle of its evaluations."""
    request = request_of(config, tmp_path_factory.mktemp("full"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_study, "present", lambda *_args, **_kwargs: None)
        patch.setattr(full_study, "present", _killed)
        with pytest.raises(KeyboardInterrupt):
            run(request)
        patch.setattr(full_study, "present", lambda *_args, **_kwargs: None)
        said = []
        run(request, said)
    return request, said


def _killed(*_args, **_kwargs):
    raise KeyboardInterrupt


def test_every_point_is_there_and_compared_with_policies_of_fewer_seeds(done):
    request, _ = done
    results = Results.load(request.out / "results.json")
    fitted = results.row("fitted-q", "test")
    random = results.row("random", "test")
    chosen = results.row(FrontierPoints.load(request.out / POINTS_FILE).policies[0], "test")
    assert (fitted.n_episodes, chosen.n_episodes, random.n_episodes) == (24, 16, 8)
    assert (
        results.row("fitted-q-frontier@3", "test").n_episodes
        == results.row("monte-carlo-q-w3", "test").n_episodes
        == 16
    )
    assert fitted.paired["random"].return_.n_episodes == 8
    assert fitted.paired[STRONGEST].return_.n_episodes == 24
    assert fitted.paired["cheap-first"].return_.n_episodes == 8
    names = {row.policy for row in results.rows if row.split == "test"}
    separate = {f"{agent}-w{weight:g}" for agent in ("fitted-q", "monte-carlo-q") for weight in WEIGHTS}
    assert {f"fitted-q-frontier@{weight:g}" for weight in CURVE_WEIGHTS} | separate | {
        HIDDEN_REFERENCE,
        "cheapest",
    } <= names
    assert set(FrontierPoints.load(request.out / POINTS_FILE).policies) <= names
    assert results.row("fitted-q", "ood").n_episodes == 20
    assert results.row("cheap-first", "ood").n_episodes == 2


def test_the_strongest_model_is_compared_though_its_episodes_are_kept_under_another_name(done):
    request, _ = done
    results = Results.load(request.out / "results.json")
    cheapest, single = results.row("cheapest", "test"), results.row("single:small", "test")
    assert cheapest.score_mean == single.score_mean


def test_every_file_of_the_study_is_that_of_its_episodes(done):
    """Of budgets too, where one policy was run under several."""
    request, _ = done
    files = ("results.json", "claims.json", "ablations/ablations.json", "budgets/results.json")
    found = recompute(RecomputeRequest(files=tuple(request.out / name for name in files)))
    assert {one.file.name: one.verdict for one in found if one.changes} == {}
    assert all(one.n_numbers > 100 for one in found)
    results, claims, ablations, budgets = (one.left_out for one in found)
    assert results == ablations == budgets == ()
    assert {one.split(" on ")[0] for one in claims} == {
        *("one-network-time", "models-by-skill", "other-markets", "within-budgets", "told-the-budget"),
        "quarter-of-the-log",
    }


def test_a_claim_that_was_touched_is_named(done, tmp_path):
    request, _ = done
    for name in ("claims.json", POINTS_FILE, "episodes.csv.gz"):
        shutil.copy(request.out / name, tmp_path / name)
    data = json.loads((tmp_path / "claims.json").read_text())
    claim = next(one for one in data["splits"][0]["claims"] if one["key"] == "share-of-headroom")
    claim["measured"]["low"] = (claim["measured"]["low"] or 0.0) - 0.5
    (tmp_path / "claims.json").write_text(json.dumps(data))
    (found,) = recompute(RecomputeRequest(files=(tmp_path / "claims.json",)))
    assert [one.where for one in found.changes] == [f"share-of-headroom on {data['splits'][0]['split']}: measured.low"]


def test_trainings_tell_how_long_they_took(done):
    request, _ = done
    assert all(
        training_seconds(request.router(name)) > 0 for name in ("fitted-q", "fitted-q-frontier", "monte-carlo-q-w3")
    )


def test_markets_budgets_and_headroom_have_folders_of_their_own(done):
    request, said = done
    market = Results.load(request.out / "markets" / "corridor-three" / "results.json")
    assert market.row("fitted-q", "test").paired["monte-carlo-q"].return_.n_episodes == 8
    budgets = json.loads((request.out / "budgets" / "budgets.json").read_text())
    spent = FrontierPoints.load(request.out / POINTS_FILE).strongest.cost_usd_mean
    assert min(one["budget_usd"] for one in budgets["outcomes"]) == pytest.approx(0.05 * spent, rel=0.01)
    headroom = Headroom.load(request.out / "headroom" / "corridor-three" / HEADROOM_FILE)
    assert headroom.part("reference", 0.4).score.n_episodes == 8
    assert any("market corridor-three" in text for text in said)


def test_every_claim_is_judged_on_both_splits(done):
    request, _ = done
    claims = Claims.load(request.out / "claims.json")
    assert [one.split for one in claims.splits] == ["test", "ood"]
    test, ood = claims.splits
    by_key = {claim.key: claim for claim in test.claims}
    assert all(claim.verdict != "not measured" for claim in test.claims if claim.key != "models-by-skill")
    points = FrontierPoints.load(request.out / POINTS_FILE)
    assert any(points.policy("beat") in note for note in test.claims[0].notes)
    assert any(points.policy("keep") in note for note in test.claims[1].notes)
    assert len(by_key["baselines-at-equal-cost"].parts) == 4
    market = Results.load(request.out / "markets" / "corridor-three" / "results.json")
    over = {part.name: part.measured for part in by_key["other-markets"].parts}
    known = market.row("fitted-q", "test").paired["monte-carlo-q"].return_
    assert over["corridor-three: monte-carlo-q"].value == pytest.approx(known.value)
    assert (over["corridor-three: monte-carlo-q"].low, over["corridor-three: monte-carlo-q"].high) == pytest.approx(
        known.ends
    )
    assert over["corridor-three: monte-carlo-q"].n_episodes == known.n_episodes == 8
    assert any(name.startswith("corridor-three: single:") for name in over)
    budgets = BudgetSweep.load(request.out / "budgets" / BUDGET_FILE)
    assert by_key["within-budgets"].measured.value == 0
    assert by_key["within-budgets"].verdict == "holds"
    scores = {(one.policy, f"{one.budget_usd:g} USD"): one.score_mean for one in budgets.outcomes}
    for part in by_key["told-the-budget"].parts:
        difference = scores["fitted-q-budget", part.name] - scores["fitted-q", part.name]
        assert part.measured.value == pytest.approx(difference)
    assert len(by_key["told-the-budget"].parts) == len({one.budget_usd for one in budgets.outcomes})
    assert "other-markets" not in {claim.key for claim in ood.claims}
    assert ood.n_clusters == 10
    fewer = {
        claim.key for claim in ood.claims if any("On the 2 of 10 (task, variation)" in note for note in claim.notes)
    }
    assert "monte-carlo-at-equal-cost" in fewer
    assert not {"cheaper-and-better", "share-of-headroom", "interval-half-widths"} & fewer
    assert (request.out / "plots" / "frontiers_test.png").is_file()


def test_the_strongest_model_and_the_best_value_leave_and_join(done):
    request, _ = done
    held_out = json.loads((request.out / "pool-change" / "leave_one_out.json").read_text())["models"]
    assert 1 <= len(held_out) <= 2


def test_a_finished_study_runs_nothing_again(done, monkeypatch):
    request, _ = done
    for study in (full_study, quick_study):
        monkeypatch.setattr(study, "present", lambda *_args, **_kwargs: None)
    before = (request.out / "results.json").read_bytes()
    run(request)
    assert (request.out / "results.json").read_bytes() == before


def test_parts_that_need_the_main_part_say_so(config, tmp_path):
    with pytest.raises(InvalidConfigError, match=r"the main part has not been run to its end, .* with --parts main"):
        run(request_of(config, tmp_path, parts=("budgets",)))


def test_another_setting_is_refused_in_a_folder_that_holds_a_study(done):
    request, _ = done
    with pytest.raises(InvalidConfigError, match=r"holds a study of another setting \(differs in: seed\)"):
        run(replace(request, seed=1))


def test_a_study_that_failed_before_it_did_anything_does_not_stand_in_the_way(config, tmp_path):
    for seed in (0, 1):
        with pytest.raises(InvalidConfigError, match="the main part has not been run to its end"):
            run(replace(request_of(config, tmp_path, parts=("budgets",)), seed=seed))


def test_means_over_fewer_variations_are_not_set_against_the_others(done):
    request, _ = done
    results = Results.load(request.out / "results.json")
    assert results.row("cheap-first", "ood").hull_gain is None
    assert results.row("fitted-q", "ood").hull_gain is not None
    assert results.row("cheap-first", "test").hull_gain is not None
    assert any("were run on 2 of 10 (task, variation)" in note for note in results.notes)


def test_headroom_alone_needs_no_other_part(config, tmp_path):
    assert run(request_of(config, tmp_path, parts=("headroom",))) is None


def test_parts_are_of_the_full_study(capsys):
    assert main(["study", "--parts", "main"]) != 0
    assert "add --full" in capsys.readouterr().err


def test_the_claims_need_their_agents(config, tmp_path):
    with pytest.raises(InvalidConfigError, match=r"agents are fitted-q; .* 'monte-carlo-q' must be among them"):
        request_of(config, tmp_path, agents=("fitted-q",))


def test_an_encoder_that_is_to_be_compared_and_not_installed_is_told_before_anything_runs(
    config, tmp_path, monkeypatch
):
    own = {"full": {"compares_encoders": True}}
    comparing = replace(config, card=config.card.model_copy(update={"studies": own}))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(
        MissingDependencyError, match=r"encoder 'minilm', which the ablations compare: .*compares_encoders"
    ):
        run(request_of(comparing, tmp_path))
    assert not any(tmp_path.iterdir())


def test_test_seeds_are_those_of_every_policy_on_test(config, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("mtrouter_rl.studies.full.run.run_full_study", lambda request, **_: asked.append(request.size))
    main(["study", "--full", "--env", "corridor", "--test-seeds", "2", "--parts", "headroom", "--out", str(tmp_path)])
    size = asked[0]
    assert {size.n_narrow_seeds, size.n_key_seeds, size.n_curve_seeds, size.n_other_seeds} == {2}


def test_sizes_of_a_card(config):
    card = config.card.model_copy(update={"studies": {"full": {"sizes": {"n_episodes": 7}}}})
    assert full_size(card) == replace(FullSize(), n_episodes=7)
    wrong = config.card.model_copy(update={"studies": {"full": {"sizes": {"n_episode": 7}}}})
    with pytest.raises(CardError, match=r"card 'corridor', studies\.full\.sizes: .*n_episode.*n_episodes"):
        full_size(wrong)
    assert PARTS[0] == "headroom"


def test_claims_about_parts_that_were_not_run_are_not_measured(tmp_path):
    claims = claims_of_other_parts(tmp_path, reward=RewardCard(cost_weight=1.0, cost_unit_usd=1.0), seed=0)
    assert [claim.verdict for claim in claims] == ["not measured"] * 3
    assert [claim.notes for claim in claims] == [
        ("Missing: the part 'markets'.",),
        ("Missing: the part 'budgets'.",),
        ("Missing: the part 'budgets'.",),
    ]


def test_an_episode_over_its_budget_is_told(tmp_path):
    outcome = {"policy": "one", "budget_usd": 0.1, "n_episodes": 3, "score_mean": 1.0, "score_ci95": None}
    outcome |= {"cost_usd_mean": 0.2, "return_mean": 0.5, "cut_short_share": 0.0, "budget_violations": 2}
    sweep = {"env": "corridor", "pool": "p", "split": "test", "package_version": "0", "outcomes": [outcome]}
    (tmp_path / "budgets.json").write_text(json.dumps(sweep))
    claim = within_budgets(tmp_path)
    assert (claim.verdict, claim.measured.value) == ("does not hold", 2.0)
    (tmp_path / "budgets.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"budgets\.json breaks the schema of BudgetSweep"):
        within_budgets(tmp_path)
