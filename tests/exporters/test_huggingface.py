import importlib.util
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from mtrouter_rl.datasets import columns
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.exporters.base import export_dataset

_spec = importlib.util.find_spec("datasets")
# A folder of that name in the working directory is importable too, but holds no module.
needs_library = pytest.mark.skipif(_spec is None or _spec.origin is None, reason="needs the package datasets")


@pytest.fixture
def export(folder, tmp_path):
    export_dataset("huggingface", folder, tmp_path / "export", {"license": "cc-by-4.0"})
    return tmp_path / "export"


def front_matter_of(export):
    _, front, _ = (export / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front)


def test_turns_are_flat_rows(export, episodes):
    rows = pq.read_table(export / "data" / "turns-00000.parquet").to_pylist()
    turns = [(episode, index, turn) for episode in episodes for index, turn in enumerate(episode.turns)]
    assert len(rows) == len(turns)
    for row, (episode, index, turn) in zip(rows, turns, strict=True):
        assert (row["episode_id"], row["turn"]) == (episode.episode_id, index)
        assert (row["task"], row["status"]) == (episode.task, episode.status)
        assert (row["model"], row["action_text"], row["cost_usd"]) == (turn.model, turn.action_text, turn.cost_usd)
        assert (row["propensity"], tuple(row["action_mask"])) == (turn.propensity, turn.action_mask)
        assert row["n_cached"] == turn.usage.n_cached


def test_episodes_are_rows_with_their_sums(export, episodes):
    rows = pq.read_table(export / "data" / "episodes-00000.parquet").to_pylist()
    assert [row["episode_id"] for row in rows] == [episode.episode_id for episode in episodes]
    assert [row["n_turns"] for row in rows] == [len(episode.turns) for episode in episodes]
    assert [row["utility"] for row in rows] == [episode.utility for episode in episodes]
    assert [row["cost_usd"] for row in rows] == [episode.cost_usd for episode in episodes]


def test_card_has_what_the_hub_reads(export, folder):
    front = front_matter_of(export)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    assert "simulated" in front["tags"]
    assert {config["config_name"]: config["data_files"] for config in front["configs"]} == {
        "turns": [{"split": "train", "path": "data/turns-*.parquet"}],
        "episodes": [{"split": "train", "path": "data/episodes-*.parquet"}],
    }
    assert read_info(export) == read_info(folder)


def test_card_names_every_column_and_every_model(export):
    text = (export / "README.md").read_text(encoding="utf-8")
    assert all(name in text for name in (*columns.TURN_SCHEMA.names, "task", "status"))
    assert "| strong | 2 | 0.2 | 8 |" in text
    assert "**simulated**" in text


def test_license_is_not_made_up(folder, tmp_path):
    export_dataset("huggingface", folder, tmp_path / "export")
    assert front_matter_of(tmp_path / "export")["license"] == "unknown"


_LOAD = """
import sys, datasets
for name in ("turns", "episodes"):
    rows = datasets.load_dataset(sys.argv[1], name, split="train")
    print(name, len(rows), rows[0]["episode_id"], rows.column_names == list(rows[0]))
print(datasets.load_dataset(sys.argv[1], split="train")[1]["action_mask"])
"""


@needs_library
def test_datasets_library_loads_it(export, tmp_path, episodes):
    # In a process of its own: the library reads where it may write, and that it is offline, when it is imported.
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(export)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_turns = sum(len(episode.turns) for episode in episodes)
    assert done.stdout.splitlines() == [
        f"turns {n_turns} boil-v0-s1 True",
        "episodes 6 boil-v0-s1 True",
        "[True, True]",
    ]
