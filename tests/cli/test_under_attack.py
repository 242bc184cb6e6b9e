"""Commands that are killed, raced, starved of disk and shown what nobody expects: nothing is lost, and all is told in words."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrouter_rl.cli import main
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.datasets.store import Dataset

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "import sys; from mtrouter_rl.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def campaign():
    spec = importlib.util.spec_from_file_location("campaign", ROOT / "scripts" / "attack" / "campaign.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = module
    spec.loader.exec_module(module)
    return module


def test_a_short_campaign_finds_nothing(campaign):
    chosen = ("import --overwrite", "split --overwrite", "new-pool", "train")
    writers = tuple(one for one in campaign.WRITERS if one.name in chosen)
    counts = campaign.run(n_points=3, n_pairs=1, n_inputs=200, seconds=120, seed=1, writers=writers)
    notes = [note for count in counts for note in count.notes]
    assert all(count.is_clean for count in counts), notes
    assert sum(count.n for count in counts) > 200
    assert "| all |" in campaign.table(counts)


def test_sigterm_says_what_ctrl_c_says_and_leaves_nothing(tmp_path):
    words = ["collect", "--env", "corridor", "--policy", "uniform", "--episodes", "100000", "--workers", "1"]
    process = subprocess.Popen(
        [*PROGRAM, *words, "--out", str(tmp_path / "log")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("log/episodes-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "mtrouter-rl collect: stopped; run the same command again to go on" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def run(*words, cwd, preexec=None, **environment):
    return subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        preexec_fn=preexec,
        timeout=120,
        check=False,
    )


def test_a_terminal_without_unicode_is_no_traceback(tmp_path, corridor_log):
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = run("list", "agents", cwd=tmp_path, **odd)
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("inspect", str(corridor_log), cwd=tmp_path, **odd)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_output_is_told(tmp_path):
    done = run("list", "agents", cwd=tmp_path, preexec=lambda: os.close(1))
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    done = run("list", "agents", cwd=tmp_path, preexec=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1))
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr


@pytest.mark.parametrize("command", ["train", "ope", "new-env", "report", "import"])
def test_a_folder_that_cannot_be_written_is_told(command, corridor_log, tmp_path, capsys):
    """A file stands where a folder is wanted, which stops root as well."""
    (tmp_path / "file").write_text("x")
    out = str(tmp_path / "file" / "out")
    words = {
        "train": ["--agent", "task-table", "--dataset", str(corridor_log), "--workers", "1"],
        "ope": ["uniform", "--dataset", str(corridor_log), "--estimators", "wis"],
        "new-env": ["my_attacked_maze"],
        "report": [str(corridor_log)],
        "import": ["openai-jsonl", __file__, "--pool", "corridor-three"],
    }[command]
    assert main([command, *words, "--out", out]) == 1
    told = capsys.readouterr().err
    assert f"mtrouter-rl {command}: " in told
    assert "Traceback" not in told


def test_names_cannot_move_the_cursor(tmp_path, corridor_log, capsys):
    """Names of tasks come from logs: on terminals and in Markdown their control characters are written out."""
    from dataclasses import replace

    name = "sho\x1b[2Jrt\u202e"
    traced = [
        replace(one, episode=replace(one.episode, task=name if one.episode.task == "short" else one.episode.task))
        for one in traced_episodes(corridor_log)
    ]
    write_dataset(tmp_path / "log", Dataset.load(corridor_log).info, traced)
    assert main(["inspect", str(tmp_path / "log")]) == 0
    told = capsys.readouterr().out
    assert "sho\\x1b[2Jrt\\u202e" in told
    assert "\x1b" not in told
    assert main(["inspect", str(tmp_path / "log"), "--json"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["validate", str(tmp_path / "no\x1b[2Jsuch")]) == 1
    assert "\x1b" not in capsys.readouterr().err
