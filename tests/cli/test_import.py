"""`import` as a user calls it: exit codes, what is printed, and that the dataset is kept."""

import json

import pytest
import yaml

from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.options.shared import share
from tests.cases.call_rows import POOL, grown, write


@pytest.fixture
def imported(tmp_path, capsys):
    """Imports rows; gives exit code, stdout and stderr."""
    card = tmp_path / "pool.yaml"
    card.write_text(yaml.safe_dump(POOL.model_dump(mode="json")), encoding="utf-8")

    def run(rows, *words):
        log = write(tmp_path / "log.jsonl", rows)
        out = tmp_path / "out"
        code = main(["import", "openai-jsonl", str(log), "--pool", str(card), "--out", str(out), *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


ROWS = [
    *(row for index in range(9) for row in grown(f"s{index}", 2)),
    *[row | {"model": "gpt-x", "usage": row["usage"] | {"cost": 0.5}} for row in grown("unknown", 2)],
]


def test_more_left_out_than_is_accepted_is_an_error_with_what_would_bring_it_back(imported, tmp_path):
    code, _, error = imported(ROWS)
    assert code == 1
    assert "1 of 10 episodes (10.0%) were left out, more than the 5.0% of --max-left-out" in error
    assert "1 with 1 USD, model that the pool does not have: add the model, or its name in the log as an alias" in error
    assert len(Dataset.load(tmp_path / "out").episodes) == 9


@pytest.mark.parametrize("limit", ["10%", "0.1", "1"])
def test_a_share_that_is_accepted(imported, limit):
    code, printed, error = imported(ROWS, "--max-left-out", limit)
    assert (code, error) == (0, "")
    assert "left out: 1 x model that the pool does not have, 1 USD" in printed
    assert "left out or passed over: 2 calls, 200 prompt and 20 output tokens, 1 USD" in printed


def test_the_report_is_there_as_json_where_too_much_was_left_out(imported):
    code, printed, _ = imported(ROWS, "--json")
    report = json.loads(printed)
    assert (code, report["n_rejected"], report["remedies"][0]["usd"]) == (1, 1, 1.0)


def test_scores_from_a_file(imported, tmp_path):
    rows = [row | {"score": None, "status": None} for row in ROWS[:4]]
    (tmp_path / "scores.csv").write_text("session_id,score\ns0,1\ns1,0\n", encoding="utf-8")
    code, _, error = imported(rows, "--scores", tmp_path / "scores.csv")
    assert (code, error) == (0, "")
    assert [episode.utility for episode in Dataset.load(tmp_path / "out").episodes] == [1.0, 0.0]


def test_scores_where_the_format_has_its_own(tmp_path, capsys):
    words = ["import", "balrog", str(tmp_path), "--pool", "corridor-three", "--out", str(tmp_path / "out")]
    assert main([*words, "--scores", "scores.csv"]) == 1
    assert "scores are given, but format 'balrog' has scores of its own; leave them out" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0", 0.0), ("100%", 1.0), ("0.25", 0.25)])
def test_shares(text, value):
    assert share(text) == value


@pytest.mark.parametrize("text", ["150%", "-1", "x", "nan"])
def test_what_is_no_share(text, capsys):
    with pytest.raises(SystemExit):
        main(["import", "openai-jsonl", "x", "--max-left-out", text])
    assert "--max-left-out" in capsys.readouterr().err
