import dataclasses
import json
import re
from pathlib import Path

import pytest

from mtrouter_rl.datasets.columns import EPISODE_SCHEMA
from mtrouter_rl.datasets.store import DatasetWriter
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import export_dataset, restore_dataset
from mtrouter_rl.exporters.jsonl import EpisodeLine, HeaderLine, TurnFields, UsageFields
from mtrouter_rl.records import Episode, TokenUsage, TracedEpisode, Turn

PAGE = Path(__file__).parents[2] / "docs" / "export-datasets.md"


@pytest.fixture
def export(folder, tmp_path):
    export_dataset("jsonl", folder, tmp_path / "log.jsonl")
    return tmp_path / "log.jsonl"


def names_of(record):
    return {field.name for field in dataclasses.fields(record)}


def test_lines_hold_every_field_of_a_record():
    assert set(EpisodeLine.model_fields) == names_of(Episode) | {"hidden"}
    assert set(EpisodeLine.model_fields) - {"hidden", "turns"} == set(EPISODE_SCHEMA.names)
    assert set(TurnFields.model_fields) == names_of(Turn)
    assert set(UsageFields.model_fields) == names_of(TokenUsage)


@pytest.mark.parametrize("kind", [HeaderLine, EpisodeLine, TurnFields, UsageFields])
def test_every_field_is_documented(kind):
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert set(kind.model_fields) <= documented


def test_first_line_is_the_info_and_each_other_an_episode(export, info, episodes):
    lines = [json.loads(line) for line in export.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"format": "mtrouter-rl-dataset", "n_episodes": 6, "info": json.loads(info.to_json())}
    assert [line["episode_id"] for line in lines[1:]] == [episode.episode_id for episode in episodes]
    assert lines[1]["turns"][1]["usage"] == {"n_fresh": 107, "n_cached": 31, "n_written": 3, "n_output": 12}
    assert lines[1]["hidden"][0] == {"stuck": True, "skill": "öffnen"}
    assert "hidden" not in lines[4]  # an episode without turns


def test_equal_datasets_give_equal_bytes(export, folder, tmp_path):
    export_dataset("jsonl", folder, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == export.read_bytes()


def test_value_that_json_does_not_know_is_not_written(tmp_path, info, make_episode):
    writer = DatasetWriter(tmp_path / "log", info)
    hidden = ({"progress": float("nan")},)
    writer.write_shard(0, [TracedEpisode(episode=make_episode(1, 1), hidden=hidden)])
    with pytest.raises(
        DatasetError, match=r"episode 'boil-v0-s1' holds a value that JSON cannot carry: Out of range float"
    ):
        export_dataset("jsonl", tmp_path / "log", tmp_path / "log.jsonl")
    assert not (tmp_path / "log.jsonl").exists()


def with_line(n, change):
    """Edit of the file that changes the JSON value of line `n`, from 1."""

    def edit(data):
        lines = data.splitlines(keepends=True)
        value = json.loads(lines[n - 1])
        change(value)
        lines[n - 1] = json.dumps(value).encode() + b"\n"
        return b"".join(lines)

    return edit


def in_turn(change):
    return with_line(2, lambda episode: change(episode["turns"][1]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: b"", r"log.jsonl, line 1 is not what has to be there:\n.*Invalid JSON"),
        (lambda data: data[: len(data) // 2], r"log.jsonl, line \d is cut off, it has no line end"),
        (lambda data: data[:-1], r"log.jsonl, line 7 is cut off"),
        (lambda data: b"".join(data.splitlines(keepends=True)[:-1]), r"log.jsonl has 5 episodes, must have 6"),
        (lambda data: data.split(b"\n", 1)[1], r"log.jsonl, line 1 is not what has to be there:\n.*'format'"),
        (lambda data: b"\x80\xff" + data, r"log.jsonl, line 1 is not what"),
        (lambda data: data + b"\n", r"log.jsonl, line 8 is not what has to be there"),
        (with_line(1, lambda head: head.update(more=1)), r"line 1 is not.*\n.*'more' is 1: Extra inputs"),
        (with_line(1, lambda head: head["info"].pop("models")), r"line 1 breaks its rules:\n.*'models'"),
        (with_line(1, lambda head: head["info"].update(schema_version=9)), r"schema_version is 9"),
        (with_line(3, lambda episode: episode.update(mood=1)), r"line 3 is not.*\n.*'mood' is 1: Extra inputs"),
        (with_line(3, lambda episode: episode.pop("extra")), r"line 3 is not.*\n.*'extra': Field required"),
        (with_line(3, lambda episode: episode.update(variation="1")), r"line 3 is not.*\n.*'variation' is '1'"),
        (with_line(3, lambda episode: episode.update(extra={"x": float("nan")})), r"line 3 is not.*\n.*'extra'"),
        (in_turn(lambda turn: turn.update(propensity=float("nan"))), r"line 2 is not.*\n.*'turns.1.propensity' is nan"),
        (in_turn(lambda turn: turn["usage"].update(n_output=1.5)), r"line 2 is not.*\n.*'turns.1.usage.n_output' is"),
        (in_turn(lambda turn: turn.update(cost_usd=None)), r"line 2 is not.*\n.*'turns.1.cost_usd' is None"),
        (in_turn(lambda turn: turn.update(cost_usd=1.0)), r"episode 'boil-v0-s1', turn 1: cost_usd is 1.0, must be"),
        (in_turn(lambda turn: turn.update(propensity=None)), r"turn 1: propensity is None, must be in \(0, 1\]"),
        (lambda data: data.replace(b"\n", b"\n{\n", 1), r"line 2 is not what has to be there:\n.*Invalid JSON"),
        (
            lambda data: b"".join([*(lines := data.splitlines(keepends=True))[:-1], lines[1]]),
            r"episode 'boil-v0-s1' appears twice",
        ),
    ],
)
def test_broken_file_is_an_error_that_names_the_line(edit, message, export, tmp_path):
    export.write_bytes(edit(export.read_bytes()))
    with pytest.raises(DatasetError, match=message):
        restore_dataset("jsonl", export, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"no.jsonl cannot be read: .*; give the file that an export wrote"):
        restore_dataset("jsonl", tmp_path / "no.jsonl", tmp_path / "back")
