"""Every example runs as a user runs it, and prints what its docstring says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "custom_environment.py": r"utility -?\d\.\d\d after \d+ turns for 0\.\d+ USD",
    "gymnasium_loop.py": r"observation: \(\d+,\), of which the last 3 are the action mask",
    "import_my_log.py": r"(?s)2 left out.*the clone's first choice: quick 0\.\d\d, careful 0\.\d\d",
    "train_on_my_logs.py": r"(?s)trained router: fitted-q\n.*\nfitted-q +.*\nfitted-q - random",
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_prints_the_expected_line(name, tmp_path):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,  # an example may not depend on the folder that it is started in
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(EXPECTED[name], ran.stdout), ran.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
