"""`mtrouter-rl start` goes from a log to a verdict, a report and a router, and takes its steps up where they stopped."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mtrouter_rl.cards import find_card
from mtrouter_rl.cli import program, start
from mtrouter_rl.cli.program import main
from mtrouter_rl.serving import load_router

ROOT = Path(__file__).parents[2]
SMALL = {"n_iterations": 2, "steps_per_iteration": 5, "batch_size": 32, "n_warm_start": 1, "keep_last": 1}


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Writes a log of so many sessions into the working directory; gives its arguments."""
    monkeypatch.chdir(tmp_path)

    def write(n_sessions):
        maker = ROOT / "examples" / "make_agent_log.py"
        subprocess.run(
            [sys.executable, str(maker), "log", "--sessions", str(n_sessions)], check=True, capture_output=True
        )
        return ["log/calls.jsonl", "--scores", "log/scores.csv"]

    return write


def test_too_few_sessions_are_told_so_before_anything_is_trained(log, capsys):
    assert main(["start", *log(30), "--pool", "log/my-pool.yaml", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "log format: openai-pairs" in said
    assert "too few to tell; nothing was trained" in said
    assert "- collect at least 70 more scored episodes (30 of 100)" in said
    assert not Path("run/routers").exists()


@pytest.fixture
def small_steps(monkeypatch):
    """Trainings and fits of a few steps; every command that was run is kept."""
    card = yaml.safe_load(find_card("agents", "fitted-q").read_text())
    ran = []
    plain = program.run_command

    def run(words):
        ran.append(list(words))
        more = ["--iterations", "4", "--repeats", "1"] if words[0] == "ope" else []
        named = ["tiny.yaml" if word == start.AGENT else word for word in words]
        plain([*named, *more])

    Path("tiny.yaml").write_text(yaml.safe_dump(card | {"parameters": card["parameters"] | SMALL}))
    monkeypatch.setattr(program, "run_command", run)
    monkeypatch.setattr("mtrouter_rl.workflows.log_advice.MIN_EPISODES", 40)
    return ran


def test_from_a_log_to_a_router_that_answers(log, capsys, small_steps):
    words = ["start", *log(60), "--pool", "log/my-pool.yaml", "--out", "run"]
    assert program.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    shown = [line[2:].split()[1] for line in said.splitlines() if line.startswith("$ ")]
    assert shown == ["import", "split", "train", "ope", "report"]
    assert "== verdict\n" in said
    page = Path("run/report.html").read_text()
    assert "Episodes, turn by turn" in page
    code = re.search(r"from mtrouter_rl.serving.*", said, re.S)[0]
    assert 'load_router("run/routers/fitted-q")' in code
    decision = load_router("run/routers/fitted-q").choose([{"role": "user", "content": "Issue 7: fix the typo."}])
    assert decision.model in ("small", "middle", "large")
    assert set(decision.q_values) == {"small", "middle", "large"}

    small_steps.clear()
    assert program.main(words) == 0
    assert [words[0] for words in small_steps] == ["start"], "what is done is not done again"
    assert capsys.readouterr().out.count("(done before:") == 5
    assert program.main([*words, "--cost-weight", "0.1"]) == 1
    assert "holds the steps of another start (differs in: cost_weight)" in capsys.readouterr().err


def test_a_missing_price_stops_it_and_a_written_one_takes_it_on(log, capsys):
    words = ["start", *log(30), "--out", "run"]
    assert main(words) == 1
    assert "run/pool.yaml has numbers that must be written by hand (marked FILL_IN)" in capsys.readouterr().err
    card = Path("run/pool.yaml")
    card.write_text(card.read_text().replace("FILL_IN", "1000"))
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "too few to tell"
    assert [line.split()[1] for line in told["commands"]] == ["new-pool", "import"]


def test_too_much_that_is_left_out_stops_it_each_time(log, capsys):
    words = ["start", *log(30)[:1], "--scores", "scores.csv", "--pool", "log/my-pool.yaml", "--out", "run"]
    rows = Path("log/scores.csv").read_text().splitlines()
    Path("scores.csv").write_text("\n".join(rows[:20]) + "\n")
    for _ in range(2):
        assert main(words) == 1
        assert "11 of 30 episodes (36.7%) were left out" in capsys.readouterr().err
    assert main([*words, "--max-left-out", "0.5"]) == 0
