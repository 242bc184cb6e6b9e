"""Fitted Q evaluation: what a router would have earned, from a model of its action values fitted to a log of another policy.

For every evaluation policy pi and every quantity (utility, cost) a vector-valued `JointQNetwork` learns Q^pi(h, m), what is
still to come if model m is called now and pi chooses ever after. Iteration k regresses, on all logged turns at once, on

    G_t = r_t + V_{k-1}(h_{t+1}) + c_{t+1} (G_{t+1} - Q_{k-1}(h_{t+1}, m_{t+1})),   c = trace * pi(m_{t+1} | h_{t+1}),

V(h) = sum_m pi(m | h) Q(h, m) being the exact mean over the policy's probabilities. With trace 0 that is FQE as it was
published (Le, Voloshin and Yue, Batch Policy Learning under Constraints, 2019); with trace 1 it is the tree backup of Precup,
Sutton and Singh (Eligibility Traces for Off-Policy Policy Evaluation, 2000), which takes over what was logged for as long as
the log did what the policy would do. It has the same fixed point, needs no propensities, and far fewer iterations.

Undiscounted: an episode ends at its turn limit at the latest, and how many turns are left is part of the history features. No
value follows the last turn of an episode, however it ended (as in `agents.transitions.make_transitions`).

This is not d3rlpy's `DiscreteFQE`, for three reasons. That one values the policy's single best action, so it cannot evaluate
stochastic policies (a behaviour-cloned router, random routing); it has one scalar reward, so that utility and cost of one
policy would be two trainings; and a log is read anew for every policy. Here all policies and quantities are outputs of one
network on one trunk, and the targets of an iteration come from one pass over the log.
"""

import copy
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.loop import check_loss, set_learning_rate
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.fqe_network import VectorQNetwork
from mtrouter_rl.ope.reward_memory import RewardMemory
from mtrouter_rl.progress import Progress
from mtrouter_rl.records import FloatArray, Positive, PositiveInt

if TYPE_CHECKING:
    from mtrouter_rl.transitions.arrays import Transitions

QUANTITIES = ("utility", "cost_usd")
"""What is learned; the return is a weighted sum of them."""
_TRIAL_STEPS = 3
_ROWS_PER_BLOCK = 192
"""Few enough that what the layers hand on stays in a core's cache: little more than half the time of 2048."""


class FqeParameters(JointParameters, LoopParameters):
    """Sizes of the network, its training, and the repeats that tell how far the training is to be trusted.

    Attributes:
        n_iterations: Regressions; information travels backwards by one turn, or by the turns of a trace, with each.
        trace: Weight of the trace, in [0, 1]; see the module.
        n_warm_start: How many of the iterations, from the first, regress the logged return.
        n_repeats: How often the log is halved anew, and two networks are trained, one on each half.
        max_turns_per_iteration: A regression is made on whole episodes with this many turns together, drawn anew every
            time; a log that has fewer is used as it is. It bounds the time of an iteration on very long logs. More than
            the steps of an iteration draw (`steps_per_iteration` times `batch_size`) are of little use.
        max_passes: A regression draws every turn of its half about this often at most, so that a small log costs in proportion
            to its size: `steps_per_iteration` are the steps of a log whose halves have `steps_per_iteration * batch_size /
            max_passes` turns or more, fewer turns get fewer steps. None always makes all steps.
        dropout: None by default. Values are predicted without dropout and fitted with it, which is not quite the same
            function; the difference of a turn adds up over the turns of an episode (measured: 15% too little cost).
    """

    n_iterations: PositiveInt = 100
    steps_per_iteration: PositiveInt = 60
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    keep_last: PositiveInt = 20
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    text_projection: PositiveInt = 16
    history_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128,)
    joint_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 64)
    trace: Annotated[float, Field(ge=0, le=1)] = 1.0
    n_warm_start: Annotated[int, Field(ge=0)] = 2
    n_repeats: PositiveInt = 2
    max_turns_per_iteration: PositiveInt = 40_000
    max_passes: Positive | None = 40.0

    def steps_for(self, n_turns: int) -> tuple[int, int]:
        """Gradient steps of a regression on so many turns, and the turns of each step.

        Example:
            >>> FqeParameters().steps_for(100), FqeParameters().steps_for(1000), FqeParameters().steps_for(10_000)
            ((40, 100), (60, 256), (60, 256))
        """
        if self.max_passes is None:
            return self.steps_per_iteration, self.batch_size
        size = min(self.batch_size, n_turns)
        return min(self.steps_per_iteration, math.ceil(self.max_passes * n_turns / size)), size


@dataclass(frozen=True, kw_only=True)
class FqeData:
    """A log, and what every policy would do in it.

    Attributes:
        transitions: N transitions of E episodes.
        layout: Of the history features in them.
        model_features: Features of the M models, shape (M, F).
        policies: Probability of every model at every logged state by policy, each of shape (N, M).
        clusters: Cluster of every episode, shape (E,); episodes of one cluster are always in one half of the log.
        strata: Kind of task of every episode, shape (E,); every half gets half the clusters of each.
        memory: What the rewards so far say of the N states; None if the states say it themselves.
    """

    transitions: "Transitions"
    layout: HistoryLayout
    model_features: Sequence[Sequence[float]]
    policies: Mapping[str, FloatArray]
    clusters: npt.NDArray[np.int64]
    strata: npt.NDArray[np.int64]
    memory: RewardMemory | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Values at n logged states, for P policies and K quantities.

    Attributes:
        logged: Value of the logged action, shape (n, P, K).
        states: Value of the state under the policy, shape (n, P, K).
    """

    logged: FloatArray
    states: FloatArray

    @classmethod
    def zeros(cls, n_states: int, n_policies: int) -> "Prediction":
        """Of so many states and policies, to be added to."""
        shape = (n_states, n_policies, len(QUANTITIES))
        return cls(logged=np.zeros(shape), states=np.zeros(shape))


@dataclass(frozen=True, kw_only=True)
class FqeResult:
    """What fitted Q evaluation says of every turn, by networks that were not fitted to the turn's cluster.

    Attributes:
        names: The P policies, in order.
        values: Mean over the repeats, in the units of the log (utility, USD).
        gaps: Mean value of the first states by the network of the one half minus that of the other, for every repeat, shape
            (n_repeats, P, K).
        residuals: Bellman residual r + V(h') - Q(h, m) of every turn, shape (N, P, K): what the turn and the state after it
            are worth more than the action was said to be worth, all by networks that did not see it.
    """

    names: tuple[str, ...]
    values: Prediction
    gaps: FloatArray
    residuals: FloatArray


def fitted_q_evaluation(
    data: FqeData, parameters: FqeParameters, *, seed: int, show_progress: bool = False, n_threads: int = 1
) -> FqeResult:
    """Evaluate all policies, cross-fitted over halves of the log.

    Args:
        data: The log and the policies.
        parameters: Network, training, repeats.
        seed: Seed of halves, weights and mini-batches, at least 0. Torch's global random state is left as it was.
        show_progress: Whether to draw a progress bar.
        n_threads: How many networks are fitted side by side, one a core; the numbers are the same with any. With dropout it is
            always one, since torch has one random state for all threads.

    Raises:
        InvalidConfigError: If there are fewer than two clusters, no policy, an array of a wrong shape, a negative seed, or
            the training diverges.
    """
    _check(data, parameters, seed)
    sums = [np.zeros((len(data.transitions), len(data.policies), len(QUANTITIES))) for _ in range(2)]
    starts = data.transitions.turns == 0
    means = []
    with torch.random.fork_rng(devices=[]):
        for outside, wanted, found in _all_networks(
            data, parameters, seed=seed, show_progress=show_progress, n_threads=n_threads
        ):
            means.append(found.states[starts[wanted]].mean(axis=0))
            for of_all, of_one in zip(sums, (found.logged, found.states), strict=True):
                of_all[outside] += of_one[outside[wanted]] / parameters.n_repeats
    gaps = np.array(means[::2]) - np.array(means[1::2])
    values = Prediction(logged=sums[0], states=sums[1])
    return FqeResult(
        names=tuple(data.policies), values=values, gaps=gaps, residuals=_residuals(data.transitions, values)
    )


_Found = tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], Prediction]
"""Turns that a network did not see, shape (N,); turns that it valued, these and the first ones; their values."""


class _EndedError(Exception):
    """The other networks are of no use any more."""


def _all_networks(
    data: FqeData, parameters: FqeParameters, *, seed: int, show_progress: bool, n_threads: int
) -> Iterator[_Found]:
    """Fit the two networks of every repeat, each on one half of the log; gives what each says, in order."""
    starts = data.transitions.turns == 0
    making = threading.Lock()  # weights are drawn from torch's random state, which all threads share
    is_over = threading.Event()
    jobs = [(repeat, part) for repeat in range(parameters.n_repeats) for part in (0, 1)]
    total = len(jobs) * (parameters.n_iterations + min(parameters.keep_last, parameters.n_iterations))

    def fit(job: tuple[int, int]) -> _Found:
        repeat, part = job
        half = halves(data, np.random.default_rng([seed, repeat]))
        outside = (half == part)[data.transitions.episodes]
        wanted = np.flatnonzero(outside | starts)
        with making:
            fit_seed = int(np.random.SeedSequence([seed, repeat, part]).generate_state(1)[0])
            regression = _Regression(data, half != part, parameters, seed=fit_seed)
        return outside, wanted, regression.run(wanted, count)

    def count() -> None:
        if is_over.is_set():
            raise _EndedError
        with making:
            bar.update()

    with Progress("FQE", total=total, is_shown=show_progress) as bar:
        if n_threads == 1 or parameters.dropout > 0:
            yield from map(fit, jobs)
            return
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            try:
                yield from threads.map(fit, jobs)
            finally:  # also of an interrupted one, which would else go on to its end
                is_over.set()


@dataclass(frozen=True, kw_only=True)
class FqeCost:
    """What fitted Q evaluation of a log will cost, about.

    Attributes:
        n_steps: Gradient steps of all networks together.
        n_steps_at_most: Those of a log that is long enough for all of them.
        seconds: Processor time, as a few steps took it just now.
    """

    n_steps: int
    n_steps_at_most: int
    seconds: float


def expected_cost(data: FqeData, parameters: FqeParameters) -> FqeCost:
    """Tell beforehand what `fitted_q_evaluation` will cost, from a trial that takes a few hundredths of a second.

    Raises:
        InvalidConfigError: As `fitted_q_evaluation`.
    """
    _check(data, parameters, 0)
    n_networks, n_turns = 2 * parameters.n_repeats, len(data.transitions)
    with torch.random.fork_rng(devices=[]):
        half = halves(data, np.random.default_rng(0))
        step_s, turn_s = _Regression(data, half == 0, parameters, seed=0).trial()
    n_used = min((n_turns + 1) // 2, parameters.max_turns_per_iteration)
    n_steps = n_networks * parameters.n_iterations * parameters.steps_for(n_used)[0]
    n_predicted = parameters.n_iterations * n_used + min(parameters.keep_last, parameters.n_iterations) * n_turns // 2
    return FqeCost(
        n_steps=n_steps,
        n_steps_at_most=n_networks * parameters.n_iterations * parameters.steps_per_iteration,
        seconds=n_steps * step_s + n_networks * n_predicted * turn_s,
    )


def halves(data: FqeData, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Half (0 or 1) of every episode, shape (E,): whole clusters, and of every stratum half of them, by chance."""
    half_of = np.zeros(int(data.clusters.max()) + 1, dtype=np.int64)
    n_before = 0
    for stratum in np.unique(data.strata):
        members = rng.permutation(np.unique(data.clusters[data.strata == stratum]))
        half_of[members] = (np.arange(len(members)) + n_before) % 2
        n_before += len(members)
    return half_of[data.clusters]


def _check(data: FqeData, parameters: FqeParameters, seed: int) -> None:
    n, n_models = len(data.transitions), data.transitions.n_models
    if seed < 0:
        raise InvalidConfigError(f"seed is {seed}, must be 0 or more")
    if not data.policies:
        raise InvalidConfigError("there is no policy to evaluate; give at least one")
    if len(np.unique(data.clusters)) < 2:
        raise InvalidConfigError(
            "the log has 1 cluster (task, variation), must have at least 2: values are learned on one half of them and "
            "read on the other"
        )
    for name, probabilities in data.policies.items():
        if probabilities.shape != (n, n_models):
            raise InvalidConfigError(
                f"policy '{name}': probabilities have shape {probabilities.shape}, must be {(n, n_models)}"
            )
    if parameters.n_warm_start >= parameters.n_iterations:
        raise InvalidConfigError(
            f"n_warm_start is {parameters.n_warm_start}, must be below n_iterations ({parameters.n_iterations})"
        )


def _residuals(transitions: "Transitions", values: Prediction) -> FloatArray:
    rewards = np.stack([transitions.utility_gains, transitions.costs_usd], axis=1).astype(np.float64)
    following = np.zeros_like(values.states)
    goes_on = np.flatnonzero(turns_to_end(transitions.turns) > 0)
    following[goes_on] = values.states[goes_on + 1]
    residuals: FloatArray = rewards[:, None, :] + following - values.logged
    return residuals


class _Regression:
    """One network, fitted to some of the episodes. Inside, quantities are in units of their scale."""

    def __init__(self, data: FqeData, members: npt.NDArray[np.bool_], parameters: FqeParameters, *, seed: int) -> None:
        transitions = data.transitions
        self.parameters = parameters
        self.data = data
        self.indices = np.flatnonzero(members[transitions.episodes])
        self.episodes, self.lengths = np.unique(transitions.episodes[self.indices], return_counts=True)
        self.actions = torch.from_numpy(transitions.actions)
        self.probabilities = torch.from_numpy(
            np.stack([np.asarray(one, dtype=np.float32) for one in data.policies.values()], axis=2)
        )
        memory = data.memory or RewardMemory.nothing(len(transitions), transitions.n_models)
        self.memory = (torch.from_numpy(memory.history), torch.from_numpy(memory.pairs))
        self.rewards = np.stack([transitions.utility_gains, transitions.costs_usd], axis=1).astype(np.float64)
        self.scales = _scales(transitions.turns[self.indices], self.rewards[self.indices])
        self.generator = np.random.default_rng(seed)
        torch.manual_seed(int(self.generator.integers(2**31)))
        self.network = VectorQNetwork(
            data.layout,
            parameters,
            model_features=data.model_features,
            n_memory=(memory.history.shape[1], memory.pairs.shape[2]),
            n_outputs=len(data.policies) * len(QUANTITIES),
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay, fused=True
        )

    def run(self, wanted: npt.NDArray[np.int64], count: Callable[[], None]) -> Prediction:
        """Fit, calling `count` after every iteration, and as often again as iterates are kept while these predict.

        Returns:
            The mean prediction of the last iterates for the wanted turns, in the log's own units.
        """
        n_iterations = self.parameters.n_iterations
        n_kept = min(self.parameters.keep_last, n_iterations)
        kept = []
        for iteration in range(n_iterations):
            chosen = self._whole_episodes()
            before = self._predict([self.network], chosen) if iteration >= self.parameters.n_warm_start else None
            self._regress(chosen, self._targets(chosen, before), iteration)
            if iteration >= n_iterations - n_kept:
                kept.append(copy.deepcopy(self.network))
            count()
        found = Prediction.zeros(len(wanted), len(self.data.policies))
        n_blocks = math.ceil(len(wanted) / _ROWS_PER_BLOCK)
        # Whole blocks: the size of one decides the last bits of what it gives.
        edges = np.minimum(np.linspace(0, n_blocks, n_kept + 1).astype(np.int64) * _ROWS_PER_BLOCK, len(wanted))
        for start, stop in itertools.pairwise(edges.tolist()):
            part = self._predict(kept, wanted[start:stop])
            found.logged[start:stop] = part.logged * self.scales
            found.states[start:stop] = part.states * self.scales
            count()
        return found

    def _whole_episodes(self) -> npt.NDArray[np.int64]:
        """Turns of this iteration, in order: all of them, or whole episodes drawn by chance up to the limit."""
        if len(self.indices) <= self.parameters.max_turns_per_iteration:
            return self.indices
        order = self.generator.permutation(len(self.episodes))
        n_fitting = np.searchsorted(
            np.cumsum(self.lengths[order]), self.parameters.max_turns_per_iteration, side="right"
        )
        is_drawn = np.zeros(self.episodes[-1] + 1, dtype=np.bool_)
        is_drawn[self.episodes[order[: max(1, int(n_fitting))]]] = True
        return self.indices[is_drawn[self.data.transitions.episodes[self.indices]]]

    def _targets(self, chosen: npt.NDArray[np.int64], before: Prediction | None) -> Tensor:
        """What the chosen turns are regressed on, shape (n, P * K)."""
        rewards = (self.rewards[chosen] / self.scales)[:, None, :]
        taken = self.probabilities[torch.from_numpy(chosen), self.actions[chosen]].numpy()
        targets = backup(
            self.data.transitions.turns[chosen],
            np.broadcast_to(rewards, (len(chosen), len(self.data.policies), len(QUANTITIES))),
            before,
            self.parameters.trace * taken[:, :, None],
        )
        return torch.from_numpy(targets.reshape(len(targets), -1).astype(np.float32))

    def _regress(self, turns: npt.NDArray[np.int64], targets: Tensor, iteration: int) -> None:
        set_learning_rate(self.optimizer, self.parameters, iteration)
        self.network.train()
        n_steps, size = self.parameters.steps_for(len(turns))
        for _ in range(n_steps):
            loss = self._step(turns, targets, size)
        check_loss(loss.item(), self.parameters, iteration)

    def _step(self, turns: npt.NDArray[np.int64], targets: Tensor, size: int) -> Tensor:
        """One gradient step on so many turns, drawn with replacement; gives the loss before it."""
        chosen = self.generator.integers(len(turns), size=size)
        indices = turns[chosen]
        actions = self.actions[indices]
        history, pairs = self.memory
        observations = self._observations(indices)
        values = self.network.values_of(observations, actions, history[indices], pairs[indices, actions])
        loss = 0.5 * (values - targets[chosen]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def _observations(self, turns: npt.NDArray[np.int64]) -> Tensor:
        """States of turns, shape (n, D + M)."""
        return torch.from_numpy(self.data.transitions.observations[self.data.transitions.rows[turns]])

    def trial(self) -> tuple[float, float]:
        """Processor time of a gradient step and of a predicted turn, s, from a few of each; it spoils the network."""
        turns = self._whole_episodes()[: self.parameters.batch_size]
        targets = self._targets(turns, None)
        _, size = self.parameters.steps_for(len(self.indices))
        for _ in range(_TRIAL_STEPS):  # the first ones are slower
            self._step(turns, targets, size)
        start = time.process_time()
        for _ in range(_TRIAL_STEPS):
            self._step(turns, targets, size)
        after_steps = time.process_time()
        self._predict([self.network], turns)
        return (after_steps - start) / _TRIAL_STEPS, (time.process_time() - after_steps) / len(turns)

    @torch.inference_mode()
    def _predict(self, networks: Sequence[VectorQNetwork], indices: npt.NDArray[np.int64]) -> Prediction:
        """Mean prediction of networks for some turns. A log on disk is read once for all of them."""
        n_policies, n_quantities = len(self.data.policies), len(QUANTITIES)
        found = Prediction.zeros(len(indices), n_policies)
        history, pairs = self.memory
        for network in networks:
            network.eval()
        for start in range(0, len(indices), _ROWS_PER_BLOCK):
            block = indices[start : start + _ROWS_PER_BLOCK]
            inputs = self._observations(block), history[block], pairs[block]
            taken = torch.arange(len(block)), self.actions[block]
            probabilities = self.probabilities[block][..., None]
            part = slice(start, start + len(block))
            for network in networks:
                values = network.all_values(*inputs)
                values = values.reshape(len(block), values.shape[1], n_policies, n_quantities)
                found.logged[part] += values[taken].numpy() / len(networks)
                found.states[part] += (values * probabilities).sum(dim=1).numpy() / len(networks)
        return found


def backup(
    turns: npt.NDArray[np.int64], rewards: FloatArray, before: Prediction | None, traces: FloatArray
) -> FloatArray:
    """Targets G_t of whole episodes, from the last turn to the first; see the module.

    Args:
        turns: Turn index, from 0 in every episode, shape (n,).
        rewards: Shape (n, P, K).
        before: Values by the iterate before; None gives the logged returns.
        traces: c_t, shape (n, P, 1).

    Returns:
        Shape (n, P, K).
    """
    to_end = turns_to_end(turns)
    targets = np.array(rewards, dtype=np.float64)
    for left in range(1, int(to_end.max()) + 1):
        now = np.flatnonzero(to_end == left)
        after = now + 1
        if before is None:
            targets[now] += targets[after]
        else:
            surprises = targets[after] - before.logged[after]
            targets[now] += before.states[after] + traces[after] * surprises
    return targets


def turns_to_end(turns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Turns that follow each turn in its episode, shape (n,); `turns` counts from 0 in every episode.

    Example:
        >>> turns_to_end(np.array([0, 1, 2, 0, 0, 1]))
        array([2, 1, 0, 0, 1, 0])
    """
    starts = np.flatnonzero(turns == 0)
    lengths = np.diff(np.append(starts, len(turns)))
    left: npt.NDArray[np.int64] = np.repeat(lengths, lengths) - 1 - turns
    return left


def _scales(turns: npt.NDArray[np.int64], rewards: FloatArray) -> FloatArray:
    """Standard deviation of the logged returns-to-go of every quantity, 1 for one that does not vary, shape (K,)."""
    returns = backup(turns, rewards[:, None, :], None, np.zeros((len(turns), 1, 1)))[:, 0]
    deviations = returns.std(axis=0)
    return np.where(deviations > 0, deviations, 1.0)
