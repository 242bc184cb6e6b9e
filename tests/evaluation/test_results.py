import json
from itertools import pairwise

import pytest
from pydantic import ValidationError
from scipy.stats import norm, t

from mtrouter_rl.errors import InvalidConfigError, ResultsError, UnknownNameError
from mtrouter_rl.evaluation.result_rows import Comparison, adjust_p_values, build_rows, merge, update_rows
from mtrouter_rl.evaluation.results import PolicyRoles, Results
from mtrouter_rl.statistics.rank_agreement import holm
from tests.cases.evaluation_cases import (
    MODELS,
    REWARD,
    ROLES,
    make_episode,
    make_results,
    make_traced,
    make_turn,
    rows_of,
)


def build(episodes, **roles):
    comparison = Comparison(
        split="test", reward=REWARD, model_names=MODELS, roles=PolicyRoles(**roles), n_resamples=200
    )
    return {row.policy: row for row in build_rows(episodes, comparison, seed=0)}


def hand_episodes(model, *, cost_usd, gains, status="completed"):
    return [
        make_episode([make_turn(model, cost_usd=cost_usd, gain=gain)], variation=variation, status=status)
        for variation, gain in enumerate(gains)
    ]


def test_rows_worked_by_hand():
    rows = build(
        {
            "tiny": hand_episodes("tiny", cost_usd=0.1, gains=[0.0, 0.2]),
            "big": hand_episodes("big", cost_usd=0.5, gains=[0.6, 0.4]),
            "router": hand_episodes("middle", cost_usd=0.3, gains=[0.5, 0.7]),
        },
        single_models=("tiny", "big"),
        strongest="big",
        learned=("router",),
        baselines=("tiny", "router"),
    )
    router = rows["router"]
    assert (router.n_episodes, router.score_mean, router.utility_mean) == (2, pytest.approx(60), pytest.approx(0.6))
    assert (router.cost_usd_mean, router.cost_usd_total) == (pytest.approx(0.3), pytest.approx(0.6))
    assert router.return_mean == pytest.approx(0.6 - 0.25 * 0.3)
    # Of two clusters s is 10. A resample of one of them counts as s* = s / 3, so t* is 3; c is that of 2 degrees of freedom.
    half_width = 3 * 10 * t.ppf(0.975, 2) / norm.ppf(0.975)
    assert half_width > 40, "so that the upper end is beyond the highest score"
    assert router.score_ci95 == pytest.approx((60 - half_width, 100.0))
    # Hull at 0.3 USD lies half way between (0.1, 10) and (0.5, 50).
    assert router.hull_gain == pytest.approx(60 - 30)
    assert router.cost_saved_share == pytest.approx(1 - 0.3 / 0.5)
    assert list(router.paired) == ["tiny"]
    assert router.paired["tiny"].score.value == pytest.approx(50)
    assert router.paired["tiny"].cost_usd.value == pytest.approx(0.2)
    assert router.paired["tiny"].return_.value == pytest.approx(0.5 - 0.25 * 0.2)
    assert rows["tiny"].paired == {}
    assert rows["big"].hull_gain == pytest.approx(0)
    assert rows["big"].cost_saved_share == pytest.approx(0)


def test_without_references_what_depends_on_them_is_none():
    row = build({"router": hand_episodes("big", cost_usd=0.1, gains=[0.5])})["router"]
    assert (row.hull_gain, row.cost_saved_share, row.score_ci95, row.stay_after_error) == (None, None, None, None)


def test_a_failed_episode_leaves_its_pair_out_and_is_counted():
    baseline = hand_episodes("tiny", cost_usd=0.1, gains=[0.0, 0.0, 0.0])
    broken = [*baseline[:2], make_episode([], variation=2, status="failed")]
    router = hand_episodes("big", cost_usd=0.1, gains=[0.3, 0.5, 0.9])
    rows = build({"router": router, "tiny": broken}, learned=("router",), baselines=("tiny",))
    assert rows["tiny"].n_failed == 1
    assert rows["router"].paired["tiny"].score.n_episodes == 2
    assert rows["router"].paired["tiny"].score.value == pytest.approx(40)


def test_policies_must_have_run_the_same_episodes():
    router = hand_episodes("big", cost_usd=0.1, gains=[0.3, 0.5, 0.9])
    with pytest.raises(InvalidConfigError, match=r"1 \(task.*\('boil', 2, 0\)"):
        build({"router": router, "tiny": router[:2]}, learned=("router",), baselines=("tiny",))


def test_wrong_roles_and_splits_are_refused():
    episodes = {"router": hand_episodes("big", cost_usd=0.1, gains=[0.3])}
    with pytest.raises(UnknownNameError, match="unknown policy in roles 'routr'; did you mean 'router'"):
        build(episodes, learned=("routr",))
    with pytest.raises(ResultsError, match="split is 'ood', must be 'test'"):
        build({"router": [make_episode([make_turn()], split="ood")]})


def test_round_trip(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    results.save(path)
    assert Results.load(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    data = json.loads(path.read_text())
    row = next(row for row in data["rows"] if row["policy"] == "fitted-q")
    assert set(row["paired"]["random"]) == {"score", "cost_usd", "return", "p_value", "p_value_holm"}
    assert set(row["paired"]["random"]["return"]) == {"mean", "low", "high", "n_episodes", "n_clusters"}


def test_rows_have_the_fields_of_the_design(results):
    assert set(results.rows[0].model_dump()) == {
        *("policy", "split", "cost_weight", "budget_usd", "n_episodes", "score_mean", "score_ci95", "utility_mean"),
        *("cost_usd_mean", "cost_usd_ci95", "cost_usd_total", "return_mean", "return_ci95", "turns_mean"),
        *("switches_mean", "stay_after_error", "model_share", "model_share_by_task", "score_by_task"),
        *("budget_violations", "n_failed", "hull_gain", "cost_saved_share", "paired"),
    }


def test_rows_of_a_split_come_best_return_first(results):
    returns = [row.return_mean for row in results.split_rows("test")]
    assert all(first >= second for first, second in pairwise(returns))
    with pytest.raises(ResultsError, match="no row of split 'train', only"):
        results.split_rows("train")


def change(data, path, value):
    *parents, last = path
    for key in parents:
        data = data[key]
    if value is None:
        del data[last]
    else:
        data[last] = value


ROW = ("rows", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 3, r"'schema_version': is 3, must be one of \(1, 2\)"),
        (("schema_version",), None, "'schema_version': is None, must be"),
        (("env",), None, "field 'env': Field required; add it"),
        (("colour",), "red", "field 'colour' is 'red'.*remove it"),
        (("is_simulated",), "yes", "field 'is_simulated' is 'yes'"),
        (("cost_unit_usd",), 0.0, "field 'cost_unit_usd' is 0.0"),
        (("config",), {"rate": float("nan")}, "field 'config'.*"),
        (("roles", "best"), "big", "field 'roles.best'"),
        ((*ROW, "score_mean"), float("nan"), "field 'rows.0.score_mean' is nan: Input should be a finite number"),
        ((*ROW, "score_mean"), "70", "field 'rows.0.score_mean' is '70'"),
        ((*ROW, "score_mean"), 12345.0, "score = 100"),
        ((*ROW, "score_ci95"), [2.0, 1.0], "rows.0.score_ci95.*lower end must not exceed"),
        ((*ROW, "model_share"), {"tiny": 0.4}, "rows.0.model_share.*must sum to 1"),
        ((*ROW, "model_share"), {"huge": 1.0}, r"\['huge'\] that model_names lacks"),
        ((*ROW, "n_failed"), -1, "field 'rows.0.n_failed' is -1"),
        ((*ROW, "split"), "tset", "field 'rows.0.split' is 'tset'"),
        ((*ROW, "hull_gain"), None, "field 'rows.0.hull_gain': Field required"),
        (("rows", 5, "paired", "random", "return", "low"), "x", "rows.5.paired.random.return.low"),
        (("rows", 5, "paired", "random", "return", "p"), 0.1, "rows.5.paired.random.return.p"),
    ],
)
def test_bad_files(results, tmp_path, path, value, message):
    results.save(tmp_path / "results.json")
    data = json.loads((tmp_path / "results.json").read_text())
    change(data, path, value)
    (tmp_path / "results.json").write_text(json.dumps(data))
    with pytest.raises(ResultsError, match=message) as caught:
        Results.load(tmp_path / "results.json")
    assert "results.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "holds list, must be an object"), (None, "no such file")],
)
def test_unreadable_files(tmp_path, text, message):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=message):
        Results.load(tmp_path / "results.json")


def test_a_row_may_appear_once(results):
    with pytest.raises(ValidationError, match="appear more than once"):
        make_results([results.rows[0], results.rows[0]])


def test_a_failed_save_keeps_the_old_file(results, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    results.save(path)
    before = path.read_text()

    def broken(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("mtrouter_rl.files.writing.os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        make_results([]).save(path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_policies_evaluated_later_are_measured_against_earlier_ones(traced, results):
    singles = {name: traced["test"][name] for name in MODELS}
    roles = PolicyRoles(single_models=MODELS, strongest="big")
    first = make_results(rows_of(singles, roles=roles), roles=roles)
    later = rows_of({"fitted-q": traced["test"]["fitted-q"]}, roles=PolicyRoles(learned=("fitted-q",)))
    assert later[0].hull_gain is None
    both = update_rows(first, later, roles=PolicyRoles(learned=("fitted-q",)))
    whole = results.row("fitted-q", "test")
    assert both.row("fitted-q", "test").hull_gain == pytest.approx(whole.hull_gain)
    assert both.row("fitted-q", "test").cost_saved_share == pytest.approx(whole.cost_saved_share)
    assert both.roles.learned == ("fitted-q",)
    assert update_rows(both, later) == both


def test_merge_refuses_other_settings(results):
    assert merge(results, results) == results
    with pytest.raises(ResultsError, match=r"field 'cost_weight' is 0.5 in one and 0.7 in the other"):
        merge(results, results.model_copy(update={"cost_weight": 0.7}))
    other = results.model_copy(update={"roles": PolicyRoles(strongest="tiny")})
    with pytest.raises(ResultsError, match=r"roles.strongest is 'big' in one and 'tiny' in the other"):
        merge(results, other)
    strange = [row.model_copy(update={"model_share": {"huge": 1.0}}) for row in results.rows[:1]]
    with pytest.raises(ResultsError, match=r"merged results breaks.*\n.*\['huge'\]"):
        update_rows(results, strange)


def test_a_file_may_compare_cost_weights():
    traced = make_traced(n_variations=2)
    rows = [*rows_of(traced, cost_weight=0.5), *rows_of(traced, cost_weight=1.0)]
    results = make_results(rows)
    labels = {row.label for row in results.rows if row.policy == "fitted-q"}
    assert labels == {"fitted-q (cost weight 0.5)", "fitted-q (cost weight 1)"}
    assert ROLES.names == ("tiny", "middle", "big", "fitted-q", "random", "behavior-cloning")


@pytest.mark.parametrize(
    ("policy", "cost_weight", "family", "label"),
    [
        ("frontier@0.5", 0.5, "frontier", "frontier@0.5"),
        ("frontier@0.5", 0.4, "frontier@0.5", "frontier@0.5 (cost weight 0.4)"),
        ("frontier@0.5", None, "frontier@0.5", "frontier@0.5"),
        ("fitted-q", 0.5, "fitted-q", "fitted-q (cost weight 0.5)"),
    ],
)
def test_a_weight_that_the_name_tells_is_not_told_again(policy, cost_weight, family, label):
    row = rows_of(make_traced(n_variations=2))[0].model_copy(update={"policy": policy, "cost_weight": cost_weight})
    assert (row.family, row.label) == (family, label)


def test_p_values_come_from_the_draws_of_the_interval_and_are_adjusted_within_the_split(results):
    paired = {
        split: [one for row in results.split_rows(split) for one in row.paired.values()] for split in results.splits
    }
    for many in paired.values():
        assert tuple(one.p_value_holm for one in many) == pytest.approx(holm([one.p_value for one in many]))
    # The ends of the interval are quantiles of the draws, so it leaves 0 out where few draws lie on the other side.
    for one in paired["test"]:
        assert (one.return_.is_above_zero or one.return_.is_below_zero) == (one.p_value < 0.05)


@pytest.mark.parametrize(("n_clusters", "p_value"), [(2, 0.5), (6, 2.0**-5), (12, 2.0**-11), (24, 2 / 100_001)])
def test_few_clusters_are_no_certainty(n_clusters, p_value):
    """All resamples lie above 0, which of two pairs a coin would do every other time; 100,000 tell 2 / 100,001 at best."""
    episodes = {
        "big": hand_episodes("big", cost_usd=0.1, gains=[0.5 + 0.01 * number for number in range(n_clusters)]),
        "tiny": hand_episodes("tiny", cost_usd=0.1, gains=[0.1] * n_clusters),
    }
    found = build(episodes, learned=("big",), baselines=("tiny",))["big"].paired["tiny"]
    assert found.return_.is_above_zero
    assert (found.p_value, found.p_value_holm) == (pytest.approx(p_value), pytest.approx(p_value))


def test_one_cluster_has_no_p_value_and_counts_in_the_family(results):
    episodes = {name: hand_episodes(name, cost_usd=0.1, gains=[0.3]) for name in ("tiny", "big")}
    alone = build(episodes, learned=("big",), baselines=("tiny",))["big"].paired["tiny"]
    assert (alone.p_value, alone.p_value_holm) == (None, None)
    row = results.row("fitted-q", "test")
    known = row.paired["random"].model_copy(update={"p_value": 0.01})
    changed = row.model_copy(update={"paired": {"a": known, "b": alone, "c": alone}})
    (adjusted,) = adjust_p_values([changed])
    assert [one.p_value_holm for one in adjusted.paired.values()] == [pytest.approx(0.03), None, None]


def test_routers_evaluated_later_join_the_family(traced):
    both = PolicyRoles(learned=("fitted-q", "behavior-cloning"), baselines=("random",))
    names = (*both.learned, *both.baselines)
    whole = rows_of({name: traced["test"][name] for name in names}, roles=both)
    first = make_results(whole[:1], roles=both)
    assert first.replaced(roles=both, rows=adjust_p_values(first.rows)).rows[0].paired != whole[0].paired
    assert update_rows(first, whole[1:]).rows == whole


def test_a_file_of_version_1_still_loads_without_p_values(results, tmp_path):
    path = tmp_path / "results.json"
    results.save(path)
    data = json.loads(path.read_text()) | {"schema_version": 1}
    for row in data["rows"]:
        for difference in row["paired"].values():
            del difference["p_value"], difference["p_value_holm"]
    path.write_text(json.dumps(data))
    loaded = Results.load(path)
    paired = loaded.row("fitted-q", "test").paired["random"]
    assert (paired.p_value, paired.p_value_holm) == (None, None)
    assert paired.return_ == results.row("fitted-q", "test").paired["random"].return_
    loaded.save(path)
    assert Results.load(path) == loaded
