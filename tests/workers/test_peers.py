"""Several processes of one training: who takes which rows, what they tell each other, and what happens when one is lost."""

import contextlib

import pytest
import torch

from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.workers.peers import ALONE, Peers, joined, peers_of_torchrun
from tests.cases.peers import processes

TALK = """
import os, sys, torch
from mtrouter_rl.errors import LostProcessError
from mtrouter_rl.workers.peers import joined, peers_of_torchrun
with joined(peers_of_torchrun()) as peers:
    values = torch.tensor([1.0, 10.0 * (peers.rank + 1)])
    peers.add_up(values)
    with peers.first_alone():
        was_there = os.path.exists(sys.argv[1])
        open(sys.argv[1], "w").close()
    print(values.tolist(), peers.all_of([peers.rank, 7]), was_there, os.environ["GLOO_SOCKET_IFNAME"])
"""
LOSE = """
import os, sys, torch
from mtrouter_rl.errors import LostProcessError
from mtrouter_rl.workers.peers import joined, peers_of_torchrun
with joined(peers_of_torchrun()) as peers:
    peers.add_up(torch.ones(1))
    if peers.rank == 1:
        os._exit(7)
    try:
        peers.add_up(torch.ones(1))
    except LostProcessError as error:
        print(error)
        os._exit(3)
"""


def test_processes_add_up_and_let_the_first_one_go_ahead(tmp_path):
    with processes("-c", TALK, str(tmp_path / "made")) as started:
        told = [process.communicate(timeout=100) for process in started]
    assert [out for out, _ in told] == [
        "[2.0, 30.0] [[0, 7], [1, 7]] False lo\n",
        "[2.0, 30.0] [[0, 7], [1, 7]] True lo\n",
    ], told


def test_a_lost_process_is_an_error_of_the_others_that_says_how_to_go_on():
    with processes("-c", LOSE) as started:
        out, problems = started[0].communicate(timeout=100)
        assert started[1].wait(timeout=100) == 7
    assert "process 0 of 2: another process of the training was lost" in out, problems
    assert "run the same command again to go on from the last checkpoint" in out


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_shares_are_the_batch(n):
    shares = [Peers(rank=rank, n=n).share_of(7) for rank in range(n)]
    assert [row for share in shares for row in range(share.start, share.stop)] == list(range(7))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_batch_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(InvalidConfigError, match=r"batch_size is 2 and torchrun started 3 processes.*start fewer"):
        Peers(rank=0, n=3).share_of(2)


def test_a_process_alone_sends_nothing():
    values = torch.tensor([3.0])
    with joined(ALONE) as peers, peers.first_alone():
        peers.add_up(values)
    assert values.tolist() == [3.0]
    assert peers.all_of([4]) == [[4]]
    assert not torch.distributed.is_initialized()


def test_what_torchrun_says_is_read_and_checked(monkeypatch):
    assert peers_of_torchrun() == ALONE
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert peers_of_torchrun() == ALONE  # set by something else than torchrun
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert peers_of_torchrun() == Peers(rank=1, n=2)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InvalidConfigError, match="rank is 2 of 2 processes, must be from 0 to 1"):
        peers_of_torchrun()
    monkeypatch.delenv("RANK")
    with pytest.raises(InvalidConfigError, match="RANK and WORLD_SIZE are not those of torchrun"):
        peers_of_torchrun()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "nowhere"], "torchrun started 2 processes, and one process does 'inspect'"),
        (
            ["train", "--env", "corridor", "--agent", "single:small", "--out", "{out}"],
            "agent 'single:small' is not trained in gradient steps, so 2 processes cannot share them",
        ),
        (
            ["train", "--env", "corridor", "--agent", "fitted-q", "--safe", "--out", "{out}"],
            "--verdict, --safe, --evaluate-every and agents that are chosen by running episodes",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("mtrouter_rl.cli.train.joined", contextlib.nullcontext)
    assert main([word.format(out=tmp_path / "out") for word in words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
