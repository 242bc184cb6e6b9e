import json
import tarfile
from collections import Counter

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers import llmrouterbench, query_table
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.studies.query_tables.table import OneTurnTable

CARD = load_pool_card("corridor-three")
POOL = PoolCard.model_validate(
    CARD.model_dump()
    | {
        "name": "two",
        "models": [
            CARD.models[0].model_dump() | {"name": "small", "aliases": ("Small-7B",)},
            CARD.models[2].model_dump() | {"name": "large", "aliases": ()},
        ],
    }
)


def record(index, /, **changes):
    """A record as the benchmark's writer leaves it."""
    fields = {
        "index": index,
        "origin_query": f"{index} + {index}?",
        "prompt": f"Question: {index} + {index}?\nAnswer:",
        "prompt_tokens": 15,
        "completion_tokens": 5,
        "cost": 0.0001,
        "score": 1.0,
        "prediction": "4",
        "ground_truth": "4",
        "raw_output": "It is 4.",
        "extra_fields": {},
    }
    return fields | changes


def run(records, *, dataset="sums", split="test", model="Small-7B", **changes):
    names = {"model_name": model, "dataset_name": dataset, "split": split}
    totals = {"performance": 0.5, "time_taken": 3.0, "prompt_tokens": 30, "completion_tokens": 10, "cost": 0.0002}
    return totals | {"counts": 2} | names | {"demo": False, "extra_metrics": {}, "records": records} | changes


def write(root, data, *, dataset="sums", split="test", model="Small-7B", time="20260105_120000", name=None):
    folder = root / "bench" / dataset / split / model
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{dataset}-{split}-{model}-{time}.json")
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def write_suite(root):
    """Two models on two questions of one data set."""
    write(root, run([record(1, score=0.0), record(2)]))
    write(root, run([record(1), record(2, score=0.25)], model="large"), model="large")


def load(path, out, **options):
    request = ImportRequest(format="llmrouterbench", paths=(path,), pool=POOL, out=out, options=options)
    report = import_log(request, show_progress=False)
    return Dataset.load(out), report.to_json()


def reasons(findings):
    return {reason: finding["n"] for reason, finding in findings.items()}


def test_a_suite(tmp_path):
    write_suite(tmp_path)
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert (report["n_files"], report["n_episodes"], report["rejected"]) == (2, 4, {})
    first = next(episode for episode in dataset.episodes if episode.episode_id == "sums/test/1/small")
    assert (first.task, first.variation, first.task_text) == ("sums/test", 1, "Question: 1 + 1?\nAnswer:")
    assert (first.turns[0].usage.n_fresh, first.turns[0].usage.n_output) == (15, 5)
    assert (first.turns[0].action_text, first.utility, first.usage_source) == ("It is 4.", 0.0, "logged")
    assert first.extra == {"query_id": "1", "logged_cost_usd": 0.0001, "dataset": "sums", "split": "test"}
    assert dataset.info.propensities == "exact"
    assert dataset.info.assumptions
    details = [example["source"] for example in report["notes"][query_table.COST_NOTE]["examples"]]
    assert details == ["small", "large"]
    table = OneTurnTable.of(dataset)
    assert dict(zip(table.queries, table.scores.tolist(), strict=True)) == {
        ("sums/test", 1): [0.0, 1.0],
        ("sums/test", 2): [1.0, 0.25],
    }


def test_an_archive_gives_the_same(tmp_path):
    write_suite(tmp_path)
    with tarfile.open(tmp_path / "bench-release.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bench", "results/bench")
    from_folder, _ = load(tmp_path / "bench", tmp_path / "one")
    from_archive, _ = load(tmp_path / "bench-release.tar.gz", tmp_path / "two")

    def key(episode):
        return episode.episode_id

    assert sorted(from_archive.episodes, key=key) == sorted(from_folder.episodes, key=key)


def test_the_question_without_its_frame(tmp_path):
    write_suite(tmp_path)
    dataset, _ = load(tmp_path / "bench", tmp_path / "out", text="origin_query")
    assert {episode.task_text for episode in dataset.episodes} == {"1 + 1?", "2 + 2?"}
    with pytest.raises(InvalidConfigError, match="option 'text'"):
        load(tmp_path / "bench", tmp_path / "out", text="both")


def test_splits_number_different_questions_alike(tmp_path):
    write(tmp_path, run([record(1)]))
    write(tmp_path, run([record(1, prompt="another")], split="dev"), split="dev")
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert {episode.task for episode in dataset.episodes} == {"sums/test", "sums/dev"}
    assert report["rejected"] == {}


def test_the_latest_run_that_is_no_demo_counts(tmp_path):
    write(tmp_path, run([record(1, score=0.25)]), time="20260105_120000")
    write(tmp_path, run([record(1, score=0.75)]), time="20260106_090000")
    write(tmp_path, run([record(1, score=0.5)]), name="result.json")
    write(tmp_path, run([record(1, score=1.0)], demo=True), time="20260107_090000")
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert [episode.utility for episode in dataset.episodes] == [0.75]
    assert reasons(report["passed_over"]) == {llmrouterbench.OLDER: 2, llmrouterbench.DEMO: 1}
    assert (report["n_rejected"], report["read"]["n_calls"], report["left_out"]["n_calls"]) == (0, 1, 3)


def test_files_of_several_models_in_one_folder_are_no_runs_of_the_same(tmp_path):
    (tmp_path / "flat").mkdir()
    for model in ("Small-7B", "large"):
        (tmp_path / "flat" / f"sums-{model}.json").write_text(json.dumps(run([record(1)], model=model)))
    dataset, report = load(tmp_path / "flat", tmp_path / "out")
    assert (len(dataset.episodes), report["rejected"]) == (2, {})


def test_names_from_the_folders(tmp_path):
    data = run([record(1)])
    for name in ("model_name", "dataset_name", "split"):
        del data[name]
    write(tmp_path, data)
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert dataset.episodes[0].episode_id == "sums/test/1/small"
    assert reasons(report["notes"])[llmrouterbench.FOLDER_NOTE] == 1


@pytest.mark.parametrize(
    ("changes", "text", "note"),
    [
        ({"raw_output": None}, "4", llmrouterbench.PREDICTION_NOTE),
        ({"raw_output": None, "prediction": None}, "", llmrouterbench.PREDICTION_NOTE),
        ({"raw_output": ["a", "b"]}, '["a", "b"]', llmrouterbench.RESPONSE_NOTE),
        ({"raw_output": ""}, "", None),
    ],
)
def test_responses(tmp_path, changes, text, note):
    write(tmp_path, run([record(1, **changes)]))
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert dataset.episodes[0].turns[0].action_text == text
    assert set(report["notes"]) - {query_table.COST_NOTE} == ({note} if note else set())


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"score": None}, query_table.BAD_SCORE, "score is None"),
        ({"score": float("nan")}, query_table.BAD_SCORE, "score is nan"),
        ({"score": 85.0}, query_table.BAD_SCORE, "score is 85.0"),
        ({"prompt_tokens": None}, query_table.BAD_COUNT, "prompt_tokens is None"),
        ({"prompt_tokens": 0}, query_table.BAD_COUNT, "prompt_tokens is 0"),
        ({"completion_tokens": -3}, query_table.BAD_COUNT, "completion_tokens is -3"),
        ({"cost": -0.1}, query_table.BAD_COST, "cost is -0.1"),
        ({"prompt": ""}, query_table.BAD_TEXT, "prompt is ''"),
        ({"index": None}, llmrouterbench.NOT_A_RECORD, "index is None"),
        ({"index": True}, llmrouterbench.NOT_A_RECORD, "index is True"),
        ({"index": 2**70}, "text or number that no file takes", "integer over 64 bits"),
    ],
)
def test_records_that_are_rejected(tmp_path, changes, reason, detail):
    write(tmp_path, run([record(1), record(2, **changes)]))
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert len(dataset.episodes) == 1
    assert reasons(report["rejected"]) == {reason: 1}
    assert detail in report["rejected"][reason]["examples"][0]["detail"]


def test_failed_calls_are_not_zero_scores(tmp_path):
    failed = record(2, score=None, prompt_tokens=0, completion_tokens=0, cost=0.0, raw_output="Processing failed: x")
    write(tmp_path, run([record(1), failed]))
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert [episode.variation for episode in dataset.episodes] == [1]
    assert (report["n_rejected"], report["n_rejected_turns"]) == (1, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"records": [{"index": 1', llmrouterbench.UNREADABLE),
        ("", llmrouterbench.UNREADABLE),
        ("[" * 100_000, llmrouterbench.UNREADABLE),
        ("[]", llmrouterbench.NOT_A_RUN),
        ('{"performance": 1.0}', llmrouterbench.NOT_A_RUN),
        (run([record(1)], model=7), llmrouterbench.NOT_A_RUN),
        (run([record(1)], split=""), llmrouterbench.NOT_A_RUN),
        (run([None]), llmrouterbench.NOT_A_RECORD),
        (run([record(1)], model="huge"), query_table.UNKNOWN_MODEL),
    ],
)
def test_files_that_are_rejected(tmp_path, data, reason):
    write(tmp_path, run([record(1)]), model="large")
    write(tmp_path, data, model="other")
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert len(dataset.episodes) == 1
    assert reasons(report["rejected"]) == {reason: 1}


def test_answers_that_are_there_twice(tmp_path):
    write(tmp_path, run([record(1), record(1)]))
    _, report = load(tmp_path / "bench", tmp_path / "out")
    assert reasons(report["rejected"]) == {"episode that is there twice": 1}


def test_another_question_under_the_same_index(tmp_path):
    write(tmp_path, run([record(1)]))
    write(tmp_path, run([record(1, prompt="changed")], model="large"), model="large")
    dataset, report = load(tmp_path / "bench", tmp_path / "out")
    assert len(dataset.episodes) == 1
    assert reasons(report["rejected"]) == {query_table.OTHER_QUERY: 1}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no JSON file; give the folder results/bench"),
        ({"notes.txt": "x"}, "no JSON file"),
        ({"one.json": json.dumps(run([]))}, "has no episode"),
        ({"one.json": "{"}, "nothing could be imported"),
    ],
)
def test_nothing_at_all(tmp_path, files, message):
    folder = tmp_path / "bench"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        load(folder, tmp_path / "out")


def test_every_answer_is_counted_once(tmp_path):
    write_suite(tmp_path)
    write(tmp_path, run([record(1, score=None), record(2)], model="huge"), model="huge")
    _, report = load(tmp_path / "bench", tmp_path / "out")
    n = Counter(reasons(report["rejected"]))
    assert (report["n_episodes"], n.total()) == (4, 2)
