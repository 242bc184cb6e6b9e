import json

import pytest

from mtrouter_rl.datasets.importers import run_scores
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.mtrouter import MTRouterImporter, MTRouterOptions


def run(model, *, instance="x__y-1"):
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    answer = {"role": "assistant", "content": model, "extra": {"response": {"model": model, "usage": usage}}}
    info = {"exit_status": "Submitted", "config": {"model": {"model_name": model}}}
    messages = [{"role": "user", "content": "Fix."}, answer]
    return {"info": info, "messages": messages, "trajectory_format": "mini-swe-agent-1", "instance_id": instance}


def report(*, resolved=(), unresolved=()):
    return {"total_instances": 1, "resolved_ids": list(resolved), "unresolved_ids": list(unresolved)}


def instance_report(resolved, *, instance="x__y-1"):
    return {instance: {"patch_is_None": False, "resolved": resolved, "tests_status": {}}}


@pytest.fixture
def scores_of(tmp_path, pool):
    """Utility by model of an import of files in a folder; paths are given relative to it."""

    def read(files, *paths):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        given = tuple(tmp_path / name for name in paths) or (tmp_path,)
        source = ImportSource(paths=given, pool=pool, report=ImportReport(format="mtrouter"))
        episodes = list(MTRouterImporter(MTRouterOptions()).episodes(source))
        return {episode.models[0]: episode.utility for episode in episodes}, source.report.to_json()

    return read


TWO = {"a/x.traj.json": run("cheap"), "b/x.traj.json": run("strong")}
BOTH = {"cheap": 0.0, "strong": 1.0}
PLACED = {
    "by the name of the model": {
        "cheap.run1.json": report(unresolved=["x__y-1"]),
        "strong.run1.json": report(resolved=["x__y-1"]),
    },
    "by the folder of the runs": {
        "a/report.json": report(unresolved=["x__y-1"]),
        "b/report.json": report(resolved=["x__y-1"]),
    },
    "one for each instance": {
        "logs/run_evaluation/r/cheap/x__y-1/report.json": instance_report(False),
        "logs/run_evaluation/r/strong/x__y-1/report.json": instance_report(True),
    },
}


@pytest.mark.parametrize("reports", PLACED.values(), ids=PLACED)
def test_a_report_belongs_to_the_run_of_its_model_or_folder(scores_of, reports):
    assert scores_of(TWO | reports)[0] == BOTH


def test_reports_that_are_given_by_the_names_of_folders(scores_of):
    runs = {"first/x.traj.json": run("cheap"), "second/x.traj.json": run("strong")}
    one, other = report(unresolved=["x__y-1"]), report(resolved=["x__y-1"])
    files = runs | {"report-first.json": one, "report-second.json": other}
    assert scores_of(files, "first", "second", "report-first.json", "report-second.json")[0] == BOTH


def test_one_report_of_nobody_in_particular_is_for_every_run(scores_of):
    assert scores_of(TWO | {"report.json": report(resolved=["x__y-1"])})[0] == {"cheap": 1.0, "strong": 1.0}


def test_a_report_about_another_model_is_not_taken(scores_of):
    scores, told = scores_of(TWO | {"cheap.r.json": report(resolved=["x__y-1"])})
    assert scores == {"cheap": 1.0}
    (example,) = told["rejected"]["score that is missing or out of range"]["examples"]
    assert "cheap.r.json has it and names another model" in example["detail"]


def test_two_reports_that_disagree_are_an_error(scores_of):
    one, other = report(resolved=["x__y-1"]), report(unresolved=["x__y-1"])
    scores, told = scores_of(TWO | {"r1.json": one, "r2.json": other})
    assert scores == {}
    details = [example["detail"] for example in told["rejected"]["score that is missing or out of range"]["examples"]]
    assert "two reports disagree about 'x__y-1' of model 'cheap': r1.json says 1, r2.json says 0" in details[0]
    assert scores_of({"r2.json": one})[0] == {"cheap": 1.0, "strong": 1.0}


def test_a_report_that_contradicts_itself_is_not_believed(scores_of):
    both = report(resolved=["x__y-1"], unresolved=["x__y-1"])
    scores, told = scores_of(TWO | {"r.json": both})
    assert scores == {}
    assert "is resolved and not resolved" in told["notes"][run_scores.OTHER_FILE]["examples"][0]["detail"]


TABLES = {
    "CSV": ("t.csv", "model,instance_id,resolved,cost_usd\ncheap,x__y-1,0,.1\nstrong,x__y-1,1,.2\nother,x__y-1,1,.2\n"),
    "JSON Lines": (
        "t.jsonl",
        '{"id": "x__y-1", "model": "cheap", "score": 0}\n{"id": "x__y-1", "model": "strong", "score": true}\n',
    ),
}


@pytest.mark.parametrize(("name", "text"), TABLES.values(), ids=TABLES)
def test_a_table_with_a_column_for_the_model(scores_of, name, text):
    scores, told = scores_of(TWO | {name: text}, "a", "b", name)
    assert scores == BOTH
    if name == "t.csv":
        assert "'other'" in told["notes"][run_scores.OTHER_MODEL]["examples"][0]["detail"]


def test_rows_that_cannot_be_used_are_noted_with_their_line(scores_of):
    text = "instance_id,resolved\nx__y-1,1\nz,7\n,1\n"
    scores, told = scores_of(TWO | {"t.csv": text}, "a", "b", "t.csv")
    assert scores == {"cheap": 1.0, "strong": 1.0}
    assert [one["source"] for one in told["notes"][run_scores.BAD_ROW]["examples"]] == ["t.csv:3", "t.csv:4"]


def test_other_json_beside_the_runs_is_noted(scores_of):
    files = TWO | {"r.json": report(resolved=["x__y-1"]), "preds.json": {"x__y-1": {"model_patch": "diff"}}}
    scores, told = scores_of(files)
    assert scores == {"cheap": 1.0, "strong": 1.0}
    assert told["notes"][run_scores.OTHER_FILE]["examples"][0]["source"] == "preds.json"
