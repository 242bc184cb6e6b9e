"""Gradient steps that two processes share under torchrun, against the same steps by one: samples a second by the clock.

The steps are those of the training loop, with the network and sizes of fitted-q and random features of ScienceWorld's log.
Blocks alternate within one run: in one the first process works alone, in the other all of them share every batch. On a machine
with fewer free cores than processes the ratio says nothing.

    python scripts/bench/shared_steps.py --processes 2 --batch-sizes 256 1024 4096
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
import torch
from learner_overhead import ThroughD3rlpy, random_transitions

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.learners import Networks, to_d3rlpy
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.agents.q.shared_steps import SharedSteps
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.workers.peers import joined, peers_of_torchrun


class Shared(ThroughD3rlpy):
    """The steps of `ThroughD3rlpy`, each by all processes."""

    def __init__(self, peers, factory, loop, transitions):
        super().__init__(factory, loop, transitions)
        self.shared = SharedSteps(peers, Networks(self.algorithm), batch_size=loop.batch_size)

    def step(self):
        batch = self.shared.of_batch(self.transitions.sample(self.batch_size, self.generator))
        return self.algorithm.update(to_d3rlpy(batch))["loss"]


def seconds(side, n_steps):
    start = time.perf_counter()
    for _ in range(n_steps):
        side.step()
    return (time.perf_counter() - start) / n_steps


def measure(peers, factory, transitions, args):
    """A row of the table for every batch size; the first process prints it."""
    for batch_size in args.batch_sizes:
        loop = LoopParameters(batch_size=batch_size)
        alone, shared = ThroughD3rlpy(factory, loop, transitions), Shared(peers, factory, loop, transitions)
        n_steps = max(3, args.transitions_per_block // batch_size)
        found = []
        for number in range(args.rounds + 1):
            peers.all_of([0])
            own = seconds(alone, n_steps) if peers.is_first else 0.0
            peers.all_of([0])
            together = seconds(shared, n_steps)
            if number:  # the first round warms up
                found.append((own, together))
        if peers.is_first:
            own, together = np.array(found).T
            low, middle, high = np.quantile(own / together, [0, 0.5, 1])
            print(
                f"| {batch_size} | {batch_size / np.median(own):,.0f} | {batch_size / np.median(together):,.0f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) |",
                flush=True,
            )


def work(args):
    """One of the processes."""
    silence_gym_notice()
    from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory

    torch.set_num_threads(1)
    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=resolve_env("scienceworld").pool)
    transitions = random_transitions(features.dim, len(features.pool.models))
    factory = JointQFunctionFactory.of(
        HistoryLayout.of_features(features), JointParameters(), model_features=features.model_features.tolist()
    )
    with joined(peers_of_torchrun()) as peers:
        if peers.is_first:
            print(
                f"| batch | one process, samples/s | {peers.n} processes | ratio, median (spread) |\n|---:|---:|---:|---:|"
            )
        measure(peers, factory, transitions, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 1024, 4096], metavar="B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--transitions-per-block", type=int, default=10_240, metavar="N", help="steps times batch size")
    args = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        work(args)
        return
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.processes)]
    subprocess.run([sys.executable, *launch, __file__, *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
