import numpy as np
import pytest

from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import export_dataset, restore_dataset
from mtrouter_rl.exporters.minari import ASIDE_FILE
from mtrouter_rl.records import TracedEpisode

minari = pytest.importorskip("minari")
REWARD = {"cost_weight": 0.5, "cost_unit_usd": 0.01}


@pytest.fixture
def export(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "export"))
    export_dataset("minari", folder, tmp_path / "export", {"encoder": "hashing", **REWARD})
    return tmp_path / "export"


@pytest.fixture
def loaded(export):
    return minari.load_dataset("toy-v1")


@pytest.fixture
def kept(episodes):
    """Those that Minari has a place for."""
    return [episode for episode in episodes if episode.turns and episode.status == "completed"]


def test_minari_finds_it_and_counts_it(export, loaded, kept):
    assert list(minari.list_local_datasets()) == ["toy-v1"]
    assert loaded.total_episodes == len(kept) == 3
    assert loaded.total_steps == 9
    assert loaded.action_space.n == 2


def test_every_row_is_in_its_space(loaded, kept):
    for data, episode in zip(loaded, kept, strict=True):
        n_rows = len(episode.turns) + 1
        for row in range(n_rows):
            assert {name: values[row] for name, values in data.observations.items()} in loaded.observation_space
        assert {len(values) for values in (*data.observations.values(), *data.infos.values())} == {n_rows}
        assert all(action in loaded.action_space for action in data.actions)


def test_steps_hold_what_the_turns_say(loaded, kept, pool):
    features = HistoryFeatures(encoder=make_hashing(), pool=pool)
    for data, episode in zip(loaded, kept, strict=True):
        turns = episode.turns
        assert data.observations["observation_text"] == [
            episode.first_observation,
            *(turn.observation_text for turn in turns),
        ]
        assert data.observations["action_text"] == ["", *(turn.action_text for turn in turns)]
        assert data.observations["action_mask"].tolist() == [*(list(turn.action_mask) for turn in turns), [0, 0]]
        np.testing.assert_array_equal(data.observations["features"], features.of_episode(episode))
        assert data.actions.tolist() == [pool.index(turn.model) for turn in turns]
        expected = [turn.utility_gain - 0.5 * turn.cost_usd / 0.01 for turn in turns]
        np.testing.assert_allclose(data.rewards, expected, rtol=1e-12)
        assert data.terminations.tolist() == [turn.terminated for turn in turns]
        assert data.truncations.tolist() == [turn.truncated for turn in turns]
        assert data.infos["propensity"][1:].tolist() == [turn.propensity for turn in turns]
        assert data.infos["cost_usd"][1:].tolist() == [turn.cost_usd for turn in turns]


def test_description_says_what_action_and_reward_are(loaded):
    text = loaded.storage.metadata["description"]
    assert "index into ['cheap', 'strong']" in text
    assert "utility gain - 0.5 * cost in USD / 0.01" in text
    assert "Simulated models: yes" in text


def test_features_and_rewards_change_nothing_of_what_is_restored(export, folder, tmp_path):
    for path in (export, export / "toy-v1", export / "toy-v1" / "data"):
        restore_dataset("minari", path, tmp_path / "back", overwrite=True)
        assert Dataset.load(tmp_path / "back") == Dataset.load(folder)


def test_dataset_without_any_episode_for_minari_is_restored(tmp_path, info, make_episode):
    failed = make_episode(4, 0, status="failed", status_detail="backend")
    write_dataset(tmp_path / "log", info, [TracedEpisode(episode=failed)], keeps_info=True)
    export_dataset("minari", tmp_path / "log", tmp_path / "export")
    restore_dataset("minari", tmp_path / "export", tmp_path / "back")
    assert Dataset.load(tmp_path / "back") == Dataset.load(tmp_path / "log")


def remove_aside(export):
    (export / "toy-v1" / "data" / ASIDE_FILE).unlink()


def remove_data(export):
    (export / "toy-v1" / "data" / "main_data.hdf5").unlink()


def cut_data(export):
    path = export / "toy-v1" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:1000])


def cut_aside(export):
    path = export / "toy-v1" / "data" / ASIDE_FILE
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")


def break_metadata(export):
    (export / "toy-v1" / "data" / "metadata.json").write_text("{")


def change_cost(export):
    import h5py

    with h5py.File(export / "toy-v1" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/infos/cost_usd"][1] = 7.0


def remove_costs(export):
    import h5py

    with h5py.File(export / "toy-v1" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/infos/cost_usd"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_aside, r"export holds 0 Minari datasets with a file mtrouter_rl.jsonl, must hold one"),
        (remove_data, r"toy-v1.data is not a readable Minari dataset: ValueError: No data found"),
        (cut_data, r"toy-v1.data is not a readable Minari dataset: OSError"),
        (cut_aside, r"holds 5 episodes \(2 of them in mtrouter_rl.jsonl\), must hold 6"),
        (break_metadata, r"is not a readable Minari dataset: JSONDecodeError"),
        (change_cost, r"episode 'boil-v0-s1', turn 0: cost_usd is 7.0"),
        (remove_costs, r"is not a readable Minari dataset: KeyError: 'cost_usd'"),
    ],
)
def test_broken_export_is_an_error(spoil, message, export, tmp_path):
    spoil(export)
    with pytest.raises(DatasetError, match=message):
        restore_dataset("minari", export, tmp_path / "back")
    assert not (tmp_path / "back").exists()
