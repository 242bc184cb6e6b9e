"""Time of a gradient step through d3rlpy, as fitted-q trains, against the same step in bare torch.

Both draw from the same transitions with the same generator and train the same network with the same double-DQN loss and the
same optimizer; they begin with the same weights and end with the same ones, which is checked. Blocks of steps alternate
within one run, and the ratio is taken round by round: of the processor time, which other work on the machine changes less,
and of the clock. Features are random numbers of the sizes that ScienceWorld's log has.

    python scripts/bench/learner_overhead.py
"""

import argparse
import copy
import time

import numpy as np
import torch

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.learners import Q_FUNCTIONS, Networks, QLearning, q_learner, to_d3rlpy
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.transitions.arrays import Transitions, discounted_returns

GAMMA = 0.95


class ThroughD3rlpy:
    """The training loop's own steps: `Transitions.sample`, then the algorithm's `update`."""

    def __init__(self, factory, loop, transitions, *, seed=0):
        self.transitions, self.batch_size = transitions, loop.batch_size
        self.algorithm = q_learner(QLearning(learner="double_dqn", gamma=GAMMA), factory).build(
            loop, torch.device("cpu")
        )
        torch.manual_seed(seed)
        self.algorithm.create_impl((transitions.observations.shape[1],), transitions.n_models)
        self.algorithm.set_grad_step(1)
        self.generator = np.random.default_rng(seed)

    @property
    def network(self):
        return Networks(self.algorithm).modules[Q_FUNCTIONS][0].network

    def step(self):
        batch = self.transitions.sample(self.batch_size, self.generator)
        return self.algorithm.update(to_d3rlpy(batch))["loss"]


class BareTorch:
    """The same steps without d3rlpy, from a copy of a network."""

    def __init__(self, network, loop, transitions, *, seed=0):
        self.transitions, self.loop = transitions, loop
        self.network, self.target = copy.deepcopy(network).train(), copy.deepcopy(network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=loop.learning_rate, weight_decay=loop.weight_decay, fused=True
        )
        self.generator = np.random.default_rng(seed)
        self.n_done = 0

    def step(self):
        data = self.transitions
        indices = self.generator.integers(len(data), size=self.loop.batch_size)
        rows = data.rows[indices]
        now, following = (torch.from_numpy(data.observations[row]) for row in (rows, rows + 1))
        actions, rewards, terminals = (
            torch.from_numpy(array[indices]) for array in (data.actions, data.rewards, data.terminals)
        )
        with torch.no_grad():
            best = self.network(following).argmax(dim=1)
            value = self.target.value_of(following, best).squeeze(1)
            wanted = rewards + GAMMA * value * (1 - terminals)
        loss = (0.5 * (wanted - self.network.value_of(now, actions).squeeze(1)) ** 2).mean()
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        self.optimizer.step()
        self.n_done += 1
        if self.n_done % self.loop.steps_per_iteration == 0:
            self.target.load_state_dict(self.network.state_dict())
        return float(loss.detach())


def random_transitions(n_columns, n_models, *, n_episodes=200, n_turns=30, seed=0):
    """Episodes of equal length with random features, actions and rewards; every model is allowed."""
    rng = np.random.default_rng(seed)
    n = n_episodes * n_turns
    observations = rng.normal(size=(n + n_episodes, n_columns + n_models)).astype(np.float32)
    observations[:, n_columns:] = 1
    episodes, turns = np.divmod(np.arange(n), n_turns)
    observations[np.arange(n_episodes) * (n_turns + 1) + n_turns, n_columns:] = 0
    rewards = rng.normal(size=(n_episodes, n_turns))
    return Transitions(
        observations=observations,
        rows=np.arange(n) + episodes,
        actions=rng.integers(n_models, size=n),
        rewards=rewards.reshape(-1).astype(np.float32),
        terminals=(turns == n_turns - 1).astype(np.float32),
        utility_gains=np.zeros(n, dtype=np.float32),
        costs_usd=np.zeros(n, dtype=np.float32),
        episodes=episodes,
        turns=turns,
        returns=np.concatenate([discounted_returns(row, GAMMA) for row in rewards]).astype(np.float32),
        n_models=n_models,
    )


def check_equal(through, bare, *, n_steps=5):
    """Steps of both from the same random state: losses, and at last weights, must be equal to the bit."""
    for number in range(n_steps):
        losses = []
        for side in (through, bare):
            torch.manual_seed(number)  # of the dropout
            losses.append(side.step())
        if losses[0] != losses[1]:
            raise SystemExit(f"step {number}: the loss is {losses[0]} through d3rlpy and {losses[1]} in bare torch")
    theirs, ours = through.network.state_dict(), bare.network.state_dict()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if differing:
        raise SystemExit(f"after {n_steps} steps the weights differ at {', '.join(differing)}")


def seconds(side, n_steps):
    """(Processor time, time by the clock) of a step, in a block of steps."""
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(n_steps):
        side.step()
    return np.array([time.process_time() - cpu, time.perf_counter() - clock]) / n_steps


def compare(through, bare, *, n_rounds, n_steps):
    """Seconds of a step of both in alternating blocks, shape (n_rounds, 2 sides, 2 clocks); who begins alternates as well."""
    rounds = []
    for number in range(n_rounds):
        order = (through, bare) if number % 2 == 0 else (bare, through)
        found = {id(side): seconds(side, n_steps) for side in order}
        rounds.append([found[id(through)], found[id(bare)]])
    return np.array(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64, 1024], metavar="B")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of one block each")
    parser.add_argument("--transitions-per-block", type=int, default=5120, metavar="N", help="steps times batch size")
    args = parser.parse_args()
    silence_gym_notice()
    from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)

    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=resolve_env("scienceworld").pool)
    layout, models = HistoryLayout.of_features(features), features.model_features.tolist()
    transitions = random_transitions(layout.n_columns, len(models))
    factory = JointQFunctionFactory.of(layout, JointParameters(), model_features=models)
    print(f"{layout.n_columns} columns, {len(models)} models, {len(transitions)} transitions, 1 thread\n")
    print(f"{'batch':>6} {'d3rlpy, ms':>11} {'bare, ms':>9} {'ratio of CPU time (quartiles)':>30} {'of the clock':>22}")
    for batch_size in args.batch_sizes:
        loop = LoopParameters(batch_size=batch_size)
        through = ThroughD3rlpy(factory, loop, transitions)
        bare = BareTorch(through.network, loop, transitions)
        check_equal(through, bare)
        n_steps = max(1, args.transitions_per_block // batch_size)
        found = compare(through, bare, n_rounds=args.rounds, n_steps=n_steps)
        low, middle, high = np.quantile(found[:, 0] / found[:, 1], [0.25, 0.5, 0.75], axis=0)
        ratios = [f"{m:.3f} [{a:.3f}, {b:.3f}]" for a, m, b in zip(low, middle, high, strict=True)]
        ms = 1000 * np.median(found[:, :, 0], axis=0)
        print(f"{batch_size:6} {ms[0]:11.2f} {ms[1]:9.2f} {ratios[0]:>30} {ratios[1]:>22}", flush=True)
    print("\nLosses and weights of the first steps are equal to the bit.")


if __name__ == "__main__":
    main()
