"""A log on disk gives what the same log in memory gives, to the bit."""

import dataclasses
import shutil

import numpy as np
import pytest

from mtrouter_rl.datasets import streamed
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.transitions import mapped
from mtrouter_rl.transitions.arrays import TrainingLog, Transitions, join_transitions, make_transitions
from mtrouter_rl.transitions.cost_weight_range import FrontierTransitions
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights
from mtrouter_rl.transitions.hold_out import HoldOut, hold_out
from mtrouter_rl.workflows.training import TrainRequest, train_router


@pytest.fixture
def folder(corridor_log, tmp_path):
    """A copy of the log in shards of 20 episodes; features are written beside it."""
    episodes = [TracedEpisode(episode=one) for one in Dataset.load(corridor_log).episodes[:90]]
    info = Dataset.load(corridor_log).info
    write_dataset(tmp_path / "log", info, episodes, episodes_per_shard=20)
    return tmp_path / "log"


@pytest.fixture
def both(folder):
    return Dataset.load(folder), Dataset.load(folder, resident_turns=10)


def features(config):
    return HistoryFeatures(encoder=make_encoder("hashing", None), pool=config.pool)


def lay_out(dataset, config, **options):
    return make_transitions(dataset, features(config), reward=config.reward, gamma=1.0, **options)


def assert_equal(one, other):
    """Every array and every row of two sets of transitions."""
    for name in Transitions.PER_TRANSITION:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.observations.shape == other.observations.shape
    rows = np.arange(one.observations.shape[0])
    np.testing.assert_array_equal(one.observations[rows], other.observations[rows])


@pytest.mark.parametrize(("limit", "n_mapped"), [(1 << 30, 2), (200_000, 1), (0, 0)])
def test_transitions_are_equal_to_the_bit(both, corridor_config, monkeypatch, limit, n_mapped):
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", limit)
    monkeypatch.setattr(mapped, "TURNS_PER_CHUNK", 64)
    resident, disk = (lay_out(one, corridor_config) for one in both)
    assert_equal(resident, disk)
    (files,) = disk.observations._files
    assert [files._texts.mapped_bytes > 0, files._own.mapped_bytes > 0] == [n_mapped > 0, n_mapped > 1]
    for name, array in vars(resident.sample(64, np.random.default_rng(0))).items():
        np.testing.assert_array_equal(array, getattr(disk.sample(64, np.random.default_rng(0)), name), err_msg=name)


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_rows_are_found_as_in_an_array(both, corridor_config, monkeypatch, limit):
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", limit)
    resident, disk = (lay_out(one, corridor_config).observations for one in both)
    n = len(resident)
    flags = np.arange(n) % 7 == 0
    for rows in (np.array([3, 0, 3]), np.array([-1, -n]), flags, slice(2, 9, 3), np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(disk[rows], resident[rows])
    for beyond in ([0, n], [-n - 1]):
        with pytest.raises(IndexError, match=f"rows from .* of {n}"):
            disk[np.array(beyond)]


def test_a_file_that_is_cut_while_it_is_open_is_told(both, corridor_config, monkeypatch):
    monkeypatch.setattr(mapped, "_MAPPED_BYTES", 0)
    disk = both[1]
    observations = lay_out(disk, corridor_config).observations
    (place,) = (disk.episodes.folder / "features").glob("*/")
    with (place / "own.f32").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(
        DatasetError, match=r"own\.f32 ends before rows that features\.json says it has; delete the folder"
    ):
        observations[np.arange(10)]


def test_extra_columns_and_cost_weights_are_equal(both, corridor_config):
    weights = CostWeights()
    made = [
        FrontierTransitions.of(
            lay_out(one, corridor_config, n_extra=N_COLUMNS),
            cost_weights=weights,
            reward=corridor_config.reward,
            gamma=1.0,
        )
        for one in both
    ]
    assert_equal(*made)
    batches = [one.sample(32, np.random.default_rng(1)) for one in made]
    np.testing.assert_array_equal(batches[0].next_observations, batches[1].next_observations)
    np.testing.assert_array_equal(batches[0].rewards, batches[1].rewards)


@pytest.mark.parametrize("n_episodes", [0, 5])
def test_a_model_can_be_held_out(both, corridor_config, n_episodes):
    held_out = HoldOut(model=corridor_config.pool.model_names[1], n_episodes=n_episodes)
    assert_equal(*(hold_out(lay_out(one, corridor_config), held_out, index=1) for one in both))


def test_several_logs_of_which_one_is_on_disk(both, corridor_config):
    resident, disk = both

    def joined(*datasets):
        logs = [
            TrainingLog(dataset=one, reward=corridor_config.reward, features=features(corridor_config))
            for one in datasets
        ]
        return join_transitions(logs, gamma=1.0, log_shares="equal")

    assert_equal(joined(resident, resident), joined(disk, disk))
    assert_equal(joined(resident, resident), joined(resident, disk))


def test_features_are_written_once_and_anew_for_another_log_or_pool(folder, corridor_config):
    def written():
        lay_out(Dataset.load(folder, resident_turns=10), corridor_config)
        return {path.parent.name: path.stat().st_mtime_ns for path in (folder / "features").glob("*/features.json")}

    first = written()
    assert len(first) == 1
    assert written() == first
    for kind in ("episodes", "turns", "hidden"):
        (folder / f"{kind}-00004.parquet").unlink()
    second = written()
    assert len(second) == 2
    assert first.items() <= second.items()
    assert len(Dataset.load(folder).episodes) == 80  # what lies beside the shards is no part of the log


def test_features_without_their_last_file_are_made_anew_and_cut_ones_are_told(folder, corridor_config):
    dataset = Dataset.load(folder, resident_turns=10)
    lay_out(dataset, corridor_config)
    (place,) = (folder / "features").glob("*/")
    (place / "features.json").unlink()
    (place / "own.f32").write_bytes(b"half")
    assert_equal(lay_out(Dataset.load(folder), corridor_config), lay_out(dataset, corridor_config))
    (place / "texts.f32").write_bytes(b"half")
    with pytest.raises(
        DatasetError, match=r"texts\.f32 has 4 bytes, must have \d+, as features.json says; delete the folder"
    ):
        lay_out(dataset, corridor_config)


def test_texts_are_stored_once(both, corridor_config):
    disk = both[1]
    lay_out(disk, corridor_config)
    made = features(corridor_config)
    (place,) = (disk.episodes.folder / "features").glob("*/")
    n_distinct = len(set(made.texts_of(disk.completed)))
    assert (place / "texts.f32").stat().st_size == 4 * 384 * (n_distinct + 1)
    assert n_distinct < sum(1 for _ in made.texts_of(disk.completed)) / 2


def test_nothing_to_learn_is_told(both, corridor_config):
    empty = dataclasses.replace(
        both[1], episodes=StreamedEpisodes(lambda index: [], both[1].episodes.sizes, files=both[1].episodes._files)
    )
    with pytest.raises(InvalidConfigError, match="has no completed episode with a turn"):
        lay_out(empty, corridor_config)


@pytest.mark.parametrize(
    "agent",
    ["fitted-q", "fitted-q-frontier", "behavior-cloning", "monte-carlo-q", "factored-q", "factored-q-recurrent"],
)
def test_routers_are_equal_to_the_bit(agent, folder, corridor_config, tiny_agent, tmp_path, monkeypatch):
    def weights(name):
        request = TrainRequest(
            agent=tiny_agent(agent),
            config=corridor_config,
            seed=0,
            out=tmp_path / name,
            dataset=folder,
            encoder="hashing",
        )
        return {
            path.name: path.read_bytes() for path in train_router(request, show_progress=False).glob("*.safetensors")
        }

    resident = weights("resident")
    monkeypatch.setattr(streamed, "RESIDENT_TURNS", 10)
    assert resident
    assert weights("disk") == resident
    assert (folder / "features").is_dir()
    shutil.rmtree(folder / "features")
