import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets.check_dataset import check_dataset
from mtrouter_rl.datasets.columns import HIDDEN_SCHEMA
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


def test_a_sound_dataset_is_counted(folder):
    report = check_dataset(folder)
    assert (report.n_episodes, report.n_failed, report.n_turns, report.n_hidden) == (6, 2, 11, 4)
    assert str(report).startswith(
        "OK: toy-v1, schema version 2: 6 episodes (2 failed), 11 turns, 4 episodes with hidden"
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
        (lambda rows: rows.pop(), r"in 1 episode\(s\): 'boil-v0-s2' \(4 rows, 5 turns\)"),
        (
            lambda rows: rows[0].update(episode_id="x"),
            r"in 2 episode\(s\): 'x' \(1 rows, no such turns\), 'boil-v0-s1' \(2",
        ),
    ],
)
def test_hidden_rows_that_do_not_fit_the_turns(folder, change, message):
    path = folder / "hidden-00000.parquet"
    rows = [row for row in pq.ParquetFile(path).read().to_pylist() if row["episode_id"] != "melt-v0-s3"]
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=HIDDEN_SCHEMA), path)
    with pytest.raises(DatasetError, match=message):
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
