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

All of it is undiscounted, as the returns that are reported. Intervals, over clusters of episodes, are those of
`mtrouter_rl.statistics.studentized`.

Source: Precup, Sutton and Singh, Eligibility Traces for Off-Policy Policy Evaluation (2000): IS, WIS, PDIS and WPDIS; Jiang
and Li, Doubly Robust Off-policy Value Evaluation (2016): DR; Thomas and Brunskill, Data-Efficient Off-Policy Policy Evaluation
(2016): WDR.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.ope.diagnosis import OpeDiagnosis, diagnose
from mtrouter_rl.ope.trajectory_arrays import TurnLog, Values, WeightedTurns, check_probabilities, importance_ratios
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import studentized_ends
from mtrouter_rl.statistics.resamples import N_RESAMPLES
from mtrouter_rl.statistics.studentized import RatioSum

__all__ = [
    "ALL_ESTIMATORS",
    "APPROXIMATE_MODEL",
    "ESTIMATORS",
    "FAMILIES",
    "HEADLINES",
    "MODEL_BASED",
    "Estimator",
    "OpeDiagnosis",
    "OpeEstimate",
    "TurnLog",
    "Values",
    "check_probabilities",
    "diagnose",
    "estimate",
    "is_believed",
]

Estimator = Literal["is", "wis", "pdis", "wpdis", "dm", "dr", "wdr", "am"]
ESTIMATORS: tuple[Estimator, ...] = ("is", "wis", "pdis", "wpdis", "dm", "dr", "wdr")
"""All that rest on weights and fitted values."""
APPROXIMATE_MODEL: Estimator = "am"
"""Roll-outs in a model of the logged world; see `mtrouter_rl.ope.rollouts`."""
ALL_ESTIMATORS: tuple[Estimator, ...] = (*ESTIMATORS, APPROXIMATE_MODEL)
MODEL_BASED: frozenset[Estimator] = frozenset({"dm", "dr", "wdr"})
HEADLINES: tuple[Estimator, ...] = ("wdr", "dr", "wpdis", "pdis", "wis", "is", "dm", "am")
"""The headline is the first that may be believed: WDR, else the other weighting estimators from the steadiest on, else DM, else
roll-outs in a model of the log."""
FAMILIES: Mapping[str, frozenset[Estimator]] = {
    "weighting": frozenset(ESTIMATORS) - {"dm"},
    "fitted": MODEL_BASED,
    "model": frozenset({APPROXIMATE_MODEL}),
}
"""What an estimator rests on: on weights, on fitted values, on both (DR and WDR), or on a model of the logged world."""


def is_believed(name: Estimator, estimates: Collection[str], refusals: Collection[str]) -> bool:
    """Whether an estimator was worked out, and no family that it rests on is refused."""
    return name in estimates and not any(name in members for family, members in FAMILIES.items() if family in refusals)


@dataclass(frozen=True, kw_only=True)
class OpeEstimate:
    """Estimates of one policy by one estimator.

    Attributes:
        estimator: Which.
        value: One number per column of the rewards, shape (K,).
        draws: Studentised bootstrap draws over clusters, shape (n_resamples, K). Their quantiles are the ends of intervals;
            those of the difference to another policy's draws, made with the same seed, the ends of the difference's.
    """

    estimator: Estimator
    value: FloatArray
    draws: FloatArray

    def interval(self, column: int) -> tuple[float, float]:
        """95% interval of a column."""
        return studentized_ends(self.draws[:, column])


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
        InvalidConfigError: If probabilities are no distributions, a shape is wrong, a value is not finite, an estimator lacks
            `values` or the log propensities, an estimator is unknown, or there is one cluster only.
    """
    check_probabilities(probabilities, np.ones((len(log.actions), log.n_models), dtype=bool))
    wanted = tuple(name for name in ESTIMATORS if values is not None or name not in MODEL_BASED)
    wanted = wanted if estimators is None else tuple(estimators)
    for name in wanted:
        if name not in ESTIMATORS:
            raise unknown_name("estimator", name, ESTIMATORS)
    if values is None and MODEL_BASED & set(wanted):
        raise InvalidConfigError(f"estimators {sorted(MODEL_BASED & set(wanted))} need a model of the values; give one")
    if values is not None:
        values.check(log)
    ratios = importance_ratios(log, probabilities) if set(wanted) != {"dm"} else np.ones(len(log.actions))
    turns = _Turns.of(log, ratios, values)
    found: dict[Estimator, OpeEstimate] = {}
    for name in wanted:
        sums = RatioSum.of_episodes(*_TERMS[name](turns), log.clusters)
        draws = sums.draws(seed=seed, n_resamples=n_resamples)
        found[name] = OpeEstimate(estimator=name, value=sums.value(), draws=draws)
    return found


@dataclass(frozen=True, kw_only=True)
class _Turns:
    """What the estimators are made of, by episode and turn.

    Attributes:
        weights: W_it, shape (E, T).
        before: W_i,t-1, shape (E, T).
        rewards: Shape (E, T, K).
        logged: q_it, shape (E, T, K); zeros without a model of the values. Likewise `states`, v_it.
    """

    weights: FloatArray
    before: FloatArray
    rewards: FloatArray
    logged: FloatArray
    states: FloatArray

    @classmethod
    def of(cls, log: TurnLog, ratios: FloatArray, values: Values | None) -> "_Turns":
        turns = WeightedTurns.of(log, ratios)
        rewards = turns.spread(log.rewards)
        nothing = np.zeros_like(rewards)
        return cls(
            weights=turns.weights,
            before=turns.before,
            rewards=rewards,
            logged=nothing if values is None else turns.spread(values.logged),
            states=nothing if values is None else turns.spread(values.states),
        )

    @property
    def ones(self) -> FloatArray:
        """Weight 1 of every episode, shape (E, 1)."""
        return np.ones((len(self.weights), 1))


_Terms = tuple[FloatArray, FloatArray]
"""Numerators, shape (E, F, K), and denominators, shape (E, F), of a sum over F terms of ratios of sums over episodes."""


def _is(turns: _Turns) -> _Terms:
    return turns.weights[:, -1:, None] * turns.rewards.sum(axis=1, keepdims=True), turns.ones


def _wis(turns: _Turns) -> _Terms:
    return _is(turns)[0], turns.weights[:, -1:]


def _pdis(turns: _Turns) -> _Terms:
    return _wpdis(turns)[0].sum(axis=1, keepdims=True), turns.ones


def _wpdis(turns: _Turns) -> _Terms:
    return turns.weights[..., None] * turns.rewards, turns.weights


def _dm(turns: _Turns) -> _Terms:
    return turns.states[:, :1], turns.ones


def _dr(turns: _Turns) -> _Terms:
    return _wdr(turns)[0].sum(axis=1, keepdims=True), turns.ones


def _wdr(turns: _Turns) -> _Terms:
    surprises = turns.weights[..., None] * (turns.rewards - turns.logged)
    states = turns.before[..., None] * turns.states
    return np.concatenate([surprises, states], axis=1), np.concatenate([turns.weights, turns.before], axis=1)


_TERMS: dict[Estimator, Callable[[_Turns], _Terms]] = {
    "is": _is,
    "wis": _wis,
    "pdis": _pdis,
    "wpdis": _wpdis,
    "dm": _dm,
    "dr": _dr,
    "wdr": _wdr,
}
