"""The same seed gives the same router, however many threads the environment allows."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.cards import load_agent_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.workflows import TrainRequest, train_router

ROOT = Path(__file__).parents[2]


def train(log, out):
    small = {"n_iterations": 2, "n_warm_start": 1, "steps_per_iteration": 30, "keep_last": 1, "batch_size": 256}
    card = load_agent_card("fitted-q")
    card = card.model_copy(update={"parameters": card.parameters | small})
    request = TrainRequest(agent=card, config=resolve_env("corridor"), seed=0, out=Path(out), dataset=Path(log))
    train_router(request, show_progress=False)


def test_weights_do_not_depend_on_the_number_of_threads(tmp_path):
    collect = ["collect", "--env", "corridor", "--policy", "uniform", "--episodes", "60", "--workers", "1", "--quiet"]
    assert main([*collect, "--out", str(tmp_path / "log")]) == 0
    train(tmp_path / "log", tmp_path / "here")
    words = "import sys; from tests.agents.test_one_thread import train; train(*sys.argv[1:])"
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "log"), str(tmp_path / "two")],
        cwd=ROOT, env=os.environ | dict.fromkeys(names, "2"), check=True, capture_output=True,
    )  # fmt: skip
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("here", "two")]
    assert weights[0] == weights[1]


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
