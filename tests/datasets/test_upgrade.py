"""Datasets of older schema versions, made as those versions made them, are read, upgraded, and never written to."""

import json

import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets.info import INFO_FILE, read_info, stored_version
from mtrouter_rl.datasets.rewrite import upgrade_dataset
from mtrouter_rl.datasets.store import Dataset, DatasetWriter, load_hidden
from mtrouter_rl.datasets.upgrade import upgrade_info
from mtrouter_rl.errors import DatasetError

NEW_FIELDS = ("origin", "propensities", "assumptions")
NEW_COLUMNS = ["usage_source", "extra"]
NEW_IN_3 = ("variant_of", "handover")


def drop_columns(folder, pattern, names):
    for file in folder.glob(pattern):
        pq.write_table(pq.ParquetFile(file).read().drop_columns(names), file)


@pytest.fixture(params=[1, 2])
def version(request):
    return request.param


@pytest.fixture
def old(folder, version):
    """The toy dataset as an older version would have written it."""
    path = folder / INFO_FILE
    data = json.loads(path.read_text())
    for model in data["models"]:
        for name in NEW_IN_3:
            del model[name]
    drop_columns(folder, "turns-*.parquet", ["router_cost_usd"])
    if version == 1:
        for name in NEW_FIELDS:
            del data[name]
        for model in data["models"]:
            del model["aliases"]
        drop_columns(folder, "episodes-*.parquet", NEW_COLUMNS)
    path.write_text(json.dumps(data | {"schema_version": version}))
    return folder


def test_it_is_read_as_what_it_was(old, info, episodes, version):
    assert stored_version(old) == version
    dataset = Dataset.load(old)
    assert dataset.info == info
    assert (dataset.info.origin, dataset.info.propensities, dataset.info.assumptions) == ("collected", "exact", ())
    assert dataset.episodes == episodes
    assert {(episode.usage_source, *episode.extra) for episode in dataset.episodes} == {("logged",)}


def test_upgrade_keeps_every_value(old, info, episodes, traced, tmp_path):
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    assert upgrade_dataset(old, tmp_path / "new") == info
    assert stored_version(tmp_path / "new") == 3
    assert Dataset.load(tmp_path / "new") == Dataset(info=info, episodes=episodes)
    assert load_hidden(tmp_path / "new") == {one.episode.episode_id: one.hidden for one in traced if one.hidden}
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_upgraded_bytes_are_those_of_a_new_collection(old, info, traced, tmp_path):
    upgrade_dataset(old, tmp_path / "new")
    writer = DatasetWriter(tmp_path / "collected", info)
    writer.write_shard(0, traced[:4])
    writer.write_shard(1, traced[4:])
    new, collected = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("new", "collected")
    )
    assert new == collected


def test_an_unfinished_collection_goes_on_after_the_upgrade(old, info, traced, tmp_path):
    for kind in ("episodes", "turns", "hidden"):
        (old / f"{kind}-00000.parquet").unlink()
    upgrade_dataset(old, tmp_path / "new")
    writer = DatasetWriter(tmp_path / "new", info)
    assert writer.finished_shards() == {1}
    writer.write_shard(0, traced[:4])
    assert Dataset.load(tmp_path / "new").episodes == tuple(trace.episode for trace in traced)


def test_nothing_is_added_to_an_old_folder(old, info, version):
    with pytest.raises(
        DatasetError, match=rf"of schema version {version}, which is read but not written; upgrade it first"
    ):
        DatasetWriter(old, info)


def test_a_present_version_is_written_anew_as_it_is(folder, info, episodes, tmp_path):
    assert upgrade_dataset(folder, tmp_path / "new") == info
    assert Dataset.load(tmp_path / "new").episodes == episodes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "minilm"}, r"field 'encoder'.*Extra inputs"),
        ({"seed": "3"}, "field 'seed' is '3'"),
        ({"origin": "bought"}, "field 'origin' is 'bought'"),
    ],
)
def test_an_old_info_is_checked_as_strictly(old, change, message):
    path = old / INFO_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetError, match=message):
        read_info(old)


def test_broken_old_episodes_are_not_upgraded(old, tmp_path):
    file = old / "episodes-00000.parquet"
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["task"]), file)
    with pytest.raises(DatasetError, match="column 'task' is missing"):
        upgrade_dataset(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*partial"))


def test_what_a_new_version_says_is_not_overwritten():
    assert upgrade_info({"schema_version": 1, "origin": "imported"})["origin"] == "imported"
