"""A package that is missing is told before anything is read: nobody waits for minutes to learn it."""

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import MissingDependencyError

REWARD = ["--option", "cost_weight=0.4", "--option", "cost_unit_usd=1"]


def missing():
    raise MissingDependencyError("package 'x' is missing; run: pip install 'mtrouter-rl[x]'")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--agent", "fitted-q", "--env", "corridor", "--encoder", "minilm", "--out", "r", "--dataset", "log"],
        ["ope", "random", "--env", "corridor", "--encoder", "minilm", "--dataset", "log"],
        ["study-log", "log", "--cost-weight", "0.4", "--encoder", "minilm", "--out", "run"],
        [*("export", "d3rlpy", "log", "--out", "e", "--encoder", "minilm"), *REWARD],
    ],
    ids=lambda words: words[0],
)
def test_a_missing_encoder_is_told_before_the_log_is_read(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    collect = [
        "collect",
        "--env",
        "corridor",
        "--policy",
        "uniform",
        "--episodes",
        "2",
        "--workers",
        "1",
        "--out",
        "log",
    ]
    assert main([*collect, "--quiet"]) == 0
    for shard in (tmp_path / "log").glob("*.parquet"):
        shard.write_bytes(b"whoever reads this fails otherwise")
    monkeypatch.setattr("mtrouter_rl.embeddings.encoders.make_minilm", missing)
    assert main(words) == 1
    assert "pip install 'mtrouter-rl[x]'" in capsys.readouterr().err
