import numpy as np
import pytest

from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import SCALAR_NAMES, HistoryFeatures
from mtrouter_rl.embeddings.history_inputs import HISTORY_INPUTS, hidden_columns, input_columns
from mtrouter_rl.envs.factory import resolve_env


@pytest.fixture(scope="module")
def features():
    return HistoryFeatures(encoder=make_hashing(), pool=resolve_env("corridor").pool)


def columns(ranges):
    return [column for start, stop in ranges for column in range(start, stop)]


def test_every_column_is_of_exactly_one_part(features):
    parts = input_columns(features)
    assert tuple(parts) == HISTORY_INPUTS
    assert sorted(column for ranges in parts.values() for column in columns(ranges)) == list(range(features.dim))


def test_parts_hold_what_their_names_say(features):
    parts = {name: columns(ranges) for name, ranges in input_columns(features).items()}
    start = features.blocks["scalars"].start
    of = {name: [SCALAR_NAMES[c - start] for c in parts[name] if 0 <= c - start < 17] for name in HISTORY_INPUTS}
    assert of["progress"] == list(SCALAR_NAMES[:5])
    assert set(features.budget_columns) < set(parts["progress"])
    assert of["last_turn"] == ["last_turn_error", "last_model_is_warm"]
    assert len(of["trends"]) == 10
    n_features = features.model_features.shape[1]
    memory = features.blocks["model_memory"]
    assert parts["model_memory"] == list(range(memory.start + n_features, memory.stop))
    assert parts["last_observation"] == list(range(features.dim))[features.blocks["last_observation"]]


def test_hidden_columns_are_those_of_the_parts_that_are_not_shown(features):
    assert hidden_columns(features, HISTORY_INPUTS) == ()
    assert hidden_columns(features, []) == ((0, features.dim),)
    (task,) = input_columns(features)["task"]
    shown = np.ones(features.dim, dtype=bool)
    shown[columns(hidden_columns(features, ["task"]))] = False
    assert np.flatnonzero(shown).tolist() == list(range(*task))
