"""A learned router against the best single model, judged by the very log that it learns from, and by none of it twice.

The log is cut into folds. The agent is trained once more for every fold, without it; on the fold's episodes the policy that is
judged is that training's router, a *cross-fitted policy*. Fitted values, too, come from the fold alone: if they were learned
from turns that the router had seen, the luck in those turns would count as skill in both. Which single model is the best is
chosen on the other folds, so that the luck of the best of several does not count for it. Everything is then put together
turn by turn, and the estimators, checks and refusals are those of a whole log (`mtrouter_rl.ope.estimates`).

Both policies are judged on the same episodes, so what counts is the difference. By fitted values (DM) it is worked out as
such: studentised draws of the differences of first states, the spread of the training of the difference, and of what the
history does not show as much as belongs to the turns at which the two policies disagree: with a share a of their choices in
common, biases of spread s have a difference of spread s sqrt(2 (1 - a)), as if each turn brought its own. That last step is
ours, and was not measured. By weighting it is the difference of the two policies' draws, as in `mtrouter-rl ope`. Where
neither may be believed, as of a single model in a log of mixed episodes, it is the difference of roll-outs in a model of each
fold (`mtrouter_rl.ope.rollouts`).

A policy that is judged so was trained on (K - 1) / K of the log: the router that learned from all of it should be no worse.

Source: cross-fitting, Chernozhukov et al., Double/Debiased Machine Learning (2018); K-fold policy learning and evaluation,
Athey and Wager, Policy Learning with Observational Data (2021).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.estimates import (
    COLUMNS,
    PolicyEstimates,
    common_estimator,
    estimate_policies,
    fit_values,
    max_turns,
    training_noise,
)
from mtrouter_rl.ope.fqe import FqeResult, Prediction
from mtrouter_rl.ope.inputs import OpeLog, find_behavior, turn_away_switching
from mtrouter_rl.ope.logged_turns import WorldTurns
from mtrouter_rl.ope.record import Estimated
from mtrouter_rl.ope.rollouts import RolloutResult, joined, roll_out
from mtrouter_rl.ope.sequential import APPROXIMATE_MODEL, Estimator, Values, estimate
from mtrouter_rl.ope.trajectory_arrays import TurnLog, with_return
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.estimate import studentized_ends

BEST_SINGLE = "the best single model"
"""Name of the policy that calls, in every fold, the single model that is best on the other folds."""
_FEWEST_RESAMPLES = 100
_MEMORY_STREAM = 4
_RETURN = COLUMNS.index("return")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the folds say together.

    Attributes:
        policy: Name of the cross-fitted policy.
        estimates: By policy: the cross-fitted one, `BEST_SINGLE`, and every single model.
        chosen: The single model that was chosen for every fold, by name.
        best: The single model that is best on the whole log by the same estimator.
        by: The estimator of the difference; None if there is none that may be believed for both.
        difference: Return of the policy minus that of `BEST_SINGLE`, with its 95% interval; None likewise.
    """

    policy: str
    estimates: Mapping[str, PolicyEstimates]
    chosen: tuple[str, ...]
    best: str
    by: Estimator | None
    difference: Estimated | None


def compare(
    run: OpeLog,
    folds: npt.NDArray[np.int64],
    *,
    policy: str,
    singles: Mapping[str, str],
    chosen: Sequence[str] | None = None,
    turns: WorldTurns | None = None,
    say: Say,
    show_progress: bool,
) -> Comparison:
    """Compare a cross-fitted policy with the best single model.

    Args:
        run: The log with the probabilities of `policy` and of every single model.
        folds: Fold of every episode, shape (E,).
        policy: Name of the cross-fitted policy.
        singles: Model -> name of the policy that calls it throughout.
        chosen: Single model of every fold; None chooses the one that is best on the other folds.
        turns: The log as models of its world are made of it; None leaves roll-outs out.
        say: Told, in a sentence, what happens.
        show_progress: Whether to draw progress bars.

    Raises:
        InvalidConfigError: If propensities are needed and cannot be estimated, or a fold has one (task, variation) alone.
    """
    turn_away_switching(run)
    if policy in run.turned_away:
        raise InvalidConfigError(run.turned_away[policy])
    find_behavior(run, say=say)
    fitted = fit_by_fold(run, folds, say=say, show_progress=show_progress)
    rolled = None if turns is None else roll_out_by_fold(run, folds, turns)
    believed = _by_of_singles(run, fitted, rolled, policy=policy, singles=singles)
    picked, best = choose_singles(run, fitted, folds, by=believed, singles=singles, rolled=rolled)
    picked = picked if chosen is None else tuple(chosen)
    names = [singles[name] for name in picked]
    whole, values = with_best_single(run, fitted, folds, names)
    together = None if rolled is None else rolled.joined({BEST_SINGLE: names})
    estimates, spread = estimate_policies(whole, values, together)
    by = common_estimator(estimates[policy], estimates[BEST_SINGLE])
    difference = None
    if by == "dm":
        difference = fitted_difference(whole, values, (policy, BEST_SINGLE), memory=(spread or {}).get("return", 0.0))
    elif by == APPROXIMATE_MODEL:
        assert together is not None
        difference = rolled_difference(whole, together, (policy, BEST_SINGLE))
    elif by is not None:
        difference = _difference(estimates[policy], estimates[BEST_SINGLE], by)
    return Comparison(policy=policy, estimates=estimates, chosen=picked, best=best, by=by, difference=difference)


def _by_of_singles(
    run: OpeLog, fitted: FqeResult, rolled: "FoldedRollouts | None", *, policy: str, singles: Mapping[str, str]
) -> Estimator:
    """What single models are compared by: the first estimator that may be believed for the policy and all of them.

    If there is none, roll-outs, which tell single models better than fitted values do; without these, what the policy itself is
    estimated by.
    """
    rough = dataclasses.replace(run, request=dataclasses.replace(run.request, n_resamples=_FEWEST_RESAMPLES))
    found = estimate_policies(rough, fitted, None if rolled is None else rolled.joined({}))[0]
    by = common_estimator(found[policy], *(found[name] for name in singles.values() if name in found))
    return by or (found[policy].headline or "dm" if rolled is None else APPROXIMATE_MODEL)


@dataclass(frozen=True, kw_only=True)
class FoldedRollouts:
    """Roll-outs in the models of the folds, each made of its fold alone, and the folds' shares of the episodes."""

    parts: tuple[RolloutResult, ...]
    shares: tuple[float, ...]

    def joined(self, more: Mapping[str, Sequence[str]]) -> RolloutResult:
        """All policies on the whole log, and `more`: policies that are another one in every fold."""
        same = {name: [name] * len(self.parts) for name in self.parts[0].names}
        return joined(self.parts, self.shares, {**same, **more})

    def value(self, name: str, *, without: int) -> float:
        """Return of a policy on all folds but one; -1 leaves none out."""
        kept = [
            (part, share) for k, (part, share) in enumerate(zip(self.parts, self.shares, strict=True)) if k != without
        ]
        total = sum(share for _, share in kept)
        return float(sum(share / total * part.of(name)[_RETURN] for part, share in kept))


def roll_out_by_fold(run: OpeLog, folds: npt.NDArray[np.int64], turns: WorldTurns) -> FoldedRollouts:
    """Roll-outs in a model of every fold, made of its episodes alone."""
    of_turn = folds[run.transitions.episodes]
    parts = [
        roll_out(
            turns.where(of_turn == fold),
            {name: run.probabilities[name][of_turn == fold] for name in run.names},
            costs=run.transitions.costs_usd[of_turn == fold].astype(np.float64),
            reward=run.request.reward,
            n_turns=max_turns(run),
            seed=run.request.seed,
        )
        for fold in range(int(folds.max()) + 1)
    ]
    shares = np.bincount(folds) / len(folds)
    return FoldedRollouts(parts=tuple(parts), shares=tuple(shares.tolist()))


def fit_by_fold(run: OpeLog, folds: npt.NDArray[np.int64], *, say: Say, show_progress: bool) -> FqeResult:
    """Fitted values of all policies, those of a turn by networks that saw its own fold alone.

    The difference of the two halves of a fold counts by the fold's share of the episodes, so that the spread of the training
    of the pooled values is worked out as that of a whole log (`estimates.training_noise`).
    """
    n_folds = int(folds.max()) + 1
    of_turn = folds[run.transitions.episodes]
    sums: list[FloatArray] = []
    gaps: list[FloatArray] = []
    for fold in range(n_folds):
        members, turns = folds == fold, of_turn == fold
        say(f"part {fold + 1} of {n_folds}:")
        found = fit_values(_part(run, members, turns), say=say, show_progress=show_progress)
        parts = (found.values.logged, found.values.states, found.residuals)
        sums = sums or [np.zeros((len(of_turn), *one.shape[1:])) for one in parts]
        for whole, part in zip(sums, parts, strict=True):
            whole[turns] = part
        gaps.append(found.gaps * np.sqrt(n_folds) * members.mean())
    return FqeResult(
        names=run.names,
        values=Prediction(logged=sums[0], states=sums[1]),
        gaps=np.concatenate(gaps),
        residuals=sums[2],
    )


def _part(run: OpeLog, members: npt.NDArray[np.bool_], turns: npt.NDArray[np.bool_]) -> OpeLog:
    """Some episodes of a log, numbered anew."""
    chosen = run.transitions.where(turns)
    numbers = np.cumsum(members) - 1
    return dataclasses.replace(
        run,
        episodes=[episode for episode, is_in in zip(run.episodes, members, strict=True) if is_in],
        transitions=dataclasses.replace(chosen, episodes=numbers[chosen.episodes]),
        probabilities={name: run.probabilities[name][turns] for name in run.names},
        clusters=np.unique(run.clusters[members], return_inverse=True)[1],
        strata=run.strata[members],
        turned_away={},
    )


def choose_singles(
    run: OpeLog,
    fitted: FqeResult,
    folds: npt.NDArray[np.int64],
    *,
    by: Estimator,
    singles: Mapping[str, str],
    rolled: FoldedRollouts | None = None,
) -> tuple[tuple[str, ...], str]:
    """The single model of the best return on all folds but one, for every fold, and on the whole log."""

    def value(name: str, fold: int) -> float:
        if by == APPROXIMATE_MODEL:
            assert rolled is not None
            return rolled.value(name, without=fold)
        return return_of(run, fitted, name, folds != fold, by=by)

    returns = {
        model: [value(name, fold) for fold in (*range(int(folds.max()) + 1), -1)]
        for model, name in singles.items()
        if name in run.names
    }
    if not returns:
        raise InvalidConfigError("no single model can be estimated from this log")
    best = [max(returns, key=lambda model: returns[model][place]) for place in range(int(folds.max()) + 2)]
    return tuple(best[:-1]), best[-1]


def return_of(run: OpeLog, fitted: FqeResult, name: str, members: npt.NDArray[np.bool_], *, by: Estimator) -> float:
    """Estimated return of a policy on some episodes."""
    assert run.log is not None
    turns = members[run.transitions.episodes]
    log, number = run.log, fitted.names.index(name)
    part = TurnLog(
        lengths=log.lengths[members],
        actions=log.actions[turns],
        propensities=None if log.propensities is None else log.propensities[turns],
        rewards=log.rewards[turns],
        clusters=log.clusters[members],
        n_models=log.n_models,
    )
    values = Values(
        logged=with_return(fitted.values.logged[turns, number], run.request.reward),
        states=with_return(fitted.values.states[turns, number], run.request.reward),
    )
    found = estimate(
        part, run.probabilities[name][turns], values=values, seed=0, estimators=(by,), n_resamples=_FEWEST_RESAMPLES
    )
    return float(found[by].value[_RETURN])


def with_best_single(
    run: OpeLog, fitted: FqeResult, folds: npt.NDArray[np.int64], chosen: Sequence[str]
) -> tuple[OpeLog, FqeResult]:
    """The log and its values with one policy more: that of another policy in every fold.

    Args:
        run: The log.
        fitted: Values of its policies.
        folds: Fold of every episode, shape (E,).
        chosen: Name of the policy of every fold.
    """
    of_turn = folds[run.transitions.episodes]
    columns = np.array([fitted.names.index(name) for name in chosen])
    rows = np.arange(len(of_turn))

    def more(array: FloatArray) -> FloatArray:
        return np.concatenate([array, array[rows, columns[of_turn]][:, None]], axis=1)

    per_fold = len(fitted.gaps) // len(chosen)
    gaps = np.concatenate([fitted.gaps[per_fold * k : per_fold * (k + 1), columns[k]] for k in range(len(chosen))])
    probabilities = np.stack([run.probabilities[chosen[fold]][row] for row, fold in enumerate(of_turn)])
    joined = dataclasses.replace(run, probabilities={**run.probabilities, BEST_SINGLE: probabilities})
    values = FqeResult(
        names=(*fitted.names, BEST_SINGLE),
        values=Prediction(logged=more(fitted.values.logged), states=more(fitted.values.states)),
        gaps=np.concatenate([fitted.gaps, gaps[:, None]], axis=1),
        residuals=more(fitted.residuals),
    )
    return joined, values


def fitted_difference(run: OpeLog, fitted: FqeResult, names: tuple[str, str], *, memory: float) -> Estimated:
    """Difference of return of two policies by their fitted values; see the module.

    Args:
        run: The log.
        fitted: Values of both.
        names: The one, and the one that it is compared with.
        memory: What the history does not show, as a standard deviation of the return of a policy.
    """
    assert run.log is not None
    reward, request = run.request.reward, run.request
    one, other = (fitted.names.index(name) for name in names)
    values = Values(
        logged=with_return(fitted.values.logged[:, one] - fitted.values.logged[:, other], reward),
        states=with_return(fitted.values.states[:, one] - fitted.values.states[:, other], reward),
    )
    found = estimate(
        run.log,
        run.probabilities[names[0]],
        values=values,
        seed=request.seed,
        estimators=("dm",),
        n_resamples=request.n_resamples,
    )["dm"]
    gaps = with_return(fitted.gaps[:, one] - fitted.gaps[:, other], reward)
    noise = training_noise(gaps, n_resamples=request.n_resamples, seed=request.seed)
    agreement = _agreement(run, names)
    normal = np.random.default_rng([_MEMORY_STREAM, request.seed]).normal(size=request.n_resamples)
    unseen = normal * memory * np.sqrt(2 * max(0.0, 1 - agreement))
    low, high = studentized_ends((found.draws + noise)[:, _RETURN] + unseen)
    return Estimated(value=float(found.value[_RETURN]), low=low, high=high)


def _agreement(run: OpeLog, names: tuple[str, str]) -> float:
    """What the choices of two policies at the turns of the log have in common, in [0, 1]."""
    return float(np.minimum(run.probabilities[names[0]], run.probabilities[names[1]]).sum(axis=1).mean())


def rolled_difference(run: OpeLog, rolled: RolloutResult, names: tuple[str, str]) -> Estimated:
    """Difference of return of two policies by roll-outs."""
    request = run.request
    found = rolled.difference(
        *names, agreement=_agreement(run, names), n_resamples=request.n_resamples, seed=request.seed
    )
    low, high = studentized_ends(found.draws[:, _RETURN])
    return Estimated(value=float(found.value[_RETURN]), low=low, high=high)


def _difference(one: PolicyEstimates, other: PolicyEstimates, by: Estimator) -> Estimated:
    mine, theirs = one.estimates[by], other.estimates[by]
    low, high = studentized_ends(mine.draws[:, _RETURN] - theirs.draws[:, _RETURN])
    return Estimated(value=float(mine.value[_RETURN] - theirs.value[_RETURN]), low=low, high=high)
