import json
import logging

import pytest

from mtrouter_rl.cli.program import run_command
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.behavior_run import behavior_of_folder
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import EvaluateRequest, evaluate_routers


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, corridor_config):
    """An evaluation of three policies, of which "cheapest" shares the episodes of "single:small"."""
    folder = tmp_path_factory.mktemp("behavior") / "run"
    evaluate(corridor_config, folder, "random", "single:small", "cheapest")
    return folder


def evaluate(config, folder, *routers, **changes):
    settings = {"split": "test", "n_seeds": 1} | changes
    request = EvaluateRequest(routers=routers, out=folder, **settings)
    with RolloutPool(config, n_workers=1) as pool:
        return evaluate_routers(pool, request, show_progress=False)


@pytest.fixture
def call(capsys):
    """Runs the command and gives what it printed."""

    def run(*words):
        run_command(["behavior", *(str(word) for word in words)])
        return capsys.readouterr().out

    return run


def test_evaluate_writes_a_row_beside_every_row_of_the_results(run_folder):
    behavior = Behavior.load(run_folder / BEHAVIOR_FILE)
    results = json.loads((run_folder / "results.json").read_text())
    assert (behavior.env, behavior.pool) == ("corridor", "corridor-three")
    assert [row.policy for row in behavior.rows] == ["random", "single:small", "cheapest"]
    for row, result in zip(behavior.rows, results["rows"], strict=True):
        assert row.n_episodes == result["n_episodes"]
        assert row.switches_mean.value == pytest.approx(result["switches_mean"])
        assert row.turn_share == pytest.approx(result["model_share"])


def test_the_skill_due_is_known_also_where_episodes_are_shared(run_folder):
    behavior = Behavior.load(run_folder / BEHAVIOR_FILE)
    single, shared = behavior.row("single:small", "test"), behavior.row("cheapest", "test")
    assert shared.mutual_information.skill is not None
    assert shared.errors == single.errors
    assert behavior.row("random", "test").mutual_information.skill.n_labels == 3


def test_a_second_evaluation_adds_and_replaces_rows_and_overwriting_drops_them(tmp_path, corridor_config, run_folder):
    evaluate(corridor_config, tmp_path, "random")
    evaluate(corridor_config, tmp_path, "single:small")
    evaluate(corridor_config, tmp_path, "random", split="validation")
    evaluate(corridor_config, tmp_path, "random")
    behavior, whole = Behavior.load(tmp_path / BEHAVIOR_FILE), Behavior.load(run_folder / BEHAVIOR_FILE)
    assert [row.key for row in behavior.rows] == [
        ("random", "test"),
        ("single:small", "test"),
        ("random", "validation"),
    ]
    # A row depends on its own episodes and the seed alone, whatever was evaluated beside it.
    assert behavior.row("random", "test") == whole.row("random", "test")
    evaluate(corridor_config, tmp_path, "single:small", overwrite=True)
    assert [row.key for row in Behavior.load(tmp_path / BEHAVIOR_FILE).rows] == [("single:small", "test")]


def test_a_run_of_an_older_version_is_worked_out_from_its_episodes(tmp_path, corridor_config, caplog):
    evaluate(corridor_config, tmp_path, "random", "single:small", "cheapest")
    written = Behavior.load(tmp_path / BEHAVIOR_FILE)
    (tmp_path / BEHAVIOR_FILE).unlink()
    with caplog.at_level(logging.WARNING):
        behavior = behavior_of_folder(tmp_path)
    assert {row.policy for row in behavior.rows} == {"random", "single:small"}
    assert all(row == written.row(row.policy, "test") for row in behavior.rows)
    assert "policies ['cheapest'] share the episodes of another one" in caplog.text


def test_the_command_on_a_run(call, run_folder, tmp_path):
    text = call(run_folder, "--out", tmp_path)
    assert "Switching: corridor, test split" in text
    assert "cheapest: small" in text
    assert (tmp_path / BEHAVIOR_FILE).read_bytes() == (run_folder / BEHAVIOR_FILE).read_bytes()
    assert json.loads(call(run_folder, "--json"))["schema_version"] == 2


def test_the_command_on_a_dataset(call, corridor_log):
    (row,) = json.loads(call(corridor_log, "--json", "--seed", 5))["rows"]
    assert (row["policy"], row["split"], row["n_episodes"]) == ("uniform", "train", 150)
    assert row["mutual_information"]["skill"]["p_value"] > 0.05  # uniform routing watches nothing
    assert row["switches_mean"]["mean"] > 1
    assert json.loads(call(corridor_log, "--json", "--seed", 5))["rows"] == [row]


def test_a_folder_that_is_neither_is_explained(tmp_path):
    with pytest.raises(ResultsError, match=r"holds neither info\.json nor behavior\.json nor episodes/SPLIT/POLICY"):
        behavior_of_folder(tmp_path)
