"""Episodes that are read shard by shard are those of memory, and what goes through them says the same."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets import store, streamed
from mtrouter_rl.datasets.check_dataset import check_dataset
from mtrouter_rl.datasets.leaks import find_leaks
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.datasets.summary import summarize
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


@pytest.fixture
def folder(corridor_log, tmp_path):
    """90 episodes in shards of 20."""
    log = Dataset.load(corridor_log)
    write_dataset(
        tmp_path / "log", log.info, (TracedEpisode(episode=one) for one in log.episodes[:90]), episodes_per_shard=20
    )
    return tmp_path / "log"


@pytest.fixture
def both(folder):
    return Dataset.load(folder), Dataset.load(folder, resident_turns=10)


def test_episodes_are_those_in_memory(both):
    resident, disk = both
    assert isinstance(disk.episodes, StreamedEpisodes)
    assert tuple(disk.episodes) == resident.episodes
    assert tuple(disk.completed) == resident.completed
    assert disk.n_turns == resident.n_turns
    assert len(disk.episodes) == len(resident.episodes)
    assert [disk.episodes[i] for i in (0, 19, 20, 89, -1)] == [resident.episodes[i] for i in (0, 19, 20, 89, -1)]
    assert disk.episodes[18:45:3] == resident.episodes[18:45:3]
    with pytest.raises(IndexError, match="episode 90 is asked for, and there are 90"):
        disk.episodes[90]


def test_a_log_is_held_in_memory_up_to_the_limit(folder, monkeypatch):
    n_turns = Dataset.load(folder).n_turns
    for limit, is_streamed in ((n_turns, False), (n_turns - 1, True)):
        monkeypatch.setattr(streamed, "RESIDENT_TURNS", limit)
        assert isinstance(Dataset.load(folder).episodes, StreamedEpisodes) == is_streamed


def test_going_through_reads_every_shard_once(both, monkeypatch):
    disk, read = both[1].episodes, []
    original = disk._read
    monkeypatch.setattr(disk, "_read", lambda index: read.append(index) or original(index))
    assert sum(len(episode.turns) for episode in disk) == disk.n_turns
    assert read == list(range(5))
    assert disk._last == (-1, [])  # nothing is kept


def test_episodes_without_a_turn_and_failed_ones_are_left_out_and_counted():
    from tests.cases.routing_toy import make_episode, make_turn

    def episode(**changes):
        return type(one)(**{**vars(one), **changes})

    one = make_episode([make_turn(0, state=0, next_state=1, gain=0.0, cost=0.1, terminated=True)])
    shard = [one, episode(episode_id="b", turns=()), episode(episode_id="c", status="failed", status_detail="x")]
    size = streamed.ShardSize.of(0, shard)
    episodes = StreamedEpisodes(lambda index: shard, [size], files=[])
    kinds = [episodes, episodes.completed(), episodes.completed(with_turns=True)]
    assert [len(kind) for kind in kinds] == [3, 2, 1]
    assert [[each.episode_id for each in kind] for kind in kinds] == [["toy-0", "b", "c"], ["toy-0", "b"], ["toy-0"]]
    assert episodes.n_turns == 2


def test_a_shard_that_broke_meanwhile_is_told(both, folder):
    (folder / "turns-00002.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match=r"turns-00002\.parquet is not a readable Parquet file"):
        list(both[1].episodes)


def test_a_value_that_was_changed_meanwhile_is_told(both, folder):
    path = folder / "turns-00002.parquet"
    table = pq.read_table(path)
    wrong = pa.array([-1.0] * len(table), pa.float64())
    place = table.schema.get_field_index("cost_usd")
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), path)
    with pytest.raises(DatasetError, match=r"(?s)which was sound a moment ago.*cost_usd"):
        list(both[1].episodes)


def test_only_a_shard_that_was_written_to_is_checked_again(both, folder, monkeypatch):
    resident, disk = both
    checked = []
    monkeypatch.setattr(store, "check_episodes", lambda episodes, *, files, **_: checked.append(files.turns))
    path = folder / "turns-00001.parquet"
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time as before
    assert tuple(disk.episodes) == resident.episodes
    assert checked == ["turns-00001.parquet"]


def test_summary_and_leaks_say_the_same(both):
    resident, disk = both
    assert summarize(disk) == summarize(resident)
    assert find_leaks(disk, disk) == find_leaks(resident, resident) != []


def test_validation_says_the_same(folder, monkeypatch):
    resident = check_dataset(folder)
    monkeypatch.setattr(streamed, "RESIDENT_TURNS", 10)
    assert check_dataset(folder) == resident
