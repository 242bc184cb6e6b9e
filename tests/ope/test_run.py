"""Off-policy evaluation from a log on disk to a report, on the toy corridor."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mtrouter_rl.cli.program import run_command
from mtrouter_rl.datasets import streamed
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, PoolMismatchError, UnknownNameError
from mtrouter_rl.evaluation.results import PolicyRoles
from mtrouter_rl.ope import inputs as ope_log
from mtrouter_rl.ope.estimates import training_noise
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.inputs import OpeLog, OpeRequest, log_setting, switch_share
from mtrouter_rl.ope.record import load_report
from mtrouter_rl.ope.run import run_ope
from mtrouter_rl.ope.sequential import (
    ALL_ESTIMATORS,
    ESTIMATORS,
    TurnLog,
    Values,
    check_probabilities,
    diagnose,
    estimate,
)
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.reporting.ope_report import format_report
from mtrouter_rl.testing import ScriptedRouter
from tests.cases.evaluation_cases import make_results, make_traced, rows_of
from tests.studies.real_logs.test_run import make_log

ROUTERS = ("uniform", "sticky:0.8", "single:large", "single:small")
TINY = FqeParameters(
    text_projection=4,
    history_hidden=(32,),
    joint_hidden=(32,),
    n_iterations=16,
    steps_per_iteration=25,
    batch_size=128,
    learning_rate=3e-3,
    keep_last=4,
)


def make_request(dataset, routers=ROUTERS, **changes):
    pool, reward = log_setting(dataset)
    fields = {"routers": routers, "dataset": dataset, "pool": pool, "reward": reward, "fqe": TINY, "n_resamples": 400}
    fields["estimators"] = ESTIMATORS
    return OpeRequest(**(fields | changes))


def run(request):
    return run_ope(request, say=lambda text: None, show_progress=False)


@pytest.fixture(scope="module")
def report(corridor_log):
    return run(make_request(corridor_log, estimators=ALL_ESTIMATORS))


def by_name(report):
    return {one.policy: one for one in report.policies}


def test_the_behavior_policy_is_worth_its_own_mean_by_weighting(report):
    uniform = by_name(report)["uniform"]
    assert uniform.headline == "wdr"
    assert uniform.effective_sample_size == pytest.approx(report.n_episodes)
    for name in ("is", "wis", "pdis", "wpdis"):
        for quantity, mean in report.logged.items():
            assert uniform.estimates[name][quantity].value == pytest.approx(mean), name
    fitted = uniform.estimates["dm"]["utility"]
    assert fitted.low < report.logged["utility"] < fitted.high


def test_every_estimator_and_quantity_is_there_and_the_return_is_made_of_the_others(report):
    for one in report.policies:
        assert set(one.estimates) == set(ALL_ESTIMATORS)
        for numbers in one.estimates.values():
            utility, cost = numbers["utility"].value, numbers["cost_usd"].value
            made = utility - report.cost_weight * cost / report.cost_unit_usd
            assert numbers["return"].value == pytest.approx(made, abs=1e-6)


def test_long_greedy_policies_are_not_told_by_weights(report):
    large = by_name(report)["single:large"]
    assert large.effective_sample_size < 30
    assert "must be at least 30" in large.refusals["weighting"][0]
    assert large.headline != "wdr"
    assert large.unsupported_share == 0


def test_values_fitted_too_little_are_refused(corridor_log):
    lazy = TINY.model_copy(update={"n_iterations": 3, "steps_per_iteration": 1, "n_repeats": 1})
    found = by_name(run(make_request(corridor_log, ("single:large",), fqe=lazy)))["single:large"]
    assert found.headline is None
    assert "fitted values contradict held-out turns: utility is off by" in found.refusals["fitted"][0]


def test_report_is_printed_saved_and_read_back(report, tmp_path):
    assert load_report(report.save(tmp_path)) == report
    text = format_report(report)
    assert "propensities exact; logged by uniform" in text
    assert "uniform       WDR  " in text
    refused = report.model_copy(update={"policies": (report.policies[2].model_copy(update={"headline": None}),)})
    assert "single:large  -   this log cannot tell" in format_report(refused)
    assert "single:large: this log cannot tell: the effective sample size is" in format_report(refused)


def test_reports_of_older_versions_tell_that_they_made_all_steps(report, tmp_path):
    path = report.save(tmp_path)
    old = json.loads(path.read_text())
    assert old["fqe"].pop("max_passes") == 40.0
    path.write_text(json.dumps(old))
    assert load_report(path).fqe.max_passes is None


def test_the_cost_of_the_fit_is_said_before_it(corridor_log):
    said = []
    quick = TINY.model_copy(update={"n_iterations": 3, "n_repeats": 1, "max_passes": 1.0})
    run_ope(make_request(corridor_log, ("uniform",), fqe=quick), say=said.append, show_progress=False)
    (line,) = [text for text in said if text.startswith("fit values of 1 policies")]
    assert re.search(r"turns: \d+ gradient steps \(a long log: 150\), about \d+ s of one core$", line), line


def test_differences_are_corrected_for_their_number(report):
    told = [one for one in report.policies if one.headline is not None]
    assert len(report.differences) == len(told) * (len(told) - 1) / 2
    for one in report.differences:
        assert one.p_value <= one.p_value_holm <= 1
        values = [by_name(report)[name].estimates[one.estimator]["return"].value for name in (one.policy, one.other)]
        assert one.difference.value == pytest.approx(values[0] - values[1])
        assert one.difference.low <= one.difference.high


def test_many_policies_get_as_many_resamples_as_their_differences_need(corridor_log):
    request = make_request(corridor_log, ("uniform",))
    few, many = (
        SimpleNamespace(names=tuple(map(str, range(number))), request=replace(request, n_resamples=4000))
        for number in (14, 24)
    )
    assert OpeLog.n_resamples.fget(few) == 4000
    assert OpeLog.n_resamples.fget(many) == 12_000


def test_a_log_on_disk_gives_the_report_of_the_log_in_memory(corridor_log, tmp_path, monkeypatch):
    log = shutil.copytree(corridor_log, tmp_path / "log")
    quick = TINY.model_copy(update={"n_iterations": 3, "n_repeats": 1})
    resident = run(make_request(log, ("uniform", "single:large"), fqe=quick))
    monkeypatch.setattr(streamed, "RESIDENT_TURNS", 10)
    assert run(make_request(log, ("uniform", "single:large"), fqe=quick)) == resident
    assert (log / "features").is_dir()


def test_equal_seeds_give_equal_reports(corridor_log):
    quick = TINY.model_copy(update={"n_iterations": 3, "n_repeats": 1})
    one, again = (run(make_request(corridor_log, ("uniform", "single:large"), fqe=quick)) for _ in range(2))
    assert one == again


def test_estimates_are_compared_with_closed_loop_results(corridor_log, tmp_path):
    traced = make_traced({"uniform": (1, 1, 1), "sticky:0.8": (1, 2, 1)}, split="test")
    results = make_results(rows_of(traced, roles=PolicyRoles()), roles=PolicyRoles())
    results.save(tmp_path / "results.json")
    request = make_request(corridor_log, ROUTERS[:2], estimators=("wpdis",), truth=tmp_path / "results.json")
    report = run(request)
    assert report.selection["utility"]["n_policies"] == 2
    assert report.selection["utility"]["rank_correlation"] is None
    truth = {row.policy: row.utility_mean for row in results.rows}
    errors = [one.estimates["wpdis"]["utility"].value - truth[one.policy] for one in report.policies]
    assert report.selection["utility"]["error_mean"] == pytest.approx(np.mean(errors))
    assert "against closed-loop cost_usd of 2 policies" in format_report(report)
    with pytest.raises(InvalidConfigError, match=r"has no row of split 'ood'; it has test"):
        run(replace(request, truth_split="ood"))


def unknown_propensities(folder, out):
    """The same log as if it had been imported from somewhere that logs no propensities."""
    dataset = Dataset.load(folder)
    info = dataset.info.model_copy(
        update={"propensities": "unknown", "origin": "imported", "assumptions": ("none is known",)}
    )
    episodes = [
        replace(episode, turns=tuple(replace(turn, propensity=None) for turn in episode.turns))
        for episode in dataset.episodes
    ]
    write_dataset(out, info, (TracedEpisode(episode=episode) for episode in episodes))
    return out


@pytest.fixture(scope="module")
def log_without_propensities(corridor_log, tmp_path_factory):
    return unknown_propensities(corridor_log, tmp_path_factory.mktemp("unknown") / "log")


def imported_request(dataset, routers, **changes):
    pool, reward = log_setting(dataset, cost_weight=0.5, cost_unit_usd=0.01)
    fields = {"routers": routers, "dataset": dataset, "pool": pool, "reward": reward, "fqe": TINY, "n_resamples": 400}
    fields["estimators"] = ESTIMATORS
    return OpeRequest(**(fields | changes))


def test_missing_propensities_are_estimated_and_marked(log_without_propensities, report):
    found = run(imported_request(log_without_propensities, ("uniform",), estimators=("wpdis",)))
    assert found.propensities == "estimated"
    assert any("propensities are ESTIMATED" in note for note in found.notes)
    assert "propensities estimated" in format_report(found)
    exact = by_name(report)["uniform"].estimates["wpdis"]["utility"]
    assert found.policies[0].estimates["wpdis"]["utility"].value == pytest.approx(exact.value, abs=0.1)


def test_the_direct_method_needs_no_propensities(log_without_propensities):
    found = run(imported_request(log_without_propensities, ("uniform",), estimators=("dm",)))
    assert found.propensities == "unknown"
    assert found.policies[0].effective_sample_size is None
    assert found.policies[0].headline == "dm"
    assert set(found.policies[0].estimates) == {"dm"}


def test_switching_routers_are_refused_where_no_episode_switches(tmp_path):
    log = make_log(tmp_path / "log")
    found = by_name(run(imported_request(log, ("uniform", "single:small"), estimators=("wis",))))
    assert found["uniform"].headline is None
    assert found["uniform"].estimates == {}
    assert "no episode of the log ever changes the model" in found["uniform"].refusals["weighting"][0]
    assert found["single:small"].estimates != {}


def test_a_log_of_one_model_tells_nothing_of_others(tmp_path):
    others = [(task, model) for task in ("easy", "hard") for model in ("middle", "large")]
    log = make_log(tmp_path / "log", drop=others)
    with pytest.raises(InvalidConfigError, match=r"was played by one model only \(small\)"):
        run(imported_request(log, ("single:small",)))


def test_a_log_without_completed_episodes_is_refused(corridor_log, tmp_path):
    dataset = Dataset.load(corridor_log)
    failed = replace(dataset.episodes[0], status="failed", status_detail="the simulator broke")
    write_dataset(tmp_path / "log", dataset.info, [TracedEpisode(episode=failed)])
    with pytest.raises(InvalidConfigError, match=r"has no completed episode with a turn"):
        run(make_request(tmp_path / "log"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"estimators": ("wpdi",)}, UnknownNameError, r"unknown estimator 'wpdi'; did you mean 'wpdis'"),
        ({"routers": ()}, InvalidConfigError, r"there is no router to estimate"),
        ({"routers": ("uniform", "uniform")}, InvalidConfigError, r"are both called 'uniform'"),
        ({"routers": ("single:larg",)}, UnknownNameError, r"larg"),
        ({"routers": ("fitted-q",)}, InvalidConfigError, r"has to be trained first"),
    ],
)
def test_bad_requests(corridor_log, changes, error, message):
    with pytest.raises(error, match=message):
        run(make_request(corridor_log, **changes))


@pytest.mark.parametrize(
    ("names", "decide", "error", "message"),
    [
        (
            ("small", "large"),
            (0.5, 0.5),
            PoolMismatchError,
            r"router 'scripted' is for the models small, large, but the log has",
        ),
        (None, (0.5, 0.5, 0.5), InvalidConfigError, r"router 'scripted': turn 0: probabilities .* sum to 1\.5"),
        (None, (0.5, 0.5), InvalidConfigError, r"router 'scripted': probabilities have shape \(\d+, 2\)"),
        (None, (0.5, 0.5, np.nan), InvalidConfigError, r"router 'scripted': turn 0"),
    ],
)
def test_bad_routers(corridor_log, monkeypatch, names, decide, error, message):
    request = make_request(corridor_log, ("scripted",))
    router = ScriptedRouter(
        name="scripted", model_names=names or request.pool.model_names, decide=lambda observation: decide
    )
    monkeypatch.setattr(ope_log, "resolve_router", lambda text, pool, cache: router)
    with pytest.raises(error, match=message):
        run(request)


def test_the_reward_of_an_imported_log_has_to_be_given(log_without_propensities, corridor_log):
    with pytest.raises(InvalidConfigError, match=r"was imported, so no card says what money is worth"):
        log_setting(log_without_propensities)
    with pytest.raises(InvalidConfigError, match=r"--cost-unit-usd is for imported logs"):
        log_setting(corridor_log, cost_unit_usd=1.0)
    with pytest.raises(DatasetError):
        log_setting(corridor_log / "nowhere")


def test_switches_are_counted_where_the_policy_itself_could_have_come():
    follows = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    turns = np.array([0, 1, 2])
    assert switch_share(follows, np.array([0, 1, 1]), turns) == 0.5  # changes once, then stays
    assert switch_share(follows, np.array([1, 0, 0]), turns) == 0.0  # never comes to turn 1


def test_training_noise_has_the_spread_of_the_gaps_and_is_paired():
    gaps = np.full((8, 1), 0.4)
    noise = training_noise(gaps, n_resamples=200_000, seed=0)
    assert np.std(noise) == pytest.approx(0.2 / np.sqrt(6 / 8), rel=0.05)  # Student's t with 8 degrees has variance 8/6
    double = training_noise(2 * gaps, n_resamples=200_000, seed=0)
    np.testing.assert_allclose(double, 2 * noise)


def test_command(corridor_log, tmp_path, capsys):
    words = ["ope", "uniform", "single:small", "--dataset", str(corridor_log), "--estimators", "wpdis", "wis"]
    run_command([*words, "--json", "--out", str(tmp_path)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "ope.json").read_text())
    assert printed["fqe"] is None
    run_command(words)
    assert "single:small  " in capsys.readouterr().out


def test_a_turn_log_without_propensities_allows_the_direct_method_alone():
    log = TurnLog(
        lengths=np.array([2, 1]),
        actions=np.array([0, 1, 1]),
        propensities=None,
        rewards=np.ones((3, 1)),
        clusters=np.array([0, 1]),
        n_models=2,
    )
    pi = np.full((3, 2), 0.5)
    values = Values(logged=np.ones((3, 1)), states=np.array([[4.0], [1.0], [2.0]]))
    found = estimate(log, pi, values=values, seed=0, estimators=("dm",), n_resamples=100)
    assert found["dm"].value == pytest.approx([3.0])
    with pytest.raises(
        InvalidConfigError, match=r"the log has no propensities, and all estimators but dm weigh by them"
    ):
        estimate(log, pi, values=values, seed=0, estimators=("dm", "wis"), n_resamples=100)
    with pytest.raises(InvalidConfigError, match=r"the log has no propensities"):
        diagnose(log, pi)
    with pytest.raises(UnknownNameError, match=r"unknown estimator 'dn'"):
        estimate(log, pi, values=values, seed=0, estimators=("dn",))


def test_a_policy_must_not_reach_masked_models():
    masks = np.array([[True, True], [True, False]])
    check_probabilities(np.array([[0.5, 0.5], [1.0, 0.0]]), masks)
    with pytest.raises(InvalidConfigError, match=r"turn 1: probabilities .* reach masked models"):
        check_probabilities(np.full((2, 2), 0.5), masks)
