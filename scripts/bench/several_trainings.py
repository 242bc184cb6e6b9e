"""Time of a gradient step of several networks at once, against one: what training seeds side by side can save on this machine.

Three ways. The networks have stacked weights and go through one call (`torch.func`), each with a batch of its own ("own"), as
trainings of different seeds have, or all with one batch ("shared"). Or each is trained by itself, and so many processes as
there are cores take one after the other ("processes"), which is what `mtrouter-rl sweep` does. Loss and sizes are those of
fitted-q.

Printed is the time of a step of all networks over that of one, by the clock. With the number of networks as ratio nothing is
saved. `--compiled` adds one network whose calls `torch.compile` has compiled, over the same as it is.

    OMP_NUM_THREADS=1 python scripts/bench/several_trainings.py --networks 5
"""

import argparse
import copy
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from learner_overhead import GAMMA, BareTorch, random_transitions

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.networks import HistoryLayout, JointQNetwork
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import resolve_env


class Stacked:
    """Gradient steps of K networks whose weights lie in one tensor a name."""

    def __init__(self, networks, loop, transitions, *, is_shared):
        self.transitions, self.batch_size, self.is_shared = transitions, loop.batch_size, is_shared
        self.n = len(networks)
        self.network = copy.deepcopy(networks[0]).train()
        weights, self.buffers = torch.func.stack_module_state(networks)
        self.weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
        self.target = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=loop.learning_rate, weight_decay=loop.weight_decay, fused=True
        )
        self.generator = np.random.default_rng(0)

    def step(self):
        n = 1 if self.is_shared else self.n
        batch = self.transitions.batch(self.generator.integers(len(self.transitions), size=n * self.batch_size))
        shape = (n, self.batch_size, -1)
        now, following = (torch.from_numpy(one).view(shape) for one in (batch.observations, batch.next_observations))
        actions = torch.from_numpy(batch.actions).long().view(n, self.batch_size)
        rewards, terminals = (
            torch.from_numpy(one).view(n, self.batch_size) for one in (batch.rewards, batch.terminals)
        )
        if self.is_shared:
            now, following, actions = now[0], following[0], actions[0]
        with torch.no_grad():
            best = self._call("forward", self.weights, following).argmax(dim=-1)
            value = self._call("value_of", self.target, following, best, is_own=True).squeeze(-1)
            wanted = rewards + GAMMA * value * (1 - terminals)
        values = self._call("value_of", self.weights, now, actions).squeeze(-1)
        loss = (0.5 * (wanted - values) ** 2).mean(dim=1).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _call(self, name, weights, x, actions=None, *, is_own=False):
        """Outputs of all networks, for rows of their own or the same rows; `is_own`: actions are of each network."""
        member = _Member(self.network, name)

        def one(weight, buffer, rows, chosen):
            arguments = (rows,) if chosen is None else (rows, chosen)
            return torch.func.functional_call(member, _prefixed(weight) | _prefixed(buffer), arguments)

        rows_dim = None if self.is_shared else 0
        chosen_dim = None if actions is None else (0 if is_own else rows_dim)
        mapped = torch.func.vmap(one, in_dims=(0, 0, rows_dim, chosen_dim), randomness="different")
        return mapped(weights, self.buffers, x, actions)


class _Member(torch.nn.Module):
    """A network of which `forward` is one of its methods."""

    def __init__(self, network, name):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, *arguments):
        return getattr(self.network, self.name)(*arguments)


def _prefixed(tensors):
    return {f"network.{name}": tensor for name, tensor in tensors.items()}


def block_s(side, n_steps):
    """Time of a block of steps, s."""
    start = time.perf_counter()
    for _ in range(n_steps):
        side.step()
    return time.perf_counter() - start


_here = {}
"""What a process trains: a `BareTorch` for every batch size."""


def set_up(batch_sizes):
    """Make in a process what it trains."""
    torch.set_num_threads(1)
    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=resolve_env("scienceworld").pool)
    layout, models = HistoryLayout.of_features(features), features.model_features.tolist()
    transitions = random_transitions(layout.n_columns, len(models))
    for batch_size in batch_sizes:
        network = JointQNetwork(layout, JointParameters(), model_features=models)
        _here[batch_size] = BareTorch(network, LoopParameters(batch_size=batch_size), transitions)


def train_here(batch_size, n_steps):
    """A block of steps in this process."""
    return block_s(_here[batch_size], n_steps)


def compiled(side):
    """The same training with compiled calls."""
    side = copy.deepcopy(side)
    side.network.forward = torch.compile(side.network.forward)
    side.network.value_of, side.target.value_of = map(torch.compile, (side.network.value_of, side.target.value_of))
    return side


def by_processes_s(executor, batch_size, args):
    """Time until so many processes as there are cores have done a block for every network, s."""
    start = time.perf_counter()
    for done in [executor.submit(train_here, batch_size, args.steps) for _ in range(args.networks)]:
        done.result()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64], metavar="B")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="steps of a block (default: 40)")
    parser.add_argument(
        "--compiled", action="store_true", help="measure torch.compile as well; it needs a C++ compiler"
    )
    args = parser.parse_args()
    set_up(args.batch_sizes)
    n_processes = os.cpu_count() or 1
    print(f"{args.networks} networks, {n_processes} processes; medians and quartiles of {args.rounds} rounds\n")
    print(f"| batch | one, ms | own | shared | processes |{' one, compiled |' if args.compiled else ''}")
    print(f"|---:|---:|---:|---:|---:|{'---:|' if args.compiled else ''}")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, context, initializer=set_up, initargs=(args.batch_sizes,)) as executor:
        for batch_size in args.batch_sizes:
            compare(executor, batch_size, args)


def compare(executor, batch_size, args):
    """Print the row of a batch size."""
    one = _here[batch_size]
    networks = [copy.deepcopy(one.network) for _ in range(args.networks)]
    sides = [one, *(Stacked(networks, one.loop, one.transitions, is_shared=shared) for shared in (False, True))]
    others = [compiled(one)] if args.compiled else []
    rounds = []
    for _ in range(args.rounds + 1):
        found = [block_s(side, args.steps) for side in sides]
        found.append(by_processes_s(executor, batch_size, args))
        rounds.append(found + [block_s(side, args.steps) for side in others])
    seconds = np.array(rounds[1:])  # the first round warms up
    ratios = np.quantile(seconds[:, 1:] / seconds[:, :1], [0.25, 0.5, 0.75], axis=0)
    shown = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for low, middle, high in ratios.T]
    ms = 1000 * np.median(seconds[:, 0]) / args.steps
    print(f"| {batch_size} | {ms:.2f} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
