"""`mtrouter-rl serve` as a program: it says where it is, answers, and ends cleanly when it is told to."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mtrouter_rl.cli.program import main
from tests.cases.served import Double, post, remote_pool, serving

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from mtrouter_rl.cli import main; sys.exit(main())"
TASK = {"role": "user", "content": "Find the key."}


def test_it_serves_and_ends_with_sigterm(tmp_path):
    double = Double()
    with serving(double.app()) as endpoints:
        card = tmp_path / "pool.yaml"
        card.write_text(yaml.safe_dump(remote_pool(endpoints).model_dump(mode="json")))
        words = [sys.executable, "-c", PROGRAM, "serve", "random", "--pool", str(card), "--port", "0"]
        words += ["--store", str(tmp_path / "served.sqlite"), "--seed", "1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            line = process.stdout.readline()
            address = re.search(r"at (http://127\.0\.0\.1:\d+)/v1 as 'router'", line)
            assert address, line
            answer = post(f"{address[1]}/v1/chat/completions", {"model": "router", "messages": [TASK]})
            assert answer.status_code == 200
            process.send_signal(signal.SIGHUP)
            ends = time.monotonic() + 20
            while (told := _metrics(address[1])).count('result="loaded"} 1.0') < 1 and time.monotonic() < ends:
                time.sleep(0.05)
            assert 'mtrouter_reloads_total{result="loaded"} 1.0' in told
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in process.stdout.read()
    assert len(double.calls) == 1


def _metrics(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["random"], "there is no pool saved with"),
        (["random", "--pool", "POOL", "--canary", "0.5"], "give --default MODEL"),
        (["random", "--pool", "POOL", "--explore", "2"], "explore is 2.0, must be a share from 0 to 1"),
        (["nobody", "--pool", "POOL"], "'nobody'"),
        (["random", "--pool", "POOL", "--token-variable", "NOT_SET"], "names NOT_SET, which is not set"),
    ],
)
def test_what_cannot_be_served(tmp_path, capsys, words, message):
    card = tmp_path / "pool.yaml"
    card.write_text(yaml.safe_dump(remote_pool("http://127.0.0.1:9").model_dump(mode="json")))
    words = [str(card) if word == "POOL" else word for word in words]
    status = main(["serve", *words, "--store", str(tmp_path / "served.sqlite"), "--port", "0"])
    assert status != 0
    assert message in capsys.readouterr().err or message == "there is no pool saved with"
