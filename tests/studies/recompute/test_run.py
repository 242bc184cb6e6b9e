"""Numbers of files again from their episodes: equal, changed, or said to be out of reach."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation import result_rows
from mtrouter_rl.evaluation.kept_episodes import EPISODES_FILE, KeptEpisodes
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.recompute.run import RecomputeRequest, episodes_beside, recompute, report
from mtrouter_rl.workflows import EvaluateRequest, evaluate_routers

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"


def one(*files, **rest):
    (found,) = recompute(RecomputeRequest(files=files, **rest))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of an evaluation in two commands, one of which adds to the other."""
    out = tmp_path_factory.mktemp("finished")
    routers = ("random", "cheapest", "single:small", "single:middle", "sticky:0.5")
    first = EvaluateRequest(routers=routers, split="test", n_seeds=2, out=out, per_task=4)
    with RolloutPool(resolve_env("corridor"), n_workers=1) as pool:
        evaluate_routers(pool, first, show_progress=False)
        evaluate_routers(pool, replace(first, routers=("single:large",), n_seeds=1), show_progress=False)
    return out


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_an_evaluation_is_equal_to_its_own_episodes(run):
    found = one(run / "results.json")
    assert (found.verdict, found.changes, found.left_out) == ("equal to the last digit", (), ())
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert found.n_numbers > 20 * len(rows)
    assert found.episodes == run / EPISODES_FILE
    shutil.rmtree(run / "episodes")
    assert one(run / "results.json") == found


def test_whole_episodes_of_the_run_do_as_well(run):
    """Policies that call one single model share episodes there, in the file each has its own lines."""
    of_file = one(run / "results.json")
    written = (run / EPISODES_FILE).read_bytes()
    (run / EPISODES_FILE).unlink()
    found = one(run / "results.json", keep=run / "kept.gz")
    assert found == replace(of_file, episodes=run)
    assert (run / "kept.gz").read_bytes() == written


@pytest.mark.parametrize(
    ("name", "shift"), [("score_mean", 1e-7), ("return_mean", -1e-6), ("cost_usd_total", 0.001), ("turns_mean", 1.0)]
)
def test_a_number_that_was_touched_is_named(run, name, shift):
    path = run / "results.json"
    data = json.loads(path.read_text())
    data["rows"][2][name] += shift
    if name == "score_mean":
        data["rows"][2]["utility_mean"] += shift / 100
    path.write_text(json.dumps(data))
    found = one(path)
    assert found.verdict == "differs"
    label = f"{data['rows'][2]['policy']} on test"
    (change,) = (change for change in found.changes if change.where == f"{label}: {name}")
    assert change.difference == pytest.approx(-shift)
    assert f"{label}: {name}: {data['rows'][2][name]} in the file" in report(found)


def test_other_episodes_are_noticed(run):
    kept = KeptEpisodes.load(run / EPISODES_FILE)
    first = kept.groups["test", "random"][0]
    metrics = replace(first.metrics, n_switches=first.metrics.n_switches + 1)
    groups = {**kept.groups, ("test", "random"): (replace(first, metrics=metrics), *kept.groups["test", "random"][1:])}
    replace(kept, groups=groups).save(run / EPISODES_FILE)
    found = one(run / "results.json")
    assert [change.where for change in found.changes] == ["random on test: switches_mean"]


def test_episodes_of_another_cost_weight_are_refused(run):
    path = run / "results.json"
    data = json.loads(path.read_text())
    data["cost_weight"] += 1.0
    path.write_text(json.dumps(data))
    with pytest.raises(
        ResultsError, match=r"return is .*, at cost weight 1.5 .* it would be .*; give the episodes of this"
    ):
        one(path)


def test_rounding_counts_as_equal_and_is_said(run):
    path = run / "results.json"
    data = json.loads(path.read_text())
    ends = data["rows"][0]["return_ci95"]
    data["rows"][0]["return_ci95"] = [ends[0] * (1 + 1e-13), ends[1]]
    path.write_text(json.dumps(data))
    found = one(path)
    assert (found.verdict, found.is_equal) == ("equal but for rounding", True)
    assert "1 numbers differ by rounding alone" in report(found)


def test_what_has_no_episodes_is_left_out_and_said(run):
    kept = KeptEpisodes.load(run / EPISODES_FILE)
    kept.only(group for group in kept.groups if group[1] != "random").save(run / EPISODES_FILE)
    found = one(run / "results.json")
    assert found.is_equal
    assert found.left_out == ("random on test: its episodes are not kept",)


def test_intervals_of_another_engine_are_renewed_and_nothing_else(run, monkeypatch, capsys):
    path = run / "results.json"
    own = path.read_bytes()
    monkeypatch.setattr(result_rows, "N_RESAMPLES", 200)
    other = 200
    monkeypatch.setattr(
        "mtrouter_rl.evaluation.recompute_results.Comparison",
        lambda **fields: result_rows.Comparison(**fields, n_resamples=other),
    )
    assert main(["lab", "recompute", str(path)]) == 1
    assert "not the numbers that the episodes give" in capsys.readouterr().err
    assert path.read_bytes() == own
    assert main(["lab", "recompute", str(path), "--write"]) == 0
    assert f"written anew: {path}" in capsys.readouterr().out
    renewed, before = json.loads(path.read_text()), json.loads(own)
    assert renewed != before
    for row, was in zip(renewed["rows"], before["rows"], strict=True):
        assert {name for name in row if row[name] != was[name]} <= {"score_ci95", "cost_usd_ci95", "return_ci95"}
    assert one(path).verdict == "equal to the last digit"


def test_a_file_with_another_mean_is_not_written(run):
    path = run / "results.json"
    data = json.loads(path.read_text())
    data["rows"][0]["turns_mean"] += 1.0
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    with pytest.raises(
        ResultsError, match=r"1 numbers differ that are no intervals, such as random on test: turns_mean"
    ):
        one(path, is_written=True)
    assert path.read_bytes() == before


def test_the_study_that_ships_is_that_of_its_episodes():
    found = one(RESULTS / "quick-results.json")
    assert found.is_equal, report(found)
    assert found.left_out == ()
    assert found.n_numbers > 4000
    assert not [change for change in found.changes if not change.is_of_interval]


def test_three_trainings_that_ship_are_those_of_their_episodes():
    found = one(RESULTS / "factored-trainings.json")
    assert found.is_equal, report(found)
    assert found.left_out == ()


def test_numbers_that_no_episode_tells_are_said_to_be_so():
    found = one(RESULTS / "real-logs-results.json", episodes=RESULTS / "quick-episodes.csv.gz")
    assert (found.verdict, found.is_equal, found.n_numbers) == ("cannot be recomputed", False, 0)
    assert "estimated from a log" in report(found)


def test_json_has_every_change(run, capsys):
    assert main(["lab", "recompute", str(run / "results.json"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["changes"]) == ("equal to the last digit", [])


def test_files_that_cannot_be_looked_at(run, tmp_path):
    with pytest.raises(ResultsError, match=r"no such file; name a results.json or"):
        one(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"it is none of results.json, ablations.json"):
        one(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ResultsError, match="is not valid JSON"):
        one(tmp_path / "broken.json")
    alone = shutil.copy(run / "results.json", tmp_path / "my-results.json")
    with pytest.raises(ResultsError, match=r"neither my-episodes.csv.gz nor a folder 'episodes' is beside it"):
        one(Path(alone))
    with pytest.raises(ResultsError, match=r"--episodes: .* does not exist"):
        one(run / "results.json", episodes=tmp_path / "none")
    with pytest.raises(ResultsError, match="has no episodes; name another folder"):
        one(run / "results.json", episodes=tmp_path)
    assert episodes_beside(Path("full-headroom-none.json")).name == "full-headroom-episodes.csv.gz"
