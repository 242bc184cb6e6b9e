import contextlib
import dataclasses
import random
import resource
import time

import pytest

from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo
from mtrouter_rl.datasets.store import Dataset, DatasetWriter, load_hidden
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.records import TracedEpisode


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip_keeps_every_field(folder, info, episodes):
    dataset = Dataset.load(folder)
    assert dataset.info == info
    assert dataset.episodes == episodes
    assert dataset.n_turns == 11
    assert [episode.seed for episode in dataset.completed] == [1, 2, 3, 6]


def test_hidden_is_stored_apart(folder, traced):
    assert load_hidden(str(folder)) == {
        trace.episode.episode_id: trace.hidden for trace in traced if trace.episode.turns
    }
    for path in folder.glob("hidden-*"):
        path.unlink()
    assert Dataset.load(folder).n_turns == 11
    with pytest.raises(DatasetError, match=r"hidden-00000\.parquet is missing"):
        load_hidden(folder)


def test_same_content_same_bytes(folder, tmp_path, info, traced):
    writer = DatasetWriter(tmp_path / "again", info)
    writer.write_shard(1, traced[4:])
    writer.write_shard(0, traced[:4])
    assert contents(writer.folder) == contents(folder)


def test_empty_shard(tmp_path, info):
    DatasetWriter(tmp_path, info).write_shard(0, [])
    assert Dataset.load(tmp_path).episodes == ()


def test_order_is_by_shard_number(tmp_path, info, traced):
    writer = DatasetWriter(tmp_path, info)
    writer.write_shard(100_000, traced[:1])
    writer.write_shard(2, traced[1:2])
    assert [episode.seed for episode in Dataset.load(tmp_path).episodes] == [2, 1]


def test_filter_reports_what_it_leaves_out(folder):
    kept, report = Dataset.load(folder).filter(lambda episode: episode.task == "melt", "not the task melt")
    assert [episode.seed for episode in kept.episodes] == [3]
    assert str(report) == "left out 5 of 6 episodes: not the task melt"


def test_resume_continues(folder, info, make_episode):
    before = contents(folder)
    writer = DatasetWriter(folder, info)
    assert writer.finished_shards() == {0, 1}
    with pytest.raises(DatasetError, match="already written"):
        writer.write_shard(1, [])
    writer.write_shard(2, [TracedEpisode(episode=make_episode(9, 4))])
    assert contents(folder).items() >= before.items()
    assert Dataset.load(folder).episodes[-1] == make_episode(9, 4)


@pytest.mark.parametrize(
    "left",
    [
        ["turns-00001.parquet.tmp"],
        ["turns-00001.parquet"],
        ["turns-00001.parquet", "hidden-00001.parquet", "episodes-00001.parquet.tmp"],
    ],
)
def test_killed_in_the_middle_of_a_shard(folder, info, traced, left, caplog):
    complete = contents(folder)
    for name in complete:
        if "00001" in name:
            (folder / name).unlink()
    for name in left:
        (folder / name).write_bytes(complete[name.removesuffix(".tmp")][:50])
    (folder / "notes.tmp").write_text("not ours")
    assert len(Dataset.load(folder).episodes) == 4
    assert ("unfinished" in caplog.text) == any(not name.endswith(".tmp") for name in left)
    writer = DatasetWriter(folder, info)
    assert writer.finished_shards() == {0}
    assert not any("00001" in path.name for path in folder.iterdir())
    writer.write_shard(1, traced[4:])
    (folder / "notes.tmp").unlink()
    assert contents(folder) == complete


def test_another_dataset_is_not_overwritten(folder, info):
    before = contents(folder)
    other = DatasetInfo.model_validate(info.model_dump() | {"seed": 4, "behavior_policy": "greedy"})
    with pytest.raises(DatasetError, match=r"behavior_policy, seed\n.*uniform.*\n.*3 in the folder, 4 now\n.*--out"):
        DatasetWriter(folder, other)
    assert contents(folder) == before
    (folder / "notes.md").write_text("mine")
    assert DatasetWriter(folder, other, overwrite=True).finished_shards() == set()
    assert sorted(contents(folder)) == [INFO_FILE, "notes.md"]


def test_shards_of_unknown_origin_are_not_adopted(folder, info):
    (folder / INFO_FILE).unlink()
    with pytest.raises(DatasetError, match=r"holds shards but no info\.json"):
        DatasetWriter(folder, info)


def test_folder_is_a_file(tmp_path, info):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file cannot be written: .*then start the same"):
        DatasetWriter(tmp_path / "file", info)


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 500 bytes: writing fails half-way, as on a full disk.

    Only around the call itself, since the limit holds for the file that the test run is logged to as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_what_is_there(tmp_path, info, traced):
    writer = DatasetWriter(tmp_path, info)
    writer.write_shard(0, traced[:4])
    before = contents(tmp_path)
    message = r"episodes-00001\.parquet cannot be written: .*free disk space"
    with pytest.raises(DatasetError, match=message), full_disk():
        writer.write_shard(1, traced[4:])
    assert contents(tmp_path) == before


def test_full_disk_at_the_start(tmp_path, info):
    with pytest.raises(DatasetError, match="free disk space"), full_disk():
        DatasetWriter(tmp_path, info)
    assert contents(tmp_path) == {}


def test_rename_fails(tmp_path, info, traced):
    writer = DatasetWriter(tmp_path, info)
    (tmp_path / "hidden-00000.parquet").mkdir()
    with pytest.raises(DatasetError, match="cannot be written"):
        writer.write_shard(0, traced)
    assert writer.finished_shards() == set()
    assert not list(tmp_path.glob("*.tmp"))


def with_last(episode, **changes):
    last = dataclasses.replace(episode.turns[-1], **changes)
    return dataclasses.replace(episode, turns=(*episode.turns[:-1], last))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": 0.0}, r"turns-00000\.parquet, episode 'boil-v0-s1', turn 2: propensity is 0\.0"),
        ({"propensity": None}, r"turns-00000\.parquet, episode 'boil-v0-s1', turn 2: propensity is None, must be in"),
        ({"latency_s": None}, r"episode 'boil-v0-s1', turn 2: latency_s is None, must be finite and >= 0"),
        ({"action_text": "\ud800"}, r"column 'action_text' cannot be written as string.*lone surrogates"),
        ({"latency_s": "fast"}, r"column 'latency_s' cannot be written as double"),
    ],
)
def test_a_broken_log_is_not_written(tmp_path, info, make_episode, change, message):
    writer = DatasetWriter(tmp_path, info)
    with pytest.raises(DatasetError, match=message):
        writer.write_shard(0, [TracedEpisode(episode=with_last(make_episode(1, 3), **change))])
    assert sorted(contents(tmp_path)) == [INFO_FILE]


def test_a_broken_episode_is_not_written(tmp_path, info, make_episode):
    writer = DatasetWriter(tmp_path, info)
    message = r"episode 'boil-v0-s1': usage_source is 'guessed', must be one of logged, reconstructed"
    with pytest.raises(DatasetError, match=message):
        writer.write_shard(0, [TracedEpisode(episode=make_episode(1, 3, usage_source="guessed"))])
    assert sorted(contents(tmp_path)) == [INFO_FILE]


@pytest.mark.parametrize(
    ("origin", "propensities", "is_taken"),
    [
        ("imported", "unknown", True),
        ("imported", "exact", False),
        ("imported", "estimated", False),
        ("collected", "unknown", False),
    ],
)
def test_only_an_imported_log_of_unknown_propensities_may_lack_both(
    tmp_path, info, make_episode, origin, propensities, is_taken
):
    says = {"origin": origin, "propensities": propensities, "assumptions": ("Written by hand.",)}
    imported = DatasetInfo.model_validate(info.model_dump() | says)
    episode = with_last(
        make_episode(1, 3, usage_source="reconstructed", extra={"run": "a", "n": [1, None], "ü": {"x": 0.5}}),
        propensity=None,
        latency_s=None,
    )
    writer = DatasetWriter(tmp_path, imported)
    if is_taken:
        writer.write_shard(0, [TracedEpisode(episode=episode)])
        assert Dataset.load(tmp_path).episodes == (episode,)
    else:
        with pytest.raises(DatasetError, match=r"turn 2: (propensity|latency_s) is None"):
            writer.write_shard(0, [TracedEpisode(episode=episode)])


def test_writer_checks_ids_hidden_and_index(tmp_path, info, make_episode):
    writer, trace = DatasetWriter(tmp_path, info), TracedEpisode(episode=make_episode(1, 3))
    with pytest.raises(DatasetError, match="must be unique"):
        writer.write_shard(0, [trace, trace])
    with pytest.raises(DatasetError, match="number of hidden entries is 1, must be 0 or the number of turns, 3"):
        writer.write_shard(0, [dataclasses.replace(trace, hidden=({},))])
    with pytest.raises(InvalidConfigError, match="shard index is -1"):
        writer.write_shard(-1, [])


def test_size_and_speed(tmp_path, info, make_episode):
    """Episodes of 31 turns: below 5 kB an episode, and a thousand of them load in less than 5 seconds."""
    rng = random.Random(0)
    words = ["door", "kitchen", "stove", "water", "cup", "thermometer", "is", "the", "a", "in", "open", "contains"]
    turn = dataclasses.replace(make_episode(1, 1).turns[0], utility_gain=0.0, terminated=False)
    long = info.model_copy(update={"max_turns": 31})
    writer = DatasetWriter(tmp_path, long)
    for shard in range(2):
        writer.write_shard(shard, [long_episode(make_episode, rng, words, turn, 100 * shard + i) for i in range(100)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200 * 5_000
    start = time.process_time()
    assert Dataset.load(tmp_path).n_turns == 200 * 31
    assert time.process_time() - start < 200 * 5e-3


def long_episode(make_episode, rng, words, turn, seed):
    turns = [
        dataclasses.replace(
            turn,
            action_text=" ".join(rng.choices(words, k=4)),
            observation_text=" ".join(rng.choices(words, k=30)),
            latency_s=rng.random(),
            truncated=i == 30,
        )
        for i in range(31)
    ]
    hidden = tuple({"skill": rng.choice(words), "stuck": False} for _ in turns)
    return TracedEpisode(episode=make_episode(seed, 0, max_turns=31, turns=tuple(turns)), hidden=hidden)
