"""Time of a gradient step of several networks at once, against one: what training seeds side by side can save on this machine.

The networks have stacked weights and go through one call (`torch.func`); each learns from a batch of its own ("own"), as
trainings of different seeds do, or all from one batch ("shared"). Loss and sizes are those of fitted-q.
What is printed is the time of a step of all of them over that of one. With the number of networks as ratio nothing
is saved; below it is what calls and small products cost beside the arithmetic.

    OMP_NUM_THREADS=1 python scripts/bench/several_trainings.py --networks 5
"""

import argparse
import copy
import time

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


def cpu_ms(side, n_steps):
    """Processor time of a step, ms."""
    start = time.process_time()
    for _ in range(n_steps):
        side.step()
    return 1000 * (time.process_time() - start) / n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64], metavar="B")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps of a block (default: 20)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=resolve_env("scienceworld").pool)
    layout, models = HistoryLayout.of_features(features), features.model_features.tolist()
    transitions = random_transitions(layout.n_columns, len(models))
    networks = [JointQNetwork(layout, JointParameters(), model_features=models) for _ in range(args.networks)]
    print(
        "| batch | one, CPU ms | each with its own batch: ratio (quartiles) | all with one batch: ratio (quartiles) |"
    )
    print("|---:|---:|---:|---:|")
    for batch_size in args.batch_sizes:
        loop = LoopParameters(batch_size=batch_size)
        sides = [BareTorch(networks[0], loop, transitions)]
        sides += [Stacked(networks, loop, transitions, is_shared=shared) for shared in (False, True)]
        found = np.array([[cpu_ms(side, args.steps) for side in sides] for _ in range(args.rounds + 1)])[1:]
        ratios = np.quantile(found[:, 1:] / found[:, :1], [0.25, 0.5, 0.75], axis=0)
        shown = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for low, middle, high in ratios.T]
        print(f"| {batch_size} | {np.median(found[:, 0]):.2f} | {shown[0]} | {shown[1]} |", flush=True)


if __name__ == "__main__":
    main()
