import dataclasses
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.cli import main
from mtrouter_rl.datasets.check_dataset import check_dataset
from mtrouter_rl.datasets.columns import HIDDEN_SCHEMA
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


def test_a_sound_dataset_is_counted(folder):
    report = check_dataset(folder)
    assert (report.n_episodes, report.n_failed, report.n_turns, report.n_hidden) == (6, 2, 11, 4)
    assert str(report).startswith(
        "OK: toy-v1, schema version 3: 6 episodes (2 failed), 11 turns, 4 episodes with hidden"
    )
    assert report.notes == ()


def test_an_unfinished_collection_is_noted(folder):
    (folder / "episodes-00001.parquet").unlink()
    assert "note: 6 episodes are planned; the collection is not finished" in str(check_dataset(folder))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("turns-00001.parquet", "turns-00001.parquet is missing"),
        ("hidden-00001.parquet", "hidden-00001.parquet is missing"),
    ],
)
def test_a_missing_file_is_named(folder, file, message):
    (folder / file).unlink()
    with pytest.raises(DatasetError, match=message):
        check_dataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), r"number of rows is \d+, must be \d+, as episodes-00000.parquet says"),
        (
            lambda rows: rows.append(rows.pop(0)),
            r"hidden-00000.parquet, episode 'boil-v0-s1', turn 1: turn is 1, must be 0: ",
        ),
        (lambda rows: rows[0].update(episode_id="x"), r"episode 'x', turn 0: episode_id is 'x', must be an episode of"),
        (
            lambda rows: rows.insert(1, rows.pop(0)),
            r"episode 'boil-v0-s1', turn 1: turn is 1, must be 0: rows are 0..T-1",
        ),
        (lambda rows: rows[-1].update(turn=7), r"turn 7: turn is 7, must be \d: "),
        (lambda rows: [rows.pop(0) for _ in range(3)], r"number of rows is"),
        (lambda rows: rows[0].update(hidden="[" * 20_000), r"holds text that is not JSON: it is nested deeper"),
        (lambda rows: rows[0].update(hidden='{"a": ' + "9" * 5000 + "}"), r"not JSON: a whole number in it has more"),
    ],
)
def test_hidden_rows_that_do_not_fit_the_turns(folder, change, message, capsys):
    path = folder / "hidden-00000.parquet"
    rows = pq.ParquetFile(path).read().to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=HIDDEN_SCHEMA), path)
    with pytest.raises(DatasetError, match=message):
        check_dataset(folder)
    with pytest.raises(DatasetError, match=message):  # what split and export read
        list(traced_episodes(folder))
    assert [main([command, str(folder)]) for command in ("validate", "inspect")] == [1, 1]
    assert len(re.findall(message, capsys.readouterr().err)) == 2


def test_hidden_rows_of_another_shard_are_named(folder):
    first, second = (folder / f"hidden-0000{index}.parquet" for index in range(2))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(DatasetError, match=r"must be an episode of episodes-00000.parquet"):
        check_dataset(folder)


@pytest.mark.parametrize(
    ("variation", "observation", "message"),
    [(0, "A kitchen.", "same task and variation"), (1, "A kitchen.", "same task text and first observation")],
)
def test_a_leak_into_a_sibling(info, make_episode, tmp_path, variation, observation, message):
    for split, number in (("train", 0), ("test", variation)):
        says = {"split": split, "origin": "imported"}
        episode = make_episode(1, 2, split=split, variation=number, first_observation=observation, episode_id=split)
        draft = DatasetInfo.model_validate(info.model_dump() | says)
        write_dataset(tmp_path / split, draft, [TracedEpisode(episode=episode)])
    with pytest.raises(DatasetError, match=message):
        check_dataset(tmp_path / "train")


def test_a_warning_about_a_sibling(info, make_episode, tmp_path):
    for number, split in enumerate(("train", "test")):
        episode = dataclasses.replace(make_episode(1, 2), split=split, variation=number, episode_id=split)
        draft = DatasetInfo.model_validate(info.model_dump() | {"split": split})
        write_dataset(tmp_path / split, draft, [TracedEpisode(episode=episode)])
    assert "note: 1 text(s) are in a split beside it as well, weak evidence" in str(check_dataset(tmp_path / "test"))
