import json

import d3rlpy
import numpy as np
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import export_dataset
from mtrouter_rl.exporters.d3rlpy import load_d3rlpy
from mtrouter_rl.records import TracedEpisode


@pytest.fixture
def export(folder, tmp_path):
    export_dataset("d3rlpy", folder, tmp_path / "export", {"cost_weight": 0.5, "cost_unit_usd": 0.01})
    return tmp_path / "export"


@pytest.fixture
def kept(episodes):
    return [episode for episode in episodes if episode.turns and episode.status == "completed"]


def transitions_of(buffer):
    return [
        buffer.transition_picker(episode, index)
        for episode in buffer.episodes
        for index in range(episode.transition_count)
    ]


def test_every_turn_is_a_transition(export, kept, pool):
    features = HistoryFeatures(encoder=make_hashing(), pool=pool)
    transitions = iter(transitions_of(load_d3rlpy(export)))
    for episode in kept:
        rows = features.of_episode(episode)
        for index, turn in enumerate(episode.turns):
            transition = next(transitions)
            bits = np.array(turn.action_mask, dtype=np.float32)
            np.testing.assert_array_equal(transition.observation, np.concatenate([rows[index], bits]))
            assert transition.action.tolist() == [pool.index(turn.model)]
            assert transition.reward[0] == pytest.approx(turn.utility_gain - 0.5 * turn.cost_usd / 0.01, abs=1e-6)
            assert transition.terminal == float(turn.terminated)
            if not turn.terminated:
                np.testing.assert_array_equal(transition.next_observation[: features.dim], rows[index + 1])
    assert next(transitions, None) is None


def test_truncation_can_end_the_value(folder, tmp_path):
    export_dataset("d3rlpy", folder, tmp_path / "export", {"bootstrap_after_truncation": False})
    assert [episode.terminated for episode in load_d3rlpy(tmp_path / "export").episodes] == [True, True, True]


def test_propensities_costs_and_masks_lie_beside_it_in_the_same_order(export, kept):
    rows = pq.read_table(export / "transitions.parquet").to_pylist()
    turns = [(episode.episode_id, index, turn) for episode in kept for index, turn in enumerate(episode.turns)]
    assert [(row["episode_id"], row["turn"]) for row in rows] == [turn[:2] for turn in turns]
    for row, (_, _, turn) in zip(rows, turns, strict=True):
        for name in ("propensity", "cost_usd", "utility_gain", "terminated", "truncated"):
            assert row[name] == getattr(turn, name)
        assert tuple(row["action_mask"]) == turn.action_mask
    about = json.loads((export / "about.json").read_text(encoding="utf-8"))
    assert about["n_transitions"] == len(rows) == 9
    assert about["models"] == ["cheap", "strong"]
    assert about["options"]["encoder"] == "hashing"


def test_model_that_was_never_called_is_an_action(info, make_episode, tmp_path):
    episode = make_episode(1, 1)
    assert episode.models == ("cheap",)
    write_dataset(tmp_path / "log", info, [TracedEpisode(episode=episode)])
    export_dataset("d3rlpy", tmp_path / "log", tmp_path / "export")
    assert load_d3rlpy(tmp_path / "export").dataset_info.action_size == 2


def test_d3rlpy_trains_on_it(export, tmp_path):
    buffer = load_d3rlpy(export)
    d3rlpy.seed(0)
    dqn = d3rlpy.algos.DQNConfig(batch_size=8).create(device="cpu")
    dqn.build_with_dataset(buffer)
    before = [parameter.detach().clone() for parameter in dqn.impl.q_function.parameters()]
    history = dqn.fit(
        buffer,
        n_steps=6,
        n_steps_per_epoch=3,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    assert len(history) == 2
    assert all(np.isfinite(metrics["loss"]) for _, metrics in history)
    after = dqn.impl.q_function.parameters()
    assert any(not bool((old == new).all()) for old, new in zip(before, after, strict=True))
    assert dqn.predict(buffer.episodes[0].observations[:1]).shape == (1,)


def test_folder_that_is_no_export_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"is not a readable export: .*; give the folder that 'mtrouter-rl export"):
        load_d3rlpy(tmp_path)
