"""Off-policy evaluation of turn-by-turn routers: what would another policy have earned, judged from the log alone?

Episode i has turns t = 0..T_i - 1 with rewards r_it, logged actions a_it and their propensities b_it. An evaluation policy
gives the logged action probability pi_it. With the ratio rho_it = pi_it / b_it and W_it = rho_i0 ... rho_it (W_i,-1 = 1):

=======  ==================================================================================================================
IS       mean_i W_i,T-1 sum_t r_it                                                                                 unbiased
WIS      the same over sum_i W_i,T-1, not over n                                                                 consistent
PDIS     mean_i sum_t W_it r_it                                                                                    unbiased
WPDIS    sum_t (sum_i W_it r_it) / (sum_i W_it)                                                                  consistent
DM       mean_i v_i0: what a model of the policy's values says of the first states                 as good as the model is
DR       mean_i sum_t [W_it (r_it - q_it) + W_i,t-1 v_it], q_it the value of the logged action and v_it the
         policy's value of the state                                     unbiased if the model was not fitted to episode i
WDR      the same with weights W_it / sum_i W_it                                                                 consistent
=======  ==================================================================================================================

Episodes end at different turns. One that has ended stays in the sums over i with its last weight and no reward, as if it
had gone on in a state that pays nothing; leaving it out would favour policies under which episodes last.

All of it is undiscounted, as the returns that are reported.

Source: Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation (2000): IS, WIS, PDIS and WPDIS; Jiang
and Li, Doubly Robust Off-policy Value Evaluation (2016): DR; Thomas and Brunskill, Data-Efficient Off-Policy Policy Evaluation
(2016): WDR.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.evaluation.statistics import CONFIDENCE, N_RESAMPLES
from mtrouter_rl.records import BoolArray, Episode, FloatArray

Estimator = Literal["is", "wis", "pdis", "wpdis", "dm", "dr", "wdr"]
ESTIMATORS: tuple[Estimator, ...] = ("is", "wis", "pdis", "wpdis", "dm", "dr", "wdr")
MODEL_BASED: frozenset[Estimator] = frozenset({"dm", "dr", "wdr"})
_SUM_TOLERANCE = 1e-6
_RESAMPLES_PER_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class TurnLog:
    """Logged turns as arrays, episode after episode.

    Attributes:
        lengths: Turns of every episode, at least 1, shape (E,).
        actions: Model of every turn, shape (N,), N the sum of the lengths.
        propensities: Probability of the logged action under the behaviour policy, in (0, 1], shape (N,); None if nobody
            knows, which leaves the direct method (dm) alone.
        rewards: One column for every quantity that is estimated, shape (N, K).
        clusters: Cluster of every episode for the bootstrap, such as its (task, variation), shape (E,).
        n_models: M.
    """

    lengths: npt.NDArray[np.int64]
    actions: npt.NDArray[np.int64]
    propensities: npt.NDArray[np.float64] | None
    rewards: npt.NDArray[np.float64]
    clusters: npt.NDArray[np.int64]
    n_models: int

    def __post_init__(self) -> None:
        n = int(self.lengths.sum())
        propensities = np.ones(n) if self.propensities is None else self.propensities
        shapes = (self.actions.shape, propensities.shape, self.rewards.shape[:1], self.clusters.shape)
        if not len(self.lengths) or shapes != ((n,), (n,), (n,), (len(self.lengths),)):
            raise InvalidConfigError(
                f"lengths give {n} turns of {len(self.lengths)} episodes, but actions, propensities, rewards and clusters "
                f"have shapes {shapes}; give one entry per turn, and one cluster per episode"
            )
        if (self.lengths < 1).any():
            raise InvalidConfigError("an episode has no turn; leave such episodes out and count them")
        bad = np.flatnonzero(~((propensities > 0) & (propensities <= 1)))
        if bad.size:
            raise InvalidConfigError(
                f"turn {bad[0]}: propensity is {propensities[bad[0]]}, must be in (0, 1]; without propensities only "
                "the direct method (dm) can be had"
            )
        wrong = np.flatnonzero(~np.isfinite(self.rewards).all(axis=1))
        if wrong.size:
            raise InvalidConfigError(f"turn {wrong[0]}: rewards are {self.rewards[wrong[0]]}, must be finite")

    @classmethod
    def of_episodes(
        cls, episodes: Sequence[Episode], model_names: Sequence[str], rewards: npt.NDArray[np.float64]
    ) -> "TurnLog":
        """Arrays of logged episodes, all with at least one turn and known propensities.

        Args:
            episodes: The E episodes.
            model_names: Names of the pool, length M.
            rewards: One row for every turn of them, in order, shape (N, K).

        Raises:
            InvalidConfigError: If a propensity is unknown, or a shape is wrong.
        """
        turns = [turn for episode in episodes for turn in episode.turns]
        unknown = sum(turn.propensity is None for turn in turns)
        if unknown:
            raise InvalidConfigError(
                f"{unknown} of {len(turns)} turns have no propensity; estimate the behaviour policy first, or use the "
                "direct method alone"
            )
        index = {name: number for number, name in enumerate(model_names)}
        pairs = [(episode.task, episode.variation) for episode in episodes]
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        return cls(
            lengths=np.array([len(episode.turns) for episode in episodes], dtype=np.int64),
            actions=np.array([index[turn.model] for turn in turns], dtype=np.int64),
            propensities=np.array([turn.propensity for turn in turns], dtype=np.float64),
            rewards=rewards,
            clusters=np.array([numbers[pair] for pair in pairs], dtype=np.int64),
            n_models=len(model_names),
        )

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Index of every episode's first turn, shape (E,)."""
        starts: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return starts


@dataclass(frozen=True, kw_only=True)
class Values:
    """A model of an evaluation policy's values at the logged states.

    Attributes:
        logged: Value of the logged action, shape (N, K).
        states: Value of the state under the policy, the mean of the action values over its probabilities, shape (N, K).
    """

    logged: npt.NDArray[np.float64]
    states: npt.NDArray[np.float64]

    @classmethod
    def of(cls, q_values: FloatArray, probabilities: FloatArray, actions: npt.NDArray[np.int64]) -> "Values":
        """From action values of shape (N, M, K), probabilities of shape (N, M) and logged actions of shape (N,)."""
        return cls(
            logged=np.asarray(q_values[np.arange(len(actions)), actions], dtype=np.float64),
            states=np.asarray((probabilities[:, :, None] * q_values).sum(axis=1), dtype=np.float64),
        )


@dataclass(frozen=True, kw_only=True)
class OpeDiagnosis:
    """Whether the log speaks of the policy.

    Attributes:
        effective_sample_size: (sum W)^2 / sum W^2 of the whole-episode weights, of E episodes.
        effective_by_turn: The same of W_it, one number a turn, shape (T_max,).
        never_logged_share: Share of turns at which the policy's likeliest action is not the logged one.
        largest_weight_share: Share of the largest whole-episode weight in their sum.
    """

    effective_sample_size: float
    effective_by_turn: FloatArray
    never_logged_share: float
    largest_weight_share: float


@dataclass(frozen=True, kw_only=True)
class OpeEstimate:
    """Estimates of one policy by one estimator.

    Attributes:
        estimator: Which.
        value: One number per column of the rewards, shape (K,).
        draws: The same of bootstrap resamples of clusters, shape (n_resamples, K).
    """

    estimator: Estimator
    value: FloatArray
    draws: FloatArray

    def interval(self, column: int) -> tuple[float, float]:
        """95% percentile interval of a column."""
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(self.draws[:, column], [tail, 1 - tail])
        return float(low), float(high)


def estimate(
    log: TurnLog,
    probabilities: FloatArray,
    *,
    values: Values | None = None,
    seed: int,
    estimators: Sequence[Estimator] | None = None,
    n_resamples: int = N_RESAMPLES,
) -> dict[Estimator, OpeEstimate]:
    """Estimate one policy by several estimators, on shared bootstrap resamples of whole clusters.

    Args:
        log: The logged turns.
        probabilities: The policy's probability of every model at every logged state, shape (N, M); rows sum to 1.
        values: A model of the policy's values, for dm, dr and wdr; None leaves them out.
        seed: Seed of the bootstrap; policies that are estimated with one seed on one log share their resamples.
        estimators: Which; None takes all that `values` allows.
        n_resamples: Bootstrap resamples.

    Raises:
        InvalidConfigError: If probabilities are no distributions, a shape is wrong, an estimator lacks `values` or the log
            propensities, or an estimator is unknown.
    """
    check_probabilities(probabilities, np.ones((len(log.actions), log.n_models), dtype=bool))
    wanted = tuple(name for name in ESTIMATORS if values is not None or name not in MODEL_BASED)
    wanted = wanted if estimators is None else tuple(estimators)
    for name in wanted:
        if name not in ESTIMATORS:
            raise unknown_name("estimator", name, ESTIMATORS)
    if values is None and MODEL_BASED & set(wanted):
        raise InvalidConfigError(f"estimators {sorted(MODEL_BASED & set(wanted))} need a model of the values; give one")
    weighting = [name for name in wanted if name != "dm"]
    padded = _Padded.of(log, _ratios(log, probabilities) if weighting else np.ones(len(log.actions)))
    found: dict[Estimator, OpeEstimate] = {}
    for name in wanted:
        per_episode, finish = _TERMS[name](padded, values)
        per_cluster = np.zeros((int(log.clusters.max()) + 1, per_episode.shape[1]))
        np.add.at(per_cluster, log.clusters, per_episode)
        draws = _resample(per_cluster, finish, rng=np.random.default_rng(seed), n_resamples=n_resamples)
        value = finish(per_cluster.sum(axis=0, keepdims=True))[0]
        found[name] = OpeEstimate(estimator=name, value=value, draws=draws)
    return found


def diagnose(log: TurnLog, probabilities: FloatArray) -> OpeDiagnosis:
    """How much the log says of a policy. Raises as `estimate`."""
    check_probabilities(probabilities, np.ones((len(log.actions), log.n_models), dtype=bool))
    ratios = _ratios(log, probabilities)
    weights = _Padded.of(log, ratios).weights
    last = weights[:, -1]
    total = last.sum()
    return OpeDiagnosis(
        effective_sample_size=_effective(last),
        effective_by_turn=np.array([_effective(column) for column in weights.T]),
        never_logged_share=float((probabilities.argmax(axis=1) != log.actions).mean()),
        largest_weight_share=float(last.max() / total) if total > 0 else 1.0,
    )


def _ratios(log: TurnLog, probabilities: FloatArray) -> FloatArray:
    """pi_it / b_it of every turn, shape (N,)."""
    if log.propensities is None:
        raise InvalidConfigError(
            "the log has no propensities, and all estimators but dm weigh by them; estimate them, or ask for dm alone"
        )
    ratios: FloatArray = probabilities[np.arange(len(log.actions)), log.actions] / log.propensities
    return ratios


def _effective(weights: FloatArray) -> float:
    """Effective sample size (sum W)^2 / sum W^2; 0 if every weight is 0. Source: Kish, Survey Sampling (1965)."""
    largest = float(weights.max())
    if largest <= 0:
        return 0.0
    scaled = weights / largest  # products of many ratios are huge: their squares would overflow
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def check_probabilities(probabilities: FloatArray, masks: BoolArray) -> None:
    """Check that a policy gives a distribution over the allowed models at every turn.

    Args:
        probabilities: One row per turn, should have the shape of the masks.
        masks: Allowed models, shape (N, M).

    Raises:
        InvalidConfigError: Names the first turn that breaks a rule.
    """
    if probabilities.shape != masks.shape:
        raise InvalidConfigError(
            f"probabilities have shape {probabilities.shape}, must be {masks.shape}: one row per turn"
        )
    sums = probabilities.sum(axis=1)
    bad = np.flatnonzero(~(np.abs(sums - 1) <= _SUM_TOLERANCE) | (probabilities < 0).any(axis=1))
    if bad.size:
        raise InvalidConfigError(
            f"turn {bad[0]}: probabilities {probabilities[bad[0]]} sum to {sums[bad[0]]}, must be a distribution over the "
            "models"
        )
    forbidden = np.flatnonzero((np.where(masks, 0.0, probabilities) > _SUM_TOLERANCE).any(axis=1))
    if forbidden.size:
        raise InvalidConfigError(
            f"turn {forbidden[0]}: probabilities {probabilities[forbidden[0]]} reach masked models, must be 0 where the "
            f"action mask is ({masks[forbidden[0]].astype(int)})"
        )


@dataclass(frozen=True, kw_only=True)
class _Padded:
    """Turns laid out by episode and turn; after its end an episode keeps its last weight and has no reward.

    Attributes:
        weights: W_it, shape (E, T).
        before: W_i,t-1, shape (E, T).
        rewards: Shape (E, T, K).
        positions: Row of the (E * T) layout that every logged turn has, shape (N,).
    """

    weights: FloatArray
    before: FloatArray
    rewards: FloatArray
    positions: npt.NDArray[np.int64]

    @classmethod
    def of(cls, log: TurnLog, ratios: FloatArray) -> "_Padded":
        n_episodes, n_turns = len(log.lengths), int(log.lengths.max())
        episodes = np.repeat(np.arange(n_episodes), log.lengths)
        turns = np.arange(len(log.actions)) - np.repeat(log.starts, log.lengths)
        positions = episodes * n_turns + turns
        grid = np.ones(n_episodes * n_turns)
        grid[positions] = ratios
        weights = np.cumprod(grid.reshape(n_episodes, n_turns), axis=1)
        before = np.concatenate([np.ones((n_episodes, 1)), weights[:, :-1]], axis=1)
        padded = cls(weights=weights, before=before, rewards=np.zeros((0, 0, 0)), positions=positions)
        return cls(weights=weights, before=before, rewards=padded.spread(log.rewards), positions=positions)

    def spread(self, values: FloatArray) -> FloatArray:
        """Numbers of the logged turns, shape (N, K), in the layout (E, T, K), 0 after the end."""
        grid = np.zeros((self.weights.size, values.shape[1]))
        grid[self.positions] = values
        return grid.reshape(*self.weights.shape, values.shape[1])


Finish = Callable[[FloatArray], FloatArray]
"""From sums over episodes, shape (R, F), to estimates, shape (R, K)."""


def _mean(totals: FloatArray, counts: FloatArray) -> tuple[FloatArray, Finish]:
    """Ratio of sums: totals of shape (E, K) over counts of shape (E,)."""
    return np.concatenate([counts[:, None], totals], axis=1), lambda sums: _divide(sums[:, 1:], sums[:, :1])


def _by_turn(terms: FloatArray, weights: FloatArray) -> tuple[FloatArray, Finish]:
    """Sum over turns of ratios of sums over episodes: terms of shape (E, T, K) over weights of shape (E, T)."""
    n_turns, n_columns = terms.shape[1:]

    def finish(sums: FloatArray) -> FloatArray:
        numerators = sums[:, n_turns:].reshape(-1, n_turns, n_columns)
        total: FloatArray = _divide(numerators, sums[:, :n_turns, None]).sum(axis=1)
        return total

    return np.concatenate([weights, terms.reshape(len(terms), -1)], axis=1), finish


def _divide(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Quotient; 0 where no episode has any weight."""
    shape = np.broadcast_shapes(numerators.shape, denominators.shape)
    quotient: FloatArray = np.divide(
        numerators, denominators, out=np.zeros(shape), where=np.broadcast_to(denominators, shape) > 0
    )
    return quotient


def _is(padded: _Padded, _: Values | None) -> tuple[FloatArray, Finish]:
    return _mean(padded.weights[:, -1:] * padded.rewards.sum(axis=1), np.ones(len(padded.weights)))


def _wis(padded: _Padded, _: Values | None) -> tuple[FloatArray, Finish]:
    return _mean(padded.weights[:, -1:] * padded.rewards.sum(axis=1), padded.weights[:, -1])


def _pdis(padded: _Padded, _: Values | None) -> tuple[FloatArray, Finish]:
    return _mean((padded.weights[..., None] * padded.rewards).sum(axis=1), np.ones(len(padded.weights)))


def _wpdis(padded: _Padded, _: Values | None) -> tuple[FloatArray, Finish]:
    return _by_turn(padded.weights[..., None] * padded.rewards, padded.weights)


def _dm(padded: _Padded, values: Values | None) -> tuple[FloatArray, Finish]:
    return _mean(padded.spread(_needed(values).states)[:, 0], np.ones(len(padded.weights)))


def _dr(padded: _Padded, values: Values | None) -> tuple[FloatArray, Finish]:
    surprises, states = _surprises(padded, values)
    terms = padded.weights[..., None] * surprises + padded.before[..., None] * states
    return _mean(terms.sum(axis=1), np.ones(len(padded.weights)))


def _wdr(padded: _Padded, values: Values | None) -> tuple[FloatArray, Finish]:
    surprises, states = _surprises(padded, values)
    first, finish_first = _by_turn(padded.weights[..., None] * surprises, padded.weights)
    second, finish_second = _by_turn(padded.before[..., None] * states, padded.before)
    n_first = first.shape[1]
    return np.concatenate(
        [first, second], axis=1
    ), lambda sums: finish_first(sums[:, :n_first]) + finish_second(sums[:, n_first:])


def _surprises(padded: _Padded, values: Values | None) -> tuple[FloatArray, FloatArray]:
    """Rewards minus values of the logged actions, and values of the states, both of shape (E, T, K)."""
    known = _needed(values)
    return padded.rewards - padded.spread(known.logged), padded.spread(known.states)


def _needed(values: Values | None) -> Values:
    if values is None:
        raise InvalidConfigError("dm, dr and wdr need a model of the values")
    return values


_TERMS: dict[Estimator, Callable[[_Padded, Values | None], tuple[FloatArray, Finish]]] = {
    "is": _is,
    "wis": _wis,
    "pdis": _pdis,
    "wpdis": _wpdis,
    "dm": _dm,
    "dr": _dr,
    "wdr": _wdr,
}


def _resample(per_cluster: FloatArray, finish: Finish, *, rng: np.random.Generator, n_resamples: int) -> FloatArray:
    """Estimates of bootstrap resamples of clusters, shape (n_resamples, K); in blocks, to bound memory."""
    n_clusters = len(per_cluster)
    uniform = np.full(n_clusters, 1 / n_clusters)
    draws = []
    for start in range(0, n_resamples, _RESAMPLES_PER_BLOCK):
        size = min(_RESAMPLES_PER_BLOCK, n_resamples - start)
        counts = rng.multinomial(n_clusters, uniform, size=size).astype(np.float64)
        draws.append(finish(counts @ per_cluster))
    return np.concatenate(draws)
