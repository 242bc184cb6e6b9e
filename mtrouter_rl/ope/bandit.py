"""Off-policy evaluation where a model was chosen once per episode: what would another choice have earned?

Episode i has a context (its task text), a stratum s_i (its kind of task), the model a_i that played it and its outcomes
r_i (utility, cost, return). The log does not say why a_i played it; within a stratum it is taken to be by chance, so that
the share of the stratum's episodes that model a played is its propensity p(a | s). That is the one assumption, and it is
wrong where models were given different instances of one stratum: such strata have to be named by whoever knows.

A policy pi gives w_i = pi(a_i | x_i) / p(a_i | s_i). Estimated are, with weights n_s / n of the strata:

* IPS: mean of w_i r_i;
* SNIPS: within every stratum sum of w_i r_i over sum of w_i (self-normalised);
* DR: mean of sum_a pi(a | x_i) q(x_i, a) + w_i (r_i - q(x_i, a_i)), with a model q of the outcomes that was not fitted to
  episode i (doubly robust).

Source: Horvitz and Thompson (1952); Swaminathan and Joachims, The Self-Normalized Estimator (2015); Dudik, Langford and Li,
Doubly Robust Policy Evaluation and Learning (2011); propensities estimated by stratum: Rosenbaum (1987).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import studentized_ends
from mtrouter_rl.statistics.resamples import N_RESAMPLES
from mtrouter_rl.statistics.stratified_bootstrap import CellResamples, StratifiedRatio

MIN_EFFECTIVE_SAMPLE_SIZE = 30.0
"""Below it the log cannot tell what a policy earns."""
MAX_UNSUPPORTED_SHARE = 0.0
"""Above it, the policy chooses models that never played such episodes, and the log cannot tell what that earns."""
OUTCOMES = ("utility", "cost_usd", "return")
EpisodeEstimator = Literal["ips", "snips", "dr"]
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class EpisodeLog:
    """Outcomes of episodes that one model played each.

    Attributes:
        strata: Stratum of every episode, length N.
        actions: Index of the model that played, shape (N,).
        outcomes: Utility, cost in USD, and return, shape (N, 3).
        n_models: M.
        units: What the bootstrap draws: episodes of one instance share a number, shape (N,); None makes every episode a
            unit of its own.
    """

    strata: tuple[str, ...]
    actions: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    n_models: int
    units: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        n = len(self.strata)
        if n == 0:
            raise InvalidConfigError("the log has 0 strata, so no episode; give at least one, such as by another split")
        if self.units is not None and self.units.shape != (n,):
            raise InvalidConfigError(f"units have shape {self.units.shape}, must be ({n},): one number per episode")
        if self.actions.shape != (n,) or self.outcomes.shape != (n, len(OUTCOMES)):
            raise InvalidConfigError(
                f"{n} strata, actions of shape {self.actions.shape} and outcomes of shape {self.outcomes.shape}; must be "
                f"N, (N,) and (N, {len(OUTCOMES)})"
            )
        if not np.isfinite(self.outcomes).all():
            bad = int(np.flatnonzero(~np.isfinite(self.outcomes).all(axis=1))[0])
            raise InvalidConfigError(f"episode {bad}: outcomes are {self.outcomes[bad]}, must be finite")
        if self.actions.min() < 0 or self.actions.max() >= self.n_models:
            raise PoolMismatchError(
                f"actions lie in {self.actions.min()}..{self.actions.max()}, must be 0..{self.n_models - 1}: the log is of "
                f"another pool than the one of {self.n_models} models"
            )
        if self.units is not None:
            strata_of = dict[int, str]()
            for unit, stratum in zip(self.units.tolist(), self.strata, strict=True):
                if strata_of.setdefault(unit, stratum) != stratum:
                    raise InvalidConfigError(
                        f"unit {unit} has episodes of the strata '{strata_of[unit]}' and '{stratum}', must be in one; give "
                        "each its own number"
                    )

    @property
    def stratum_index(self) -> npt.NDArray[np.int64]:
        """Number of every episode's stratum, in alphabetical order, shape (N,)."""
        index: npt.NDArray[np.int64] = np.unique(np.array(self.strata), return_inverse=True)[1]
        return index

    def part(self, members: npt.NDArray[np.int64]) -> "EpisodeLog":
        """Some of the episodes, by their indices."""
        return EpisodeLog(
            strata=tuple(self.strata[i] for i in members),
            actions=self.actions[members],
            outcomes=self.outcomes[members],
            n_models=self.n_models,
            units=None if self.units is None else self.units[members],
        )

    def cells(self) -> list[list[npt.NDArray[np.int64]]]:
        """Units by (stratum, models that played the unit): every unit as the indices of its episodes."""
        units = np.arange(len(self.strata)) if self.units is None else self.units
        by_unit: dict[int, list[int]] = {}
        for position, unit in enumerate(units.tolist()):
            by_unit.setdefault(unit, []).append(position)
        found: dict[tuple[str, tuple[int, ...]], list[npt.NDArray[np.int64]]] = {}
        for members in by_unit.values():
            key = (self.strata[members[0]], tuple(sorted(self.actions[members].tolist())))
            found.setdefault(key, []).append(np.array(members))
        return [found[key] for key in sorted(found)]

    def counts(self) -> npt.NDArray[np.int64]:
        """Episodes by stratum and model, shape (S, M)."""
        index = self.stratum_index
        counts = np.zeros((index.max() + 1, self.n_models), dtype=np.int64)
        np.add.at(counts, (index, self.actions), 1)
        return counts


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Whether a log can tell what a policy earns.

    Attributes:
        effective_sample_size: (sum w)^2 / sum w^2.
        unsupported_share: Probability that the policy chooses a model that never played in the episode's stratum.
        largest_weight: max w_i.
        refusals: Why the log cannot tell; empty if it can.
    """

    effective_sample_size: float
    unsupported_share: float
    largest_weight: float
    refusals: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BanditEstimate:
    """What a policy is estimated to earn; arrays are in the order of `OUTCOMES`.

    Attributes:
        ips: Shape (3,). Likewise `snips` and `dr`; `dr` is NaN without a model of the outcomes.
        snips: The headline: it stays within the range of what was logged.
        dr: Doubly robust.
        draws: Studentised bootstrap draws of SNIPS (see `mtrouter_rl.statistics.stratified_bootstrap`), shape (n_resamples, 3);
            their quantiles are the ends of intervals. Two estimates on one log with one seed share their resamples, so
            their differences are paired.
        ips_draws: The same of IPS. Likewise `dr_draws`, NaN as `dr` is.
        diagnosis: Whether to believe it.
        weights: SNIPS weight of every episode; they sum to 1, shape (N,).
    """

    ips: FloatArray
    snips: FloatArray
    dr: FloatArray
    draws: FloatArray
    ips_draws: FloatArray
    dr_draws: FloatArray
    diagnosis: Diagnosis
    weights: FloatArray

    def interval(self, outcome: str, estimator: EpisodeEstimator = "snips") -> tuple[float, float]:
        """95% interval of an outcome by an estimator; NaN for DR without a model of the outcomes."""
        draws = {"snips": self.draws, "ips": self.ips_draws, "dr": self.dr_draws}[estimator]
        return studentized_ends(draws[:, OUTCOMES.index(outcome)])


def estimate_policies(
    log: EpisodeLog,
    policies: Mapping[str, FloatArray],
    *,
    q_values: FloatArray | None = None,
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, BanditEstimate]:
    """Estimate policies on one log, on shared bootstrap resamples.

    Args:
        log: The episodes.
        policies: Probability of every model for every episode's context, by policy, shape (N, M), rows sum to 1.
        q_values: Predicted outcomes of every episode with every model, shape (N, M, 3), from a model that was not fitted
            to that episode; None leaves DR out.
        seed: Seed of the bootstrap.
        n_resamples: Bootstrap resamples.

    Raises:
        InvalidConfigError: If probabilities are no distributions, a shape is wrong, or a prediction is not finite.
    """
    for name, probabilities in policies.items():
        _check_probabilities(name, probabilities, log)
    if q_values is not None:
        _check_predictions(q_values, log)
    resamples = CellResamples.of(log.cells(), seed=seed, n_resamples=n_resamples)
    return {name: _estimate(log, pi, q_values=q_values, resamples=resamples) for name, pi in policies.items()}


def snips(log: EpisodeLog, probabilities: FloatArray) -> FloatArray:
    """SNIPS estimate of one policy without an interval, for choosing among many, shape (3,). See `estimate_policies`.

    NaN if there is a stratum in which no episode was played by the model that the policy chose for it.
    """
    index, sizes = log.stratum_index, log.counts().sum(axis=1)
    ratios = _ratios(log, probabilities)
    if _n_dead(ratios, index):
        return np.full(len(OUTCOMES), np.nan)
    estimate: FloatArray = _self_normalised(ratios, index, sizes) @ log.outcomes
    return estimate


def merge(estimates: Sequence[BanditEstimate]) -> BanditEstimate:
    """One estimate of several on the same episodes, such as those of several divisions into folds.

    Values are means; draws are put together, so that intervals hold the spread between them as well. A refusal of one is
    a refusal of all.
    """
    refusals = tuple(dict.fromkeys(reason for one in estimates for reason in one.diagnosis.refusals))
    return BanditEstimate(
        ips=np.mean([one.ips for one in estimates], axis=0),
        snips=np.mean([one.snips for one in estimates], axis=0),
        dr=np.mean([one.dr for one in estimates], axis=0),
        draws=np.concatenate([one.draws for one in estimates]),
        ips_draws=np.concatenate([one.ips_draws for one in estimates]),
        dr_draws=np.concatenate([one.dr_draws for one in estimates]),
        diagnosis=Diagnosis(
            effective_sample_size=float(np.mean([one.diagnosis.effective_sample_size for one in estimates])),
            unsupported_share=max(one.diagnosis.unsupported_share for one in estimates),
            largest_weight=max(one.diagnosis.largest_weight for one in estimates),
            refusals=refusals,
        ),
        weights=np.mean([one.weights for one in estimates], axis=0),
    )


def _check_probabilities(name: str, probabilities: FloatArray, log: EpisodeLog) -> None:
    expected = (len(log.strata), log.n_models)
    if probabilities.shape != expected:
        raise InvalidConfigError(f"policy '{name}': probabilities have shape {probabilities.shape}, must be {expected}")
    sums = probabilities.sum(axis=1)
    bad = np.flatnonzero((np.abs(sums - 1) > 1e-6) | (probabilities < 0).any(axis=1) | ~np.isfinite(sums))
    if bad.size:
        raise InvalidConfigError(
            f"policy '{name}', episode {bad[0]}: probabilities {probabilities[bad[0]]} sum to {sums[bad[0]]}, must be a "
            "distribution over the models"
        )


def _check_predictions(q_values: FloatArray, log: EpisodeLog) -> None:
    expected = (len(log.strata), log.n_models, len(OUTCOMES))
    if q_values.shape != expected:
        raise InvalidConfigError(f"predicted outcomes have shape {q_values.shape}, must be {expected}")
    bad = np.flatnonzero(~np.isfinite(q_values).all(axis=(1, 2)))
    if bad.size:
        raise InvalidConfigError(f"episode {bad[0]}: predicted outcomes are {q_values[bad[0]]}, must be finite")


def _estimate(
    log: EpisodeLog, pi: FloatArray, *, q_values: FloatArray | None, resamples: CellResamples
) -> BanditEstimate:
    n, index, counts = len(log.strata), log.stratum_index, log.counts()
    stratum_sizes = counts.sum(axis=1)
    ratios = _ratios(log, pi)
    weights = _self_normalised(ratios, index, stratum_sizes)
    weighted = ratios[:, None] * log.outcomes
    self_normalised = StratifiedRatio(numerators=weighted, denominators=ratios, groups=index, shares=stratum_sizes / n)
    dr, dr_draws = np.full(len(OUTCOMES), np.nan), np.full((len(resamples.counts), len(OUTCOMES)), np.nan)
    if q_values is not None:
        expected = (pi[:, :, None] * q_values).sum(axis=1)
        logged = q_values[np.arange(n), log.actions]
        scores = expected + ratios[:, None] * (log.outcomes - logged)
        dr = scores.mean(axis=0)
        dr_draws = resamples.draws(_mean(scores), dr)
    ips, snips_value = weighted.mean(axis=0), weights @ log.outcomes
    return BanditEstimate(
        ips=ips,
        snips=snips_value,
        dr=dr,
        draws=resamples.draws(self_normalised, snips_value),
        ips_draws=resamples.draws(_mean(weighted), ips),
        dr_draws=dr_draws,
        diagnosis=_diagnose(ratios, pi, counts[index] == 0, n_dead=_n_dead(ratios, index)),
        weights=weights,
    )


def _mean(values: FloatArray) -> StratifiedRatio:
    """Plain mean over the episodes, of numbers of shape (N, 3)."""
    n = len(values)
    return StratifiedRatio(
        numerators=values, denominators=np.ones(n), groups=np.zeros(n, dtype=np.int64), shares=np.ones(1)
    )


def _ratios(log: EpisodeLog, pi: FloatArray) -> FloatArray:
    """w_i of every episode, shape (N,)."""
    index, counts = log.stratum_index, log.counts()
    propensities = counts[index, log.actions] / counts.sum(axis=1)[index]
    ratios: FloatArray = pi[np.arange(len(index)), log.actions] / propensities
    return ratios


def _self_normalised(
    ratios: FloatArray, index: npt.NDArray[np.int64], stratum_sizes: npt.NDArray[np.int64]
) -> FloatArray:
    """Weights of shape (N,) that sum to n_s / n in every stratum; to more if another stratum has no weight."""
    totals = np.bincount(index, weights=ratios, minlength=len(stratum_sizes))
    factors = np.divide(stratum_sizes, totals, out=np.zeros(len(totals)), where=totals > 0)
    weights = ratios * factors[index]
    total = float(weights.sum())
    normalised: FloatArray = weights / total if total > 0 else weights
    return normalised


def _n_dead(ratios: FloatArray, index: npt.NDArray[np.int64]) -> int:
    """Strata in which no episode was played by the model that the policy chose for it."""
    return int((np.bincount(index, weights=ratios) <= 0).sum())


def _diagnose(ratios: FloatArray, pi: FloatArray, never_played: npt.NDArray[np.bool_], *, n_dead: int) -> Diagnosis:
    total = float(ratios.sum())
    effective = total**2 / float((ratios**2).sum()) if total > 0 else 0.0
    unsupported = float((pi * never_played).sum(axis=1).mean())
    refusals = []
    if unsupported > MAX_UNSUPPORTED_SHARE + _TOLERANCE:
        refusals.append(f"with probability {unsupported:.3f} it chooses a model that never played such an episode")
    if n_dead:
        refusals.append(f"in {n_dead} kind(s) of task no episode was played by the model that it chose for it")
    if effective < MIN_EFFECTIVE_SAMPLE_SIZE:
        refusals.append(
            f"the effective sample size is {effective:.1f}, must be at least {MIN_EFFECTIVE_SAMPLE_SIZE:.0f}"
        )
    return Diagnosis(
        effective_sample_size=effective,
        unsupported_share=unsupported,
        largest_weight=float(ratios.max()),
        refusals=tuple(refusals),
    )


def confounded_strata(log: EpisodeLog, instances: Sequence[str], *, least_overlap: float = 0.5) -> dict[str, float]:
    """Strata in which models played different instances, so that the choice of model was not by chance.

    Args:
        log: The episodes.
        instances: What instance each episode was, as far as the log tells, length N (such as a fingerprint of the game).
        least_overlap: Strata below this overlap are returned.

    Returns:
        Stratum -> overlap: the mean, over pairs of models, of the share of instances that both have in common (the sum
        over instances of the smaller of the two shares), in [0, 1].
    """
    overlaps = {}
    strata, names = np.array(log.strata), np.array(instances)
    for stratum in np.unique(strata):
        members = strata == stratum
        kinds = np.unique(names[members])
        shares = [
            np.array([(names[members & (log.actions == model)] == kind).mean() for kind in kinds])
            for model in np.unique(log.actions[members])
        ]
        pairs = [np.minimum(a, b).sum() for i, a in enumerate(shares) for b in shares[i + 1 :]]
        overlap = float(np.mean(pairs)) if pairs else 1.0
        if overlap < least_overlap:
            overlaps[str(stratum)] = overlap
    return overlaps
