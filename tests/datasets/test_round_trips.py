"""Random valid datasets come back unchanged from every format that can be read again."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.exporters.base import export_dataset, restore_dataset
from mtrouter_rl.registry import RESTORERS
from tests.datasets.strategies import datasets

repeatable = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def with_exact_json(dataset, hidden):
    # Python takes 1, 1.0 and True for equal; their JSON is not.
    return dataset, hidden, json.dumps([[episode.extra for episode in dataset.episodes], hidden], sort_keys=True)


def expected_of(dataset):
    info, traced = dataset
    hidden = {trace.episode.episode_id: trace.hidden for trace in traced if trace.hidden}
    return with_exact_json(Dataset(info=info, episodes=tuple(trace.episode for trace in traced)), hidden)


def contents_of(folder):
    return with_exact_json(Dataset.load(folder), load_hidden(folder))


@settings(repeatable, max_examples=40)
@given(dataset=datasets())
def test_dataset_survives_the_parquet_store(dataset):
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(f"{folder}/log", *dataset, keeps_info=True)
        assert contents_of(f"{folder}/log") == expected_of(dataset)


@pytest.mark.parametrize("name", sorted(RESTORERS.builtin))
@settings(repeatable, max_examples=25)
@given(dataset=datasets())
def test_dataset_survives_export_and_restoring(name, dataset):
    if name == "minari":
        pytest.importorskip("minari")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "log", *dataset, keeps_info=True)
        export_dataset(name, folder / "log", folder / "export")
        info = restore_dataset(name, folder / "export", folder / "back")
        assert info == dataset[0]
        assert contents_of(folder / "back") == expected_of(dataset)
