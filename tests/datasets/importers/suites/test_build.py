import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from mtrouter_rl.datasets.importers.suites.build import ASSUMED_RATE, EVERYTHING, SuiteRequest, build_suite
from mtrouter_rl.errors import DatasetError, InvalidConfigError

ROWS = [
    ("a-1", "quick", "0", "0.25", "2"),
    ("a-1", "deep", "1", "1.00", "3"),
    ("b-2", "quick", "1", "0.50", "1"),
    ("b-2", "deep", "1", "2.00", "4"),
]
HEADER = ("task", "model", "score", "cost", "turns")


def table(path, rows=ROWS, header=HEADER, order=(0, 1, 2, 3, 4), delimiter=","):
    lines = [header, *rows]
    path.write_text("".join(delimiter.join(line[i] for i in order) + "\n" for line in lines), encoding="utf-8")
    return path


def build(*paths, **settings):
    return build_suite(SuiteRequest(outcomes=paths[0], others=tuple(paths[1:]), **settings))


def as_rows(suite):
    return {
        (task.id, model): (suite.scores[n, m], suite.costs_usd[n, m], suite.n_turns[n, m])
        for n, task in enumerate(suite.tasks)
        for m, model in enumerate(suite.models)
    }


EXPECTED = {(task, model): (float(score), float(cost), int(turns)) for task, model, score, cost, turns in ROWS}


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: table(folder / "t.csv"),
        lambda folder: table(folder / "t.csv", order=(4, 2, 0, 3, 1)),
        lambda folder: table(folder / "t.csv", delimiter=";"),
        lambda folder: table(folder / "t.tsv", delimiter="\t"),
        lambda folder: table(
            folder / "t.csv",
            header=("Instance_ID", "Model", "Resolved", "cost_usd", "api_calls"),
            order=(1, 0, 2, 4, 3),
        ),
        lambda folder: table(
            folder / "t.csv", rows=[(*row[:2], {"0": "False", "1": "true"}[row[2]], *row[3:]) for row in ROWS]
        ),
        lambda folder: zipped(table(folder / "t.csv")),
        lambda folder: jsonl(folder / "t.jsonl"),
        lambda folder: leaderboard(folder / "l.json"),
        lambda folder: details_folder(folder / "runs"),
        lambda folder: report_folder(folder / "runs"),
    ],
    ids=["csv", "order", "semicolons", "tsv", "names", "truth", "gzip", "jsonl", "leaderboard", "details", "reports"],
)
def test_every_form_gives_the_same_runs(make, tmp_path):
    suite = build(make(tmp_path))
    assert as_rows(suite) == EXPECTED
    assert [(task.group, task.order) for task in sorted(suite.tasks, key=lambda task: task.id)] == [
        ("a", 1.0),
        ("b", 2.0),
    ]


def zipped(path):
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def jsonl(path):
    rows = [{"task": t, "model": m, "score": int(s), "cost": float(c), "turns": int(n)} for t, m, s, c, n in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def details(model):
    return {t: {"resolved": s == "1", "cost": float(c), "api_calls": int(n)} for t, m, s, c, n in ROWS if m == model}


def leaderboard(path, names=("bash-only",)):
    results = [{"name": model, "per_instance_details": details(model)} for model in ("quick", "deep")]
    boards = [{"name": name, "results": [*results, {"name": "no details"}]} for name in names]
    path.write_text(json.dumps({"leaderboards": [{"name": "other", "results": []}, *boards]}), encoding="utf-8")
    return path


def details_folder(path):
    for model in ("quick", "deep"):
        (path / model).mkdir(parents=True)
        (path / model / "per_instance_details.json").write_text(json.dumps(details(model)), encoding="utf-8")
    return path


def trajectory(task, costs, *, model="vendor/quick", codes=None, total=None):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    for turn, cost in enumerate(costs):
        usage = {"prompt_tokens": 1} if cost is None else {"cost": cost}
        code = (codes or [0] * len(costs))[turn]
        messages += [
            {"role": "assistant", "content": f"do {turn}", "extra": {"response": {"usage": usage}}},
            {"role": "user", "content": f"<returncode>{code}</returncode>"},
        ]
    known = sum(cost for cost in costs if cost is not None)
    stats = {"instance_cost": known if total is None else total, "api_calls": len(costs)}
    info = {"model_stats": stats, "config": {"model": {"model_name": model}}}
    return {"info": info, "messages": messages, "instance_id": task}


def report_folder(path):
    for model in ("quick", "deep"):
        runs = path / model / "runs"
        runs.mkdir(parents=True)
        for task, one, _, cost, turns in ROWS:
            if one == model:
                run = trajectory(task, [float(cost) / int(turns)] * int(turns), total=float(cost))
                (runs / f"{task}.traj.json").write_text(json.dumps(run), encoding="utf-8")
        report = {
            "resolved_ids": [t for t, m, s, *_ in ROWS if m == model and s == "1"],
            "unresolved_ids": [t for t, m, s, *_ in ROWS if m == model and s == "0"],
        }
        (path / model / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return path


def test_texts_groups_and_times_are_joined_by_task(tmp_path):
    rows = [
        {"instance_id": "b-2", "repo": "r", "problem_statement": "Mend b.", "created_at": "2024-05-01"},
        {"instance_id": "a-1", "repo": "r", "problem_statement": "Mend a.", "created_at": "2025-01-01"},
        {"instance_id": "c-3", "repo": "r", "problem_statement": "Nobody ran c.", "created_at": "2025-01-02"},
    ]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = build(table(tmp_path / "t.csv"), tasks)
    told = {task.id: (task.group, task.text) for task in suite.tasks}
    assert told == {"a-1": ("r", "Mend a."), "b-2": ("r", "Mend b.")}
    orders = {task.id: task.order for task in suite.tasks}
    assert orders["b-2"] < orders["a-1"]
    assert "1 tasks of tasks.jsonl have no outcome and are left out." in suite.head.notes


def test_what_is_not_given_is_said(tmp_path):
    rows = [(row[0].replace("-", "").replace("1", "x").replace("2", "y"), *row[1:4]) for row in ROWS]
    suite = build(table(tmp_path / "t.csv", rows=rows, header=HEADER[:4], order=(0, 1, 2, 3)))
    assert (suite.n_turns == 1).all()
    assert {(task.group, task.order) for task in suite.tasks} == {(EVERYTHING, None)}
    assert (suite.head.layout.rate, suite.head.layout_source) == (ASSUMED_RATE, "assumed")
    told = " ".join(suite.head.notes)
    for words in (
        "no column of turns",
        "Groups are not given and cannot",
        "Times are not given and cannot",
        "texts are not known",
    ):
        assert words in told


def test_columns_that_are_not_read_are_named(tmp_path):
    rows = [(*row, "x") for row in ROWS]
    suite = build(table(tmp_path / "t.csv", rows=rows, header=(*HEADER, "comment"), order=range(6)))
    assert "t.csv: column(s) comment were not read." in suite.head.notes


def archive(path, runs):
    with tarfile.open(path, "w:xz") as tar:
        for run in runs:
            data = json.dumps(run).encode()
            member = tarfile.TarInfo(f"trajs/{run['instance_id']}.traj.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_trajectories_are_joined_by_task_calls_and_bill(tmp_path):
    runs = [
        trajectory("a-1", [0.05, 0.20], codes=[0, 1]),
        trajectory("b-2", [None], total=0.5),
        trajectory("z-9", [1.0]),
    ]
    suite = build(table(tmp_path / "t.csv"), archive(tmp_path / "runs.tar.xz", runs))
    a = [task.id for task in suite.tasks].index("a-1")
    quick = suite.models.index("quick")
    assert list(suite.turns) == [(a, quick)]  # b-2 has a call without a cost, so its total is laid out
    assert suite.turn_costs(a, quick).tolist() == [0.05, 0.20]
    assert [(turn.action, turn.error) for turn in suite.turns[a, quick]] == [("do 0", ""), ("do 1", "command_failed")]
    assert suite.head.layout_source == "fitted"
    assert suite.head.layout.rate == pytest.approx(3.0, rel=0.05)
    told = next(note for note in suite.head.notes if "vendor/quick" in note)
    assert "are those of 'quick': 1 runs are known turn by turn, 1 do not agree" in told
    assert "1 are of other tasks" in told


def changed(place, column, value):
    rows = [list(row) for row in ROWS]
    rows[place][column] = value
    return lambda folder: table(folder / "t.csv", rows=rows)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (
            changed(1, 2, "1.5"),
            {},
            r"t\.csv, row 3, column 'score': is '1\.5', must be a number from 0 to 1; give --max-score",
        ),
        (changed(1, 2, "yes!"), {}, r"row 3, column 'score': is 'yes!'"),
        (changed(2, 3, "-1"), {}, r"row 4, column 'cost': is '-1', must be a number at least 0"),
        (changed(2, 3, ""), {}, r"row 4, column 'cost': is '', must be"),
        (changed(2, 3, "nan"), {}, r"column 'cost': is 'nan'"),
        (changed(0, 4, "0"), {}, r"row 2, column 'turns': is '0', must be a number from 1"),
        (changed(0, 4, "1.5"), {}, r"row 2, column 'turns': is 1.5, must be a whole number"),
        (changed(0, 0, " "), {}, r"row 2, column 'task': is empty"),
        (changed(3, 1, "quick"), {}, r"row 5: task 'b-2' was run by 'quick' before, in .*row 4"),
        (
            lambda folder: table(folder / "t.csv", rows=ROWS[:3]),
            {},
            r"task 'b-2' has no run of 'deep' .first of 1 missing",
        ),
        (lambda folder: table(folder / "t.csv", rows=[]), {}, "has no row"),
        (
            lambda folder: table(folder / "t.csv", header=("task", "arm", "points", "cost", "turns")),
            {},
            r"none for 'score', which may be called .*--column score=NAME",
        ),
        (lambda folder: table(folder / "t.csv"), {"columns": {"score": "skore"}}, "no column 'skore' for 'score'"),
        (lambda folder: folder / "t.csv", {}, "no such file"),
        (lambda folder: leaderboard(folder / "l.json", names=("x", "y")), {}, "are .'x', 'y'., must be one"),
        (lambda folder: plain(folder / "l.json", "{}"), {}, "a JSON file without 'leaderboards'"),
        (lambda folder: plain(folder / "t.csv", "task,model,score,cost\na,b,1\n"), {}, "row 2: has fewer values"),
        (lambda folder: plain(folder / "t.csv", "task,model,score,cost\na,b,1,1,1\n"), {}, "row 2: has more values"),
        (lambda folder: plain(folder / "t.jsonl", "{}\nnothing\n"), {}, "none for 'task'|line 2: is no JSON"),
        (lambda folder: folder, {}, "holds no folder of a model"),
    ],
)
def test_broken_tables_are_named_with_row_column_and_fix(make, settings, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        build(make(tmp_path), **settings)


def plain(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_holes_are_left_out_on_request_and_told(tmp_path):
    path = table(tmp_path / "t.csv", rows=ROWS[:3])
    by_task, by_model = build(path, incomplete="tasks"), build(path, incomplete="models")
    assert ([task.id for task in by_task.tasks], by_task.models) == (["a-1"], ("quick", "deep"))
    assert (by_model.n_tasks, by_model.models) == (2, ("quick",))
    assert any("0 tasks and 1 models are left out (deep)" in note for note in by_model.head.notes)


def test_scores_are_divided_by_their_maximum(tmp_path):
    rows = [(*row[:2], str(50 * int(row[2])), *row[3:]) for row in ROWS]
    assert as_rows(build(table(tmp_path / "t.csv", rows=rows), max_score=50)) == EXPECTED
    with pytest.raises(InvalidConfigError, match="max_score is 0"):
        SuiteRequest(outcomes=tmp_path, max_score=0)


@pytest.mark.parametrize("run", [trajectory("a-1", [0.3, 0.3]), trajectory("z-9", [0.05, 0.2])])
def test_trajectories_of_nobody_are_left_out_and_told(run, tmp_path):
    suite = build(table(tmp_path / "t.csv"), archive(tmp_path / "runs.tar.xz", [run]))
    assert (suite.turns, suite.head.layout_source) == ({}, "assumed")
    assert any(
        "'vendor/quick' are LEFT OUT: of 1" in note and "of no model of the table" in note for note in suite.head.notes
    )


def test_two_trajectories_of_a_run_are_refused(tmp_path):
    runs = [trajectory("a-1", [0.05, 0.2])] * 2
    with pytest.raises(DatasetError, match="has two trajectories"):
        build(table(tmp_path / "t.csv"), archive(tmp_path / "runs.tar.xz", runs))


def test_a_path_without_trajectories_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no file that ends in \.traj\.json"):
        build(table(tmp_path / "t.csv"), tmp_path / "empty")


def test_a_text_of_every_task_is_needed(tmp_path):
    tasks = plain(tmp_path / "tasks.csv", "id,text\na-1,Mend a.\n")
    with pytest.raises(DatasetError, match="has no row of task 'b-2'"):
        build(table(tmp_path / "t.csv"), tasks)


def test_costs_without_tokens_are_exact(tmp_path):
    suite = build(table(tmp_path / "t.csv"))
    assert suite.turn_costs(0, 0).sum() == pytest.approx(0.25, abs=1e-12)
    assert np.diff(suite.turn_costs(0, suite.models.index("deep"))).min() > 0
