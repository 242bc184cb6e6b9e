"""A log of a tabular task as fitted Q evaluation takes it."""

import numpy as np

from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.ope.fqe import FqeData
from mtrouter_rl.studies.ope_coverage.tabular import TabularTask
from mtrouter_rl.transitions.arrays import Transitions

N_MODELS = 3


class TabularMDP:
    """A random task with uniform logging by 3 models of fixed prices, and policies whose exact values are known."""

    def __init__(self, seed, *, n_states=3, max_turns=6):
        rng = np.random.default_rng(seed)
        size = (n_states, N_MODELS)
        self.max_turns = max_turns
        self.task = TabularTask(
            start=np.eye(n_states)[0],
            following=rng.dirichlet(np.ones(n_states), size=size),
            stop=rng.uniform(0.05, 0.4, size=size),
            utility=rng.uniform(0, 1, size=size),
            cost_usd=np.broadcast_to([0.01, 0.02, 0.1], size),
            behavior=np.full(size, 1 / N_MODELS),
            max_turns=max_turns,
            cost_weight=1.0,
            cost_noise=0.0,
        )
        self.policies = {
            "stochastic": rng.dirichlet(3 * np.ones(N_MODELS), size=n_states),
            "greedy": np.eye(N_MODELS)[rng.integers(N_MODELS, size=n_states)],
            "always-2": np.eye(N_MODELS)[[2] * n_states],
        }

    def truth(self, policy):
        """Exact utility and cost of a policy."""
        return self.task.value(self.policies[policy])[:2]

    def estimated(self, policy, n_episodes, seed):
        """Utility and cost of a policy in the tabular model of a log's own counts, by turn: what a perfect fit reaches."""
        logs = self.simulate(n_episodes, seed)
        turns, states, actions = logs.turns, logs.states, logs.actions
        n_states = len(self.task.start)
        counts = np.zeros((self.max_turns, n_states, N_MODELS))
        rewards, following = np.zeros((*counts.shape, 2)), np.zeros((*counts.shape, n_states))
        np.add.at(counts, (turns, states, actions), 1)
        np.add.at(rewards, (turns, states, actions), logs.rewards[:, :2])
        goes_on = np.flatnonzero(turns[1:] > 0)
        np.add.at(following, (turns[goes_on], states[goes_on], actions[goes_on], states[goes_on + 1]), 1)
        values = np.zeros((n_states, 2))
        for turn in reversed(range(self.max_turns)):
            q_values = (rewards[turn] + following[turn] @ values) / np.maximum(counts[turn], 1)[..., None]
            values = (self.policies[policy][..., None] * q_values).sum(axis=1)
        return values[0]

    def simulate(self, n_episodes, seed):
        """One log of the task."""
        return self.task.simulate(1, n_episodes, rng=np.random.default_rng(seed))

    def data(self, n_episodes, seed):
        """One log as transitions, with the turn and the state as history features."""
        logs = self.simulate(n_episodes, seed)
        log = logs.log(0)
        n_states = len(self.task.start)
        n_columns = n_states + self.max_turns
        episodes = np.repeat(np.arange(n_episodes), log.lengths)
        rows = np.arange(len(log.actions)) + episodes  # one row more for the end of every episode
        observations = np.zeros((len(rows) + n_episodes, n_columns + N_MODELS), dtype=np.float32)
        observations[rows, logs.states] = 1
        observations[rows, n_states + logs.turns] = 1
        observations[rows, n_columns:] = 1
        zeros = np.zeros(len(rows), dtype=np.float32)
        return FqeData(
            transitions=Transitions(
                observations=observations,
                rows=rows,
                actions=log.actions,
                rewards=zeros,
                terminals=zeros,
                utility_gains=logs.rewards[:, 0].astype(np.float32),
                costs_usd=logs.rewards[:, 1].astype(np.float32),
                episodes=episodes,
                turns=logs.turns,
                returns=zeros,
                n_models=N_MODELS,
            ),
            layout=HistoryLayout(n_columns=n_columns, text_blocks=()),
            model_features=[[0.0], [0.5], [1.0]],
            policies={name: pi[logs.states] for name, pi in self.policies.items()},
            clusters=np.arange(n_episodes),
            strata=np.zeros(n_episodes, dtype=np.int64),
        )
