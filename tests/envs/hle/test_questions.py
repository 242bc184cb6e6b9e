import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.envs.hle.questions import CATEGORIES, TASK_NAMES, Question, read_questions, task_name
from mtrouter_rl.errors import InvalidConfigError


def row(**changes):
    return {
        "id": "q1",
        "question": "What is 6 times 7?",
        "image": "",
        "image_preview": None,
        "answer": "42",
        "answer_type": "exactMatch",
        "author_name": "someone",
        "rationale": "multiply",
        "rationale_image": None,
        "raw_subject": "Arithmetic",
        "category": "Math",
        "canary": "",
    } | changes


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture(params=["questions.parquet", "questions.jsonl"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_categories_become_tasks():
    assert TASK_NAMES == (
        "math",
        "computer-science-ai",
        "physics",
        "biology-medicine",
        "chemistry",
        "engineering",
        "humanities-social-science",
        "other",
    )
    assert [task_name(category) for category in CATEGORIES] == list(TASK_NAMES)


def test_questions_are_sorted_by_id_within_their_category(path):
    rows = [row(id=name, category=category) for name, category in (("c", "Math"), ("a", "Other"), ("b", "Math"))]
    questions = read_questions(write(path, rows))
    assert {task: [one.id for one in chosen] for task, chosen in questions.by_task.items()} == {
        "math": ["b", "c"],
        "other": ["a"],
    }
    assert questions.by_task["other"][0] == Question(
        id="a", text="What is 6 times 7?", answer="42", answer_type="exactMatch", category="Other"
    )


def test_the_order_of_the_rows_does_not_matter_but_the_file_has_another_fingerprint(path):
    rows = [row(id=name) for name in "abc"]
    first = read_questions(write(path, rows))
    second = read_questions(write(path, rows[::-1]))
    assert first.by_task == second.by_task
    assert first.fingerprint != second.fingerprint
    assert len(first.fingerprint) == 64


def test_images_are_left_out_and_counted(path, caplog):
    rows = [row(), row(id="q2", image="data:image/png;base64,AAAA"), row(id="q3", image=None)]
    with caplog.at_level(logging.INFO):
        questions = read_questions(write(path, rows))
    assert [one.id for one in questions.by_task["math"]] == ["q1", "q3"]
    assert questions.n_with_image == 1
    assert "1 question(s) with an image left out, 2 text questions kept" in caplog.text


def test_options_of_a_multiple_choice():
    text = "Which?\n\nAnswer Choices:\nA. red\nB. dark blue \n(C) none of these"
    question = Question(id="x", text=text, answer="B", answer_type="multipleChoice", category="Math")
    assert question.options == {"A": "red", "B": "dark blue", "C": "none of these"}


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        ([row(image="data:...")], "refuse", r"row 1: column 'image' is not empty and settings.images is 'refuse'"),
        ([row(image="data:...")], "skip", r"holds no question without an image"),
        ([row(), row()], "skip", r"row 2: id 'q1' appears more than once"),
        ([row(answer=" ")], "skip", r"row 1: column 'answer' is ' ', must be a text that is not empty"),
        ([row(), row(id="q2", question=None)], "skip", r"row 2: column 'question' is None, must be a text"),
        ([row(answer_type="essay")], "skip", r"row 1: column 'answer_type' is 'essay', must be 'exactMatch' or"),
        ([row(category="Maths")], "skip", r"row 1: column 'category': unknown category 'Maths'; did you mean 'Math'\?"),
        ([{**row(), "score": 1}], "skip", r"column\(s\) missing: none; unknown: score"),
        ([{k: v for k, v in row().items() if k != "answer"}], "skip", r"column\(s\) missing: answer; unknown: none"),
    ],
)
def test_broken_files(path, rows, images, message):
    with pytest.raises(InvalidConfigError, match=message):
        read_questions(write(path, rows), images=images)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, r"no such file; the data set cais/hle is gated, so bring your own copy"),
        ("questions.csv", b"id,question", r"suffix is '.csv', must be .parquet or .jsonl"),
        ("questions.parquet", b"no parquet", r"is no readable Parquet"),
        ("questions.jsonl", b'{"id": \n', r"row 1: no JSON"),
        ("questions.jsonl", b"[1]\n", r"row 1: holds list, must be an object"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidConfigError, match=message):
        read_questions(tmp_path / name)
