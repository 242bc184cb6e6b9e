"""`train --verdict` and `--safe`: what is said, shown and served."""

import json

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.serving import load_router
from mtrouter_rl.workflows import verdicts


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def cheap_verdicts(monkeypatch):
    """Fitted values of a few steps."""
    small = FqeParameters(n_iterations=4, steps_per_iteration=5, keep_last=1, n_repeats=1)
    plain = verdicts.VerdictRequest

    def make(**settings):
        return plain(fqe=small, n_resamples=100, **settings)

    monkeypatch.setattr(verdicts, "VerdictRequest", make)


def test_train_says_that_nobody_compared_and_the_same_command_does_it(corridor_log, tmp_path, capsys, cheap_verdicts):
    words = (
        "train",
        "--agent",
        "turn-ridge",
        "--dataset",
        corridor_log,
        "--workers",
        "1",
        "--out",
        tmp_path / "router",
    )
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert (
        "it has not been compared with the best single model of the log: the same command with --verdict does" in said
    )
    assert run("show", tmp_path / "router") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "router turn-ridge: kind turn_values, agent card turn-ridge, seed 0, learned from corridor-uniform"
    )
    assert "it has not been compared" in shown
    assert run(*words, "--verdict") == 0
    captured = capsys.readouterr()
    assert "verdict: 3 more trainings, each on 67% of the log" in captured.err
    told = captured.out[captured.out.index("verdict: ") :].strip()
    assert "it has not been compared" not in captured.out
    assert run(*words) == 0
    assert told in capsys.readouterr().out, "what is known of a router is said again"
    assert run("show", tmp_path / "router") == 0
    assert told in capsys.readouterr().out
    assert run("show", tmp_path / "router", "--json") == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert told.startswith(f"verdict: {verdict['text']}")
    assert run(*words, "--verdict", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    assert run("report", tmp_path / "router", "--out", tmp_path / "page.html") == 0
    assert "Against the best single model" in (tmp_path / "page.html").read_text()


def test_a_safe_router_is_trained_shown_and_served(corridor_log, tmp_path, capsys, cheap_verdicts):
    out = tmp_path / "router"
    words = ("train", "--agent", "turn-ridge", "--dataset", corridor_log, "--workers", "1", "--out", out)
    assert run(*words, "--safe", "--folds", "2", "--caution", "0.5") == 0
    said = capsys.readouterr().out
    assert "verdict: " in said
    assert "the learned router alone: " in said
    assert run("show", out, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["router"]["kind"], shown["router"]["name"]) == ("safe", "turn-ridge-safe")
    settings = shown["router"]["settings"]
    assert (settings["caution"], len(settings["members"])) == (0.5, 3)
    decision = load_router(out).choose([{"role": "user", "content": "Pass the short corridor."}])
    assert settings["baseline"] in decision.reason
    assert set(decision.q_values) == {"small", "middle", "large"}
    assert (
        run(
            "evaluate",
            "--env",
            "corridor",
            "--router",
            out,
            "--split",
            "test",
            "--workers",
            "1",
            "--out",
            tmp_path / "e",
        )
        == 0
    )
    assert run(*words) == 1
    assert "differs in: safe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--folds", "4"), "--folds and --caution are for --verdict and --safe"),
        (("--verdict", "--caution", "1"), "--caution is for --safe, which is missing"),
        (("--safe", "--folds", "1"), "folds is 1, must be at least 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, corridor_log, tmp_path, capsys):
    given = (
        "train",
        "--agent",
        "turn-ridge",
        "--dataset",
        corridor_log,
        "--workers",
        "1",
        "--out",
        tmp_path / "router",
    )
    assert run(*given, *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "router" / "router.json").exists()


def test_a_router_that_learned_nothing_is_not_said_to_lack_a_comparison(tmp_path, capsys):
    assert run("train", "--agent", "cheapest", "--env", "corridor", "--workers", "1", "--out", tmp_path / "router") == 0
    assert "has not been compared" not in capsys.readouterr().out
    assert (
        run(
            "train",
            "--agent",
            "cheapest",
            "--env",
            "corridor",
            "--workers",
            "1",
            "--out",
            tmp_path / "router",
            "--verdict",
        )
        == 0
    )
    assert "agent 'cheapest' learns nothing from a log" in capsys.readouterr().out
