import dataclasses
from pathlib import Path

import pytest

from mtrouter_rl.datasets.info import DatasetInfo, read_info
from mtrouter_rl.datasets.rewrite import MIXED_POLICY, traced_episodes, upgrade_dataset, write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(folder, info, traced, tmp_path):
    written = write_dataset(tmp_path / "new", info, traced_episodes(folder), keeps_info=True)
    assert written == read_info(tmp_path / "new") == info
    loaded = [(trace.episode, trace.hidden) for trace in traced_episodes(tmp_path / "new")]
    assert loaded == [(trace.episode, trace.hidden) for trace in traced]


def test_what_follows_from_the_episodes_is_filled_in(info, make_episode, tmp_path):
    wrong = DatasetInfo.model_validate(
        info.model_dump() | {"n_episodes_planned": 99, "max_turns": 1, "budget_usd": 9.0}
    )
    episodes = (make_episode(1, 3, max_turns=7), make_episode(2, 2, behavior_policy="greedy", budget_usd=2.5))
    written = write_dataset(tmp_path / "new", wrong, (TracedEpisode(episode=one) for one in episodes))
    assert (written.n_episodes_planned, written.max_turns, written.budget_usd) == (2, 7, 2.5)
    assert written.behavior_policy == MIXED_POLICY
    assert Dataset.load(tmp_path / "new") == Dataset(info=written, episodes=episodes)


def test_shards_have_their_size(info, make_episode, tmp_path):
    episodes = [TracedEpisode(episode=make_episode(seed, 1)) for seed in range(5)]
    write_dataset(tmp_path / "new", info, episodes, episodes_per_shard=2)
    assert len(list((tmp_path / "new").glob("episodes-*.parquet"))) == 3
    assert [episode.seed for episode in Dataset.load(tmp_path / "new").episodes] == [0, 1, 2, 3, 4]


def broken(episode):
    return dataclasses.replace(episode, turns=(dataclasses.replace(episode.turns[0], cost_usd=0.0), *episode.turns[1:]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda make: [], "has no episode, so there is nothing to write"),
        (
            lambda make: [make(1, 3), make(2, 1), make(1, 2)],
            "episode 'boil-v0-s1' appears twice; give every episode an id",
        ),
        (lambda make: [make(1, 3), broken(make(2, 3))], r"episode 'boil-v0-s2', turn 0: cost_usd is 0\.0"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_written_leaves_everything_as_it_was(folder, info, make_episode, make, message, overwrite):
    out = folder if overwrite else folder.with_name("new")
    before = contents(folder)
    episodes = (TracedEpisode(episode=one) for one in make(make_episode))
    with pytest.raises(DatasetError, match=message):
        write_dataset(out, info, episodes, overwrite=overwrite, episodes_per_shard=1)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_repeated_id_in_another_shard_is_noticed(info, make_episode, tmp_path):
    twice = [TracedEpisode(episode=make_episode(1, 1))] * 2
    with pytest.raises(DatasetError, match="appears twice"):
        write_dataset(tmp_path / "new", info, twice, episodes_per_shard=1)


def test_a_dataset_is_replaced_only_if_asked_to(folder, info, make_episode):
    trace = TracedEpisode(episode=make_episode(7, 2))
    with pytest.raises(DatasetError, match=r"toy is not empty; give another --out, or --overwrite"):
        write_dataset(folder, info, [trace])
    write_dataset(folder, info, [trace], overwrite=True)
    assert Dataset.load(folder).episodes == (trace.episode,)


def test_a_folder_that_is_no_dataset_is_never_replaced(folder, info, traced, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(DatasetError, match="mine is not empty"):
        write_dataset(tmp_path / "mine", info, traced, overwrite=True)
    with pytest.raises(DatasetError, match="mine is not empty"):
        upgrade_dataset(folder, tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years"}


def test_a_place_that_cannot_be_written_is_named(info, traced, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "new", info, traced)


def write_new(folder, out):
    write_dataset(out, read_info(folder), traced_episodes(folder), keeps_info=True)


@pytest.mark.parametrize("write", [write_new, upgrade_dataset])
def test_the_current_folder_is_filled_and_stays_the_current_one(write, folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(folder, Path())
    assert Path.cwd() == tmp_path / "here"  # fails in a folder that is gone
    assert Dataset.load(Path()) == Dataset.load(tmp_path / "here") == Dataset.load(folder)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "here"}


def test_a_current_folder_that_is_replaced_stays_the_current_one(folder, info, make_episode, monkeypatch):
    monkeypatch.chdir(folder)
    trace = TracedEpisode(episode=make_episode(7, 2))
    write_dataset(Path(), info, [trace], overwrite=True, keeps_info=True)
    assert Dataset.load(Path.cwd()).episodes == (trace.episode,)
    assert len(list(folder.glob("episodes-*.parquet"))) == 1


def test_only_what_a_killed_run_left_is_deleted(folder, tmp_path):
    mine, left = tmp_path / "new.partial", tmp_path / ".new.mtrouter-rl-partial"
    for place in (mine, left):
        place.mkdir()
        (place / "episodes-00007.parquet").write_text("half")
    write_new(folder, tmp_path / "new")
    assert contents(mine) == {"episodes-00007.parquet": b"half"}
    assert not left.exists()
    assert Dataset.load(tmp_path / "new") == Dataset.load(folder)


def test_a_disk_that_fills_while_the_dataset_is_moved_leaves_the_folder_empty(folder, tmp_path, monkeypatch):
    """Where two folders cannot be exchanged in one step, their files are, one by one."""
    moved = []

    def refuse(source, destination):
        moved.append(source)
        if len(moved) == 2:
            raise OSError(28, "No space left on device")
        Path(source).rename(destination)

    (tmp_path / "new").mkdir()
    monkeypatch.setattr("mtrouter_rl.files.writing._exchange", lambda partial, target: False)
    monkeypatch.setattr("mtrouter_rl.files.writing.shutil.move", refuse)
    with pytest.raises(DatasetError, match=r"new cannot be written: .*No space left"):
        write_new(folder, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "new"}
    assert not contents(tmp_path / "new")


def test_what_came_into_the_folder_meanwhile_is_kept(folder, info, traced, tmp_path):
    out = tmp_path / "new"
    out.mkdir()

    def slow():
        yield from traced
        (out / "thesis.tex").write_text("years")

    with pytest.raises(DatasetError, match=r"new cannot be written: .*not empty: .*thesis.tex"):
        write_dataset(out, info, slow())
    assert contents(out) == {"thesis.tex": b"years"}


def test_a_file_is_no_place_for_a_dataset(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match=r"file is a file, and a dataset is a folder; give another --out"):
        write_new(folder, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
