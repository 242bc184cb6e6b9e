"""`reprice`, `split` and `validate` as a user calls them: arguments arrive, and what matters is printed."""

import json

import pytest
import yaml

from mtrouter_rl.cards import find_card
from mtrouter_rl.cli.program import run_command
from mtrouter_rl.cli.split import parse_shares
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError


@pytest.fixture
def call(capsys):
    """Runs a command line and gives what it printed."""

    def run(*words):
        run_command([str(word) for word in words])
        return capsys.readouterr().out

    return run


@pytest.fixture
def bare_card(tmp_path):
    """The corridor's pool without a prompt cache, in another currency."""
    card = yaml.safe_load(find_card("pools", "corridor-three").read_text())
    path = tmp_path / "bare.yaml"
    path.write_text(yaml.safe_dump(card | {"name": "bare", "prompt_cache": None}))
    return path


def test_reprice(call, corridor_log, bare_card, tmp_path):
    printed = call(
        "reprice",
        corridor_log,
        "--pool",
        bare_card,
        "--exchange-rate",
        0.5,
        "--id",
        "half-v3",
        "--out",
        tmp_path / "new",
    )
    assert "half-v3: 150 episodes repriced; cached tokens: none" in printed
    assert "cannot be known: what a model would have answered" in printed
    dataset = Dataset.load(tmp_path / "new")
    assert (dataset.info.dataset_id, dataset.info.models[0].prices.input) == ("half-v3", 0.05)


def test_reprice_lifts_the_budget_only_if_told(call, corridor_log, bare_card, tmp_path):
    words = ("reprice", corridor_log, "--pool", bare_card, "--exchange-rate", 1000, "--out", tmp_path / "new")
    with pytest.raises(DatasetError, match="--lift-budget"):
        call(*words)
    assert "150 episodes repriced" in call(*words, "--lift-budget")


def test_split(call, corridor_log, tmp_path):
    words = ("--shares", "0.5,0,0.5", "--seed", 3, "--out", tmp_path / "parts")
    printed = call("split", corridor_log, "--by", "variation", *words)
    assert "train: " in printed
    assert "has splits of its own" in printed
    parts = {path.name: Dataset.load(path) for path in (tmp_path / "parts").iterdir()}
    assert sorted(parts) == ["test", "train"]
    assert {part.info.created_by["seed"] for part in parts.values()} == {3}
    assert sum(len(part.episodes) for part in parts.values()) == 150


@pytest.mark.parametrize("text", ["0.5,0.5", "a,b,c", "0.5;0.25;0.25", ""])
def test_shares_are_three_numbers(text):
    with pytest.raises(InvalidConfigError, match=f"--shares is '{text}', must be three numbers"):
        parse_shares(text)


def test_validate(call, corridor_log, tmp_path):
    assert call("validate", corridor_log).startswith("OK: ")
    printed = call("validate", corridor_log, "--upgrade", tmp_path / "new")
    assert f"upgraded: {tmp_path / 'new'}, schema version 3" in printed
    assert Dataset.load(tmp_path / "new") == Dataset.load(corridor_log)


def test_validate_prints_the_schema(call):
    schema = json.loads(call("validate", "--schema"))
    assert schema["schema_version"] == 3
    assert "turns-NNNNN.parquet" in schema["files"]


def test_validate_needs_something_to_validate(call):
    with pytest.raises(InvalidConfigError, match="missing: DATASET"):
        call("validate")
