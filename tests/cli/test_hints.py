"""What a command says to do next is a command that works, in the state in which it leaves the user."""

import re
import shlex

import pytest

from mtrouter_rl.cli.program import main
from tests.cases.call_rows import POOL, grown, write

CORRIDOR = ["--env", "corridor", "--workers", "1"]
SHORT = {"ope": ["--iterations", "4", "--repeats", "1"], "evaluate": ["--per-task", "1", "--workers", "1"]}


def hints(said):
    """Commands that are named in what was printed."""
    return [shlex.split(line) for line in re.findall(r"mtrouter-rl ([a-z-]+ [^\n)]+)", said)]


@pytest.fixture
def say(capsys):
    """Runs a command and gives what it printed."""

    def run(*words):
        assert main([*map(str, words)]) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def follow(say, said):
    """Run every hint; gives how many there were."""
    found = hints(said)
    for words in found:
        say(*words, *SHORT.get(words[0], []))
    return len(found)


def test_after_a_collection_a_training_and_an_evaluation(say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow(say, say("collect", *CORRIDOR, "--policy", "uniform", "--episodes", 30, "--out", "log"))
    assert follow(say, say("train", *CORRIDOR, "--agent", "task-table", "--dataset", "log", "--out", "router")) == 1


def test_after_an_import_and_a_training_on_it(say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row for number in range(20) for row in grown(f"s{number}", 2, score=float(number % 2))]
    for number, row in enumerate(rows):
        row["model"] = ("small", "big", "big", "small")[number % 4]
    write(tmp_path / "calls.jsonl", rows)
    (tmp_path / "pool.yaml").write_text(POOL.model_dump_json())
    assert follow(say, say("import", "openai-jsonl", "calls.jsonl", "--pool", "pool.yaml", "--out", "log")) == 1
    money = ["--cost-weight", "0.5", "--cost-unit-usd", "0.01"]
    said = say("train", "--agent", "turn-ridge", "--dataset", "log", *money, "--out", "router")
    assert follow(say, said) == 1


def test_estimates_by_the_direct_method_need_no_propensities(say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row for number in range(5) for row in grown(f"s{number}", 2, score=float(number % 2))]
    for number, row in enumerate(rows):
        row["model"] = ("small", "big")[number % 2]
    write(tmp_path / "calls.jsonl", rows)
    (tmp_path / "pool.yaml").write_text(POOL.model_dump_json())
    say("import", "openai-jsonl", "calls.jsonl", "--pool", "pool.yaml", "--out", "log")
    words = ["ope", "single:small", "random", "--dataset", "log", "--estimators", "dm", *SHORT["ope"]]
    said = say(*words, "--cost-weight", "0.5", "--cost-unit-usd", "0.01")
    assert "whether the log calls what the routers choose was not checked" in said
