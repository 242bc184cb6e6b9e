"""Random tabular routing tasks whose exact values are known, to hold estimates from logs against.

A task has S states and M models. A call of model m in state s gains utility (a mean by (s, m), and normal noise) and costs
money (a mean by (s, m), times Gamma noise), then ends the episode with a chance by (s, m), or leads to a next state. The turn
limit ends it too, so that episodes differ in length and some ends are a termination and a truncation at once. Exact values come
from dynamic programming over the turns that are left.

Many logs are drawn at once, turn by turn over all their episodes: a thousand logs of a hundred episodes take a second.

Source: Sutton and Barto, Reinforcement Learning (2018), chapter 4 (policy evaluation).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.trajectory_arrays import TurnLog
from mtrouter_rl.records import FloatArray

COLUMNS = ("utility", "cost_usd", "return")


@dataclass(frozen=True, kw_only=True)
class TabularTask:
    """A routing task with S states and M models.

    Attributes:
        start: Chance of every first state, shape (S,).
        following: Chance of the next state if the task does not end, shape (S, M, S).
        stop: Chance that the task ends with the turn, shape (S, M).
        utility: Mean utility gained by a call, shape (S, M).
        cost_usd: Mean cost of a call, USD, shape (S, M).
        behavior: Probability of every model under the behaviour policy, all above 0, shape (S, M).
        max_turns: Turn limit.
        cost_weight: The return is utility minus this times cost.
        utility_noise: Standard deviation of the utility gained by a call.
        cost_noise: Standard deviation of the cost of a call, as a share of its mean.
    """

    start: FloatArray
    following: FloatArray
    stop: FloatArray
    utility: FloatArray
    cost_usd: FloatArray
    behavior: FloatArray
    max_turns: int
    cost_weight: float
    utility_noise: float = 0.2
    cost_noise: float = 0.5

    @classmethod
    def random(
        cls, rng: np.random.Generator, *, n_states: int = 4, n_models: int = 3, max_turns: int = 6
    ) -> "TabularTask":
        """Draw a task; dear models tend to be the better ones, and every model is called with probability 0.3 / M at least."""
        size = (n_states, n_models)
        strength = np.linspace(0, 1, n_models)
        return cls(
            start=rng.dirichlet(2 * np.ones(n_states)),
            following=rng.dirichlet(np.ones(n_states), size=size),
            stop=rng.uniform(0.1, 0.5, size=size),
            utility=0.1 + 0.5 * rng.random(size) + 0.3 * strength,
            cost_usd=(0.02 + 0.2 * strength**2) * rng.uniform(0.5, 1.5, size=size),
            behavior=0.3 / n_models + 0.7 * rng.dirichlet(2 * np.ones(n_models), size=n_states),
            max_turns=max_turns,
            cost_weight=0.5,
        )

    @property
    def rewards(self) -> FloatArray:
        """Mean utility, cost and return of a call, shape (S, M, 3)."""
        return np.stack([self.utility, self.cost_usd, self.utility - self.cost_weight * self.cost_usd], axis=2)

    def random_policy(self, rng: np.random.Generator) -> FloatArray:
        """Probabilities of a stochastic policy, shape (S, M)."""
        n_states, n_models = self.stop.shape
        return rng.dirichlet(2 * np.ones(n_models), size=n_states)

    def q_values(self, policy: FloatArray) -> FloatArray:
        """Exact values of every call by turn, state and model, with the policy from then on, shape (T, S, M, 3)."""
        q_values = np.zeros((self.max_turns, *self.rewards.shape))
        following = np.zeros((len(self.start), len(COLUMNS)))
        for turn in reversed(range(self.max_turns)):
            q_values[turn] = self.rewards + (1 - self.stop)[..., None] * (self.following @ following)
            following = (policy[..., None] * q_values[turn]).sum(axis=1)
        return q_values

    def value(self, policy: FloatArray) -> FloatArray:
        """Exact utility, cost and return of an episode under a policy, shape (3,)."""
        by_state = (policy[..., None] * self.q_values(policy)[0]).sum(axis=1)
        value: FloatArray = self.start @ by_state
        return value

    def least_standard_error(self, policy: FloatArray, *, n_episodes: int) -> FloatArray:
        """Standard error that no regular unbiased estimate of a policy's values from a log can be below, shape (3,).

        The log is of the behaviour policy. The estimate may know that the task is a Markov decision process with these states:

            n Var >= Var[V(s_0)] + sum_t E[(d_pi(s_t, m_t) / d_b(s_t, m_t))^2 Var[r_t + V(s_{t+1}) | s_t, m_t]],

        d being the chance to be in a state at turn t and to call a model there.

        Args:
            policy: Probabilities, shape (S, M).
            n_episodes: Episodes of the log.

        Source: Jiang and Li, Doubly Robust Off-policy Value Evaluation for Reinforcement Learning (2016), theorem 3.
        """
        q_values = self.q_values(policy)
        values = (policy[None, :, :, None] * q_values).sum(axis=2)
        following = (1 - self.stop)[..., None] * self.following
        variance = self.start @ (values[0] - self.start @ values[0]) ** 2
        noise = self._reward_variances()
        of_policy = of_behavior = self.start
        for turn in range(self.max_turns):
            after = values[turn + 1] if turn + 1 < self.max_turns else np.zeros_like(values[0])
            spread = noise + following @ after**2 - (following @ after) ** 2
            pairs, logged = of_policy[:, None] * policy, of_behavior[:, None] * self.behavior
            weights = np.divide(pairs**2, logged, out=np.zeros_like(pairs), where=logged > 0)
            variance = variance + np.einsum("sm,smk->k", weights, spread)
            of_policy = np.einsum("sm,smk->k", pairs, following)
            of_behavior = np.einsum("sm,smk->k", logged, following)
        errors: FloatArray = np.sqrt(variance / n_episodes)
        return errors

    def _reward_variances(self) -> FloatArray:
        utility = np.full(self.stop.shape, self.utility_noise**2)
        cost = (self.cost_noise * self.cost_usd) ** 2
        return np.stack([utility, cost, utility + self.cost_weight**2 * cost], axis=2)

    def simulate(
        self, n_logs: int, n_episodes: int, *, rng: np.random.Generator, cluster_size: int = 1
    ) -> "TabularLogs":
        """Draw logs of the behaviour policy.

        Args:
            n_logs: How many logs.
            n_episodes: Episodes of each, a multiple of `cluster_size`.
            rng: Source of all chance.
            cluster_size: Episodes of one cluster, which share their first state.

        Raises:
            InvalidConfigError: If `n_episodes` is no multiple of `cluster_size`.
        """
        if n_episodes % cluster_size:
            raise InvalidConfigError(
                f"n_episodes is {n_episodes}, must be a multiple of cluster_size ({cluster_size}): clusters are whole"
            )
        n = n_logs * n_episodes
        shape = (n, self.max_turns)
        states, actions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        stopped, is_played = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        first = rng.choice(len(self.start), p=self.start, size=n // cluster_size)
        state, alive = np.repeat(first, cluster_size), np.ones(n, dtype=bool)
        for turn in range(self.max_turns):
            action = _draw(self.behavior[state], rng)
            states[:, turn], actions[:, turn], is_played[:, turn] = state, action, alive
            stopped[:, turn] = rng.random(n) < self.stop[state, action]
            alive = alive & ~stopped[:, turn]
            state = _draw(self.following[state, action], rng)
        states, actions = states[is_played], actions[is_played]
        lengths = is_played.sum(axis=1)
        last = (np.arange(n), lengths - 1)
        utility = self.utility[states, actions] + rng.normal(0, self.utility_noise, size=len(states))
        cost = self.cost_usd[states, actions]
        if self.cost_noise > 0:
            shape_of_noise = self.cost_noise**-2
            cost = cost * rng.gamma(shape_of_noise, 1 / shape_of_noise, size=len(states))
        return TabularLogs(
            task=self,
            n_logs=n_logs,
            lengths=lengths,
            turns=np.nonzero(is_played)[1],
            states=states,
            actions=actions,
            rewards=np.stack([utility, cost, utility - self.cost_weight * cost], axis=1),
            clusters=np.tile(np.arange(n_episodes) // cluster_size, n_logs),
            terminated=stopped[last],
            truncated=lengths == self.max_turns,
        )


def _draw(chances: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One index per row of chances, shape (B, n) to (B,)."""
    drawn: npt.NDArray[np.int64] = (rng.random((len(chances), 1)) > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return drawn


@dataclass(frozen=True, kw_only=True)
class TabularLogs:
    """Logs of equally many episodes, one after the other; arrays are over all turns or all episodes of all logs.

    Attributes:
        task: Where they come from.
        n_logs: How many.
        lengths: Turns of every episode, shape (n_logs * E,).
        turns: Turn index, shape (N,).
        states: Shape (N,).
        actions: Shape (N,).
        rewards: Utility, cost and return of every turn, shape (N, 3).
        clusters: Cluster of every episode within its log, shape (n_logs * E,).
        terminated: Whether the task ended with the last turn, shape (n_logs * E,).
        truncated: Whether the last turn was the last allowed one, shape (n_logs * E,).
    """

    task: TabularTask
    n_logs: int
    lengths: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    states: npt.NDArray[np.int64]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]

    @property
    def n_episodes(self) -> int:
        """Episodes of one log."""
        return len(self.lengths) // self.n_logs

    def turns_of(self, number: int) -> slice:
        """Where the turns of a log lie in the arrays over turns."""
        ends = self.lengths.reshape(self.n_logs, -1).sum(axis=1).cumsum()
        return slice(int(ends[number - 1]) if number else 0, int(ends[number]))

    def log(self, number: int) -> TurnLog:
        """One of the logs, with its known propensities."""
        part = self.turns_of(number)
        episodes = slice(number * self.n_episodes, (number + 1) * self.n_episodes)
        states, actions = self.states[part], self.actions[part]
        return TurnLog(
            lengths=self.lengths[episodes],
            actions=actions,
            propensities=np.asarray(self.task.behavior[states, actions], dtype=np.float64),
            rewards=self.rewards[part],
            clusters=self.clusters[episodes],
            n_models=self.task.stop.shape[1],
        )

    def fitted_task(self, number: int, members: npt.NDArray[np.bool_]) -> TabularTask:
        """The task as the shares and means over some of a log's episodes have it; start and behaviour are taken over.

        Every pair of state and model counts one turn more, with the mean over all of them, so that one that was never logged
        has values too.

        Args:
            number: Which log.
            members: Which of its episodes, shape (E,).
        """
        log, part = self.log(number), self.turns_of(number)
        chosen = np.flatnonzero(np.repeat(members, log.lengths))
        states, actions = self.states[part], self.actions[part]
        rewards = self.rewards[part][chosen, :2]
        is_last = np.append(log.turns[1:] == 0, True)
        ended = np.zeros(len(states), dtype=bool)
        ended[is_last] = self.terminated[number * self.n_episodes : (number + 1) * self.n_episodes]
        pair = (states[chosen], actions[chosen])
        goes_on = chosen[~is_last[chosen]]
        counts = _table(self.task, pair, np.ones(len(chosen)))
        means = [(_table(self.task, pair, one) + one.mean()) / (counts + 1) for one in rewards.T]
        ends = ended[chosen].astype(np.float64)
        following = np.zeros_like(self.task.following)
        np.add.at(following, (states[goes_on], actions[goes_on], states[goes_on + 1]), 1.0)
        following += following.sum(axis=(0, 1)) / max(len(goes_on), 1)
        return replace(
            self.task,
            utility=means[0],
            cost_usd=means[1],
            stop=(_table(self.task, pair, ends) + ends.mean()) / (counts + 1),
            following=following / following.sum(axis=2, keepdims=True),
        )


def _table(
    task: TabularTask, pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], values: FloatArray
) -> FloatArray:
    """Sums of numbers of turns by state and model, shape (S, M)."""
    sums = np.zeros(task.stop.shape)
    np.add.at(sums, pairs, values)
    return sums
