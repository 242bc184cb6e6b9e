"""A sweep trains what is missing, looks at validation alone, and hands out the best card."""

import json
from dataclasses import replace

import pytest

from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import CardError, InvalidConfigError
from mtrouter_rl.workflows import load_agent
from mtrouter_rl.workflows.sweep import Sweep, SweepRequest, parse_values, run_sweep


@pytest.fixture(scope="module")
def request_of(corridor_config, corridor_log):
    def make(out, **changes):
        fields = {"config": corridor_config, "dataset": corridor_log, "out": out, "agents": ("turn-ridge",)}
        return SweepRequest(**(fields | {"values": {"penalty": (1, 1000.0)}, "n_workers": 1} | changes))

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request_of):
    request = request_of(tmp_path_factory.mktemp("sweep") / "out", n_trainings=2)
    return request, run_sweep(request, say=lambda _: None, show_progress=False)


def test_every_combination_is_trained_and_compared_with_the_best(finished):
    request, found = finished
    assert {row.changes["penalty"] for row in found.rows} == {1, 1000.0}
    assert [row.return_.value for row in found.rows] == sorted((row.return_.value for row in found.rows), reverse=True)
    best, other = found.rows
    assert best.to_best is None
    assert other.to_best.return_.value == pytest.approx(other.return_.value - best.return_.value)
    assert all(len(row.return_by_training) == len(row.policies) == 2 for row in found.rows)
    assert Sweep.load(request.out / "sweep.json") == found
    assert "minus the best" in (request.out / "sweep.md").read_text(encoding="utf-8")


def test_only_validation_is_looked_at(finished):
    request, _ = finished
    assert [path.name for path in (request.out / "episodes").iterdir()] == ["validation"]


def test_the_best_card_can_be_trained(finished, corridor_config):
    request, found = finished
    card = load_agent(str(request.out / "best.yaml"), corridor_config.card)
    assert card.parameters["penalty"] == found.rows[0].changes["penalty"]
    load_algorithm(card)


def test_hyper_parameters_are_shown_in_tensorboard(finished):
    request, found = finished
    runs = {path.name for path in (request.out / "tensorboard").iterdir()}
    assert len(runs) == 1 + sum(len(row.policies) for row in found.rows)


def test_more_values_train_only_what_is_missing(finished, monkeypatch):
    request, found = finished
    monkeypatch.setattr("mtrouter_rl.workflows.sweep.present", lambda *_, **__: None)  # drawn before
    before = {path: path.stat().st_mtime_ns for path in (request.out / "routers").rglob("router.json")}
    more = run_sweep(replace(request, values={"penalty": (1, 1000.0, 10.0)}), say=lambda _: None, show_progress=False)
    assert len(more.rows) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    old = {row.policies: row.return_ for row in found.rows}
    assert {row.policies: row.return_ for row in more.rows if row.policies in old} == old


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"values": {"penalti": (1,)}}, CardError, "penalti"),
        ({"values": {"penalty": (-1,)}}, CardError, "penalty"),
        ({"agents": ("turn-ridge", "turn-ridge")}, InvalidConfigError, "has turn-ridge penalty=1 twice"),
        ({"agents": ("random",), "values": {}}, InvalidConfigError, "agent 'random' does not learn from a log alone"),
        ({"agents": ("cascade",), "values": {}}, InvalidConfigError, "agent 'cascade' does not learn from a log alone"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_training(request_of, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_sweep(request_of(tmp_path / "out", **changes), say=lambda _: None, show_progress=False)
    assert not (tmp_path / "out" / "routers").exists()


def test_numbers_of_trainings_and_workers_are_checked(request_of, tmp_path):
    with pytest.raises(InvalidConfigError, match="trainings is 0"):
        request_of(tmp_path, n_trainings=0)
    with pytest.raises(InvalidConfigError, match="workers is 0"):
        request_of(tmp_path, n_workers=0)


@pytest.mark.parametrize("text", ["penalty", "=1", "penalty=", "penalty=[1"])
def test_settings_that_are_none_are_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_values(text)


def test_the_command_prints_its_table_and_json(finished, capsys, monkeypatch):
    request, _ = finished
    monkeypatch.setattr("mtrouter_rl.workflows.sweep.present", lambda *_, **__: None)  # drawn before
    words = [
        "sweep",
        "--env",
        "corridor",
        "--dataset",
        str(request.dataset),
        "--agent",
        "turn-ridge",
        "--trainings",
        "2",
    ]
    words += ["--set", "penalty=1,1000.0", "--workers", "1", "--out", str(request.out)]
    assert main([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert main([*words, "--set", "penalty=3"]) != 0
    assert "--set penalty is given twice" in capsys.readouterr().err
