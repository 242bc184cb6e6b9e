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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from mtrouter_rl.agents.networks import HistoryLayout, JointQNetwork
from mtrouter_rl.agents.parameters import JointParameters, LoopParameters, PositiveInt
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray

if TYPE_CHECKING:
    from mtrouter_rl.agents.transitions import Transitions

QUANTITIES = ("utility", "cost_usd")
"""What is learned; the return is a weighted sum of them."""
N_CALIBRATION_BINS = 10
_ROWS_PER_BLOCK = 2048


class FqeParameters(JointParameters, LoopParameters):
    """Sizes of the network, its training, and the repeats that tell how far the training is to be trusted.

    Attributes:
        n_iterations: Regressions; information travels backwards by one turn, or by the turns of a trace, with each.
        trace: Weight of the trace, in [0, 1]; see the module.
        n_warm_start: How many of the iterations, from the first, regress the logged return.
        n_repeats: How often the log is halved anew, and two networks are trained, one on each half.
    """

    n_iterations: PositiveInt = 100
    steps_per_iteration: PositiveInt = 60
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    keep_last: PositiveInt = 10
    text_projection: PositiveInt = 16
    history_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128,)
    joint_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (128, 64)
    trace: Annotated[float, Field(ge=0, le=1)] = 1.0
    n_warm_start: Annotated[int, Field(ge=0)] = 2
    n_repeats: PositiveInt = 2


class VectorQNetwork(JointQNetwork):
    """`JointQNetwork` with many outputs: one for every policy and quantity. Nothing is masked.

    A masked model has probability 0 under every policy and was never logged, so its value is never read.
    """

    def __init__(
        self,
        layout: HistoryLayout,
        parameters: JointParameters,
        *,
        model_features: Sequence[Sequence[float]],
        n_outputs: int,
    ) -> None:
        super().__init__(layout, parameters, model_features=model_features)
        inputs = self.head[-1].in_features
        assert isinstance(inputs, int)
        last = nn.Linear(inputs, n_outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head[-1] = last

    def forward(self, x: Tensor) -> Tensor:
        """Values of rows of [history features, ...], shape (B, D or more), as a tensor of shape (B, M, n_outputs)."""
        history = self.joint_history(self.history(x[:, : self.n_history]))
        values: Tensor = self.head(history.unsqueeze(1) + self._models().unsqueeze(0))
        return values


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
    """

    transitions: "Transitions"
    layout: HistoryLayout
    model_features: Sequence[Sequence[float]]
    policies: Mapping[str, FloatArray]
    clusters: npt.NDArray[np.int64]
    strata: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Values at n logged states, for P policies and K quantities.

    Attributes:
        logged: Value of the logged action, shape (n, P, K).
        states: Value of the state under the policy, shape (n, P, K).
    """

    logged: FloatArray
    states: FloatArray


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
    data: FqeData, parameters: FqeParameters, *, seed: int, show_progress: bool = False
) -> FqeResult:
    """Evaluate all policies, cross-fitted over halves of the log.

    Args:
        data: The log and the policies.
        parameters: Network, training, repeats.
        seed: Seed of halves, weights and mini-batches, at least 0. Torch's global random state is left as it was.
        show_progress: Whether to draw a progress bar.

    Raises:
        InvalidConfigError: If there are fewer than two clusters, no policy, an array of a wrong shape, a negative seed, or
            the training diverges.
    """
    _check(data, parameters, seed)
    sums = [np.zeros((len(data.transitions), len(data.policies), len(QUANTITIES))) for _ in range(2)]
    gaps = []
    starts = data.transitions.turns == 0
    total = parameters.n_repeats * 2 * parameters.n_iterations
    with torch.random.fork_rng(devices=[]), tqdm(total=total, desc="FQE", disable=not show_progress) as bar:
        for repeat in range(parameters.n_repeats):
            half = halves(data, np.random.default_rng([seed, repeat]))
            means = []
            for part in (0, 1):
                fit_seed = int(np.random.SeedSequence([seed, repeat, part]).generate_state(1)[0])
                found = _Regression(data, half != part, parameters, seed=fit_seed).run(bar)
                means.append(found.states[starts].mean(axis=0))
                outside = (half == part)[data.transitions.episodes]
                for of_all, of_one in zip(sums, (found.logged, found.states), strict=True):
                    of_all[outside] += of_one[outside] / parameters.n_repeats
            gaps.append(means[0] - means[1])
    values = Prediction(logged=sums[0], states=sums[1])
    return FqeResult(
        names=tuple(data.policies), values=values, gaps=np.array(gaps), residuals=_residuals(data.transitions, values)
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
        self.observations = torch.from_numpy(transitions.observations)
        self.actions = torch.from_numpy(transitions.actions)
        self.probabilities = torch.from_numpy(
            np.stack([np.asarray(one, dtype=np.float32) for one in data.policies.values()], axis=2)
        )
        rewards = np.stack([transitions.utility_gains, transitions.costs_usd], axis=1).astype(np.float64)
        self.turns = transitions.turns[self.indices]
        self.scales = _scales(self.turns, rewards[self.indices])
        self.rewards = (rewards[self.indices] / self.scales)[:, None, :]
        taken = self.probabilities[torch.from_numpy(self.indices), self.actions[self.indices]].numpy()
        self.traces = parameters.trace * taken[:, :, None]
        self.generator = np.random.default_rng(seed)
        torch.manual_seed(int(self.generator.integers(2**31)))
        n_outputs = len(data.policies) * len(QUANTITIES)
        self.network = VectorQNetwork(data.layout, parameters, model_features=data.model_features, n_outputs=n_outputs)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay, fused=True
        )

    def run(self, bar: "tqdm[NoReturn]") -> Prediction:
        """Fit, and give the mean prediction of the last iterates for every turn of the log, in its own units."""
        everything = np.arange(len(self.data.transitions))
        n_iterations = self.parameters.n_iterations
        n_kept = min(self.parameters.keep_last, n_iterations)
        shape = (len(everything), len(self.data.policies), len(QUANTITIES))
        logged, states = np.zeros(shape), np.zeros(shape)
        before: Prediction | None = None
        for iteration in range(n_iterations):
            targets = self._targets(before if iteration >= self.parameters.n_warm_start else None)
            self._regress(targets, iteration)
            is_kept = iteration >= n_iterations - n_kept
            found = self._predict(everything if is_kept else self.indices)
            before = _rows(found, self.indices) if is_kept else found
            if is_kept:
                logged += found.logged / n_kept
                states += found.states / n_kept
            bar.update()
        return Prediction(logged=logged * self.scales, states=states * self.scales)

    def _targets(self, before: Prediction | None) -> Tensor:
        """What the fitted turns are regressed on, shape (n, P * K)."""
        shape = (len(self.indices), len(self.data.policies), len(QUANTITIES))
        rewards = np.broadcast_to(self.rewards, shape)
        targets = backup(self.turns, rewards, before, self.traces)
        return torch.from_numpy(targets.reshape(len(targets), -1).astype(np.float32))

    def _regress(self, targets: Tensor, iteration: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.parameters.learning_rate_at(iteration)
        self.network.train()
        for _ in range(self.parameters.steps_per_iteration):
            chosen = self.generator.integers(len(self.indices), size=self.parameters.batch_size)
            indices = self.indices[chosen]
            observations = self.observations[self.data.transitions.rows[indices]]
            values = self.network.value_of(observations, self.actions[indices])
            loss = 0.5 * (values - targets[chosen]).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        if not torch.isfinite(loss):
            raise InvalidConfigError(
                f"iteration {iteration}: the loss is {loss.item()}, must be finite; the training diverges: lower "
                f"learning_rate (now {self.parameters.learning_rate})"
            )

    @torch.inference_mode()
    def _predict(self, indices: npt.NDArray[np.int64]) -> Prediction:
        self.network.eval()
        n_policies, n_quantities = len(self.data.policies), len(QUANTITIES)
        logged = np.empty((len(indices), n_policies, n_quantities), dtype=np.float32)
        states = np.empty_like(logged)
        for start in range(0, len(indices), _ROWS_PER_BLOCK):
            block = indices[start : start + _ROWS_PER_BLOCK]
            values = self.network(self.observations[self.data.transitions.rows[block]])
            values = values.reshape(len(block), values.shape[1], n_policies, n_quantities)
            part = slice(start, start + len(block))
            logged[part] = values[torch.arange(len(block)), self.actions[block]].numpy()
            states[part] = (values * self.probabilities[block][..., None]).sum(dim=1).numpy()
        return Prediction(logged=logged, states=states)


def _rows(prediction: Prediction, indices: npt.NDArray[np.int64]) -> Prediction:
    return Prediction(logged=prediction.logged[indices], states=prediction.states[indices])


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


@dataclass(frozen=True, kw_only=True)
class BellmanCheck:
    """How far fitted values contradict the turns that they were not fitted to, for one policy, in units of the quantity.

    Attributes:
        bias: Weighted residuals summed over the turns of an episode, mean over episodes. It says by how much the estimate is
            too low if states are met as often as in the log.
        bias_error: Its standard error over clusters.
        rmse: Root of the mean squared residual of one turn; chance is in it too.
        calibration: Root of the mean squared residual averaged over bins of the predicted value, a turn.
    """

    bias: float
    bias_error: float
    rmse: float
    calibration: float


def bellman_check(
    residuals: FloatArray,
    predicted: FloatArray,
    weights: FloatArray,
    cluster_of_turn: npt.NDArray[np.int64],
    *,
    n_episodes: int,
) -> BellmanCheck:
    """Check values of one policy and quantity.

    Args:
        residuals: Shape (N,).
        predicted: Values of the logged actions, shape (N,).
        weights: pi / propensity of every turn, or pi where propensities are unknown, shape (N,).
        cluster_of_turn: Shape (N,).
        n_episodes: E.

    Raises:
        InvalidConfigError: If no turn has any weight.
    """
    if not weights.sum() > 0:
        raise InvalidConfigError(
            "no logged turn has an action that the policy would take; its values cannot be checked"
        )
    # Normalised to the number of turns, so that without propensities the sum over an episode means the same.
    weighted = weights * residuals * (len(weights) / weights.sum() / n_episodes)
    n_clusters = int(cluster_of_turn.max()) + 1
    by_cluster = np.bincount(cluster_of_turn, weights=weighted, minlength=n_clusters)
    by_cluster = by_cluster[np.bincount(cluster_of_turn, minlength=n_clusters) > 0]
    edges = np.quantile(predicted[weights > 0], np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, predicted)
    totals = np.bincount(bins, weights=weights * residuals, minlength=N_CALIBRATION_BINS)
    masses = np.bincount(bins, weights=weights, minlength=N_CALIBRATION_BINS)
    means = np.divide(totals, masses, out=np.zeros(len(masses)), where=masses > 0)
    share = masses / masses.sum()
    return BellmanCheck(
        bias=float(weighted.sum()),
        bias_error=float(by_cluster.std(ddof=1) * np.sqrt(len(by_cluster))) if len(by_cluster) > 1 else float("inf"),
        rmse=float(np.sqrt((weights * residuals**2).sum() / weights.sum())),
        calibration=float(np.sqrt((share * means**2).sum())),
    )
