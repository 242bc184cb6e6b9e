"""Trainings that several processes do together: `python -m tests.cases.shared_training OUT [KILLED]`, one such process each.

Process 1 ends without a word in the step `KILLED` of the one training that is then done.
"""

import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mtrouter_rl.errors import LostProcessError, RouterError
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import Transitions
from mtrouter_rl.workers.peers import ALONE, joined, peers_of_torchrun
from tests.cases.routing_toy import TINY, ListSink, features_of, make_card, make_context, uniform_log

CASES = {
    "fitted_q": {"dropout": 0.2, "n_iterations": 4, "steps_per_iteration": 50, "batch_size": 63},
    "behavior_cloning": {"dropout": 0.2, "n_iterations": 4, "steps_per_iteration": 25},
    "fitted_q_budget": {"dropout": 0.2, "n_iterations": 3, "steps_per_iteration": 25},
    "factored_q": {"dropout": 0.2, "memory_size": 8, "n_folds": 2, "max_passes": 1000},
}


def worded(log):
    """The log with actions of several kinds, drawn."""
    kinds = np.random.default_rng(0)
    episodes = [
        replace(one, turns=tuple(replace(turn, action_text=kinds.choice(["walk", "lift"])) for turn in one.turns))
        for one in log.episodes
    ]
    return replace(log, episodes=tuple(episodes))


def train(name, *, folder=None, peers=ALONE, seed=0, sink=None):
    """The weights that a case ends with."""
    torch.set_num_threads(1)
    made = ALGORITHMS.load(name).from_card(make_card(name, **(TINY[name] | CASES[name])))
    context = make_context(worded(uniform_log(60)), folder=folder, seed=seed, features=features_of(name)(), sink=sink)
    return made.train(replace(context, peers=peers)).weights


def tell(line):
    sys.stdout.write(f"{line}\n")


def told(work):
    try:
        work()
    except (LostProcessError, RouterError) as error:
        tell(str(error))


def all_cases(out, peers):
    found = {}
    for name in CASES:
        sink = ListSink()
        found[name] = train(name, folder=out / name, peers=peers, sink=sink)
        tell(f"{name} {len(sink.points) > 0}")
    torch.save(found, out / f"weights-{peers.rank}.pt")
    told(lambda: train("fitted_q", peers=peers, seed=peers.rank))
    told(lambda: train("fitted_q", peers=peers, folder=out / ("fitted_q" if peers.is_first else "elsewhere")))


def killed(out, peers, at_step):
    drawn = iter(range(1, at_step))
    sample = Transitions.sample

    def sample_or_die(self, batch_size, generator):
        if peers.rank == 1 and next(drawn, None) is None:
            os._exit(9)
        return sample(self, batch_size, generator)

    Transitions.sample = sample_or_die
    told(lambda: train("fitted_q", folder=out, peers=peers))


if __name__ == "__main__":
    with suppress(LostProcessError), joined(peers_of_torchrun()) as group:
        if len(sys.argv) > 2:
            killed(Path(sys.argv[1]), group, int(sys.argv[2]))
        else:
            all_cases(Path(sys.argv[1]), group)
    threads = sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    tell(f"left behind: {[name for name in threads if 'gloo' in name]}")
