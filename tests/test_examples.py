"""Every example runs as a user runs it, and prints what its docstring says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "agent_session.py": r"routed log: 10 episodes with \d+ calls, 0 left out\ntrained again: turn-ridge",
    "custom_environment.py": r"utility -?\d\.\d\d after \d+ turns for 0\.\d+ USD",
    "d3rlpy_run.py": r"60 episodes with \d+ transitions(?s:.*)first calls: small \d+, middle \d+, large \d+",
    "gymnasium_loop.py": r"observation: \(\d+,\), of which the last 3 are the action mask",
    "import_my_log.py": r"(?s)2 left out.*the clone's first choice: quick 0\.\d\d, careful 0\.\d\d",
    "make_agent_log.py": r"log: calls.jsonl with 3 sessions, scores.csv and my-pool.yaml are written",
    "maskable_ppo.py": r"MaskablePPO after 1024 turns: return -?\d\.\d{3}",
    "mini_agent.py": r"done: True; 4 calls, 0\.\d+ USD, 5 lines of log",
    "openai_client.py": r"(?s)(\w+ \(probability 0\.\d\d, 0\.\d+ USD\): .*){4}4 calls for 0\.\d+ USD",
    "study_my_suite.py": r"(?s)suite 'my-suite': 60 tasks, 5 models.*TOO FEW TO TELL.*Power: two policies",
    "train_on_my_logs.py": r"(?s)trained router: fitted-q\n.*\nfitted-q +.*\nfitted-q - random",
}
ARGUMENTS = {"make_agent_log.py": ["log", "--sessions", "3"]}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_prints_the_expected_line(name, tmp_path):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        cwd=tmp_path,  # an example may not depend on the folder that it is started in
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(EXPECTED[name], ran.stdout), ran.stdout
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ARGUMENTS.get(name, [])[:1], "an example leaves nothing behind but what it was told to write"
