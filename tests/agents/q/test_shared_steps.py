"""Two processes share every step of a training: the same weights as one, one of them writes, and a lost one ends all."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mtrouter_rl.agents.q.networks import GradientDropout
from mtrouter_rl.transitions.arrays import MiniBatch
from tests.cases.peers import ROOT, free_port, processes
from tests.cases.shared_training import CASES, train

MODULE = "tests.cases.shared_training"


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_give_the_weights_of_one_and_the_first_one_writes(tmp_path):
    with processes("-m", MODULE, str(tmp_path)) as started:
        (first, problems), (second, more) = (process.communicate(timeout=200) for process in started)
    assert [process.returncode for process in started] == [0, 0], problems + more
    weights = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in (0, 1)]
    for name in CASES:
        assert largest_difference(weights[0][name], weights[1][name]) == 0, name
        alone = train(name)
        moved = largest_difference(alone, train(name, seed=1))
        assert largest_difference(alone, weights[0][name]) < 1e-4 < moved, name
    assert "fitted_q True" in first
    assert "fitted_q False" in second
    for out in (first, second):
        assert "process 1 was given another training than process 0 (other parameters, seed or log)" in out
        assert "process 1 found a checkpoint of 0 iterations and process 0 one of 4; --out must be a folder that" in out
        assert "left behind: []" in out  # a thread that is left may abort the process when Python ends
    assert not (tmp_path / "elsewhere").exists()


def test_a_killed_process_ends_the_others_and_the_training_goes_on_from_the_checkpoint(tmp_path):
    with processes("-m", MODULE, str(tmp_path), "120") as started:
        out, problems = started[0].communicate(timeout=200)
        assert started[1].wait(timeout=200) == 9
    assert "process 0 of 2: another process of the training was lost" in out, problems
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("iteration")] == ["iteration-000002"]
    assert largest_difference(train("fitted_q"), train("fitted_q", folder=tmp_path)) < 1e-4


def test_torchrun_trains_a_router_by_the_command(corridor_log, tmp_path):
    card = (ROOT / "agents" / "myopic.yaml").read_text().replace("n_iterations: 10", "n_iterations: 1")
    card = card.replace("steps_per_iteration: 200", "steps_per_iteration: 8")
    (tmp_path / "agent.yaml").write_text(card)
    command = ["train", "--env", "corridor", "--agent", str(tmp_path / "agent.yaml"), "--dataset", str(corridor_log)]
    launcher = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        free_port(),
    ]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "mtrouter_rl.cli", *command, "--out", str(tmp_path / "router")],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("router saved in") == 1
    assert (tmp_path / "router" / "router.json").is_file()
    assert len(list((tmp_path / "router" / "tensorboard").rglob("events*"))) == 1


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4)])
def test_what_is_dropped_is_that_of_the_whole_batch(shape):
    x, dropout = torch.rand(shape) + 1, GradientDropout(0.5)
    torch.manual_seed(0)
    whole = dropout(x)
    parts = []
    for rows in (slice(0, 2), slice(2, 6)):
        dropout.share = (6, rows)
        torch.manual_seed(0)
        parts.append(dropout(x[rows]))
    assert torch.equal(torch.cat(parts), whole)
    assert (whole == 0).any()
    assert torch.equal(nn.Sequential(dropout).eval()(x), x)


@pytest.mark.parametrize("n_following", [1, 5])
def test_a_part_of_a_batch_keeps_rows_together(n_following):
    def column(n=5):
        return np.arange(n, dtype=np.float32)[:, None]

    batch = MiniBatch(
        observations=column(),
        actions=column(),
        rewards=column(),
        next_observations=column(n_following),
        terminals=column(),
    )
    part = batch.part(slice(1, 3))
    assert len(part) == 2
    assert (
        part.observations.tolist()
        == part.actions.tolist()
        == part.rewards.tolist()
        == part.terminals.tolist()
        == [[1], [2]]
    )
    assert part.next_observations.tolist() == ([[1], [2]] if n_following == 5 else [[0]])
