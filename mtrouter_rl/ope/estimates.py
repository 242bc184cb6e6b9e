"""What a log says of one router: estimates by every estimator, checks, and for each family whether the log can tell at all.

The headline is WDR where the weights leave enough episodes, else DM (fitted Q evaluation) where the fitted values pass their
checks, else nothing: "this log cannot tell", with the reasons.

The intervals are bootstrapped over (task, variation). Those of DM also hold the spread of the training: the networks of the two
halves of the log differ, by chance of the data and of the training, and half that difference, once for every repeat, is added
to the draws with a common normal factor (so that differences of policies stay paired), widened as Student's t with as many
degrees of freedom as there are repeats. To what the history does not show belongs a spread of its own, see `memory_spread`:
it is told from the log as far as one turn of memory shows it. What no interval holds: what would take more memory than that
to see, estimated propensities that are wrong, and a router that was trained on the very log that it is estimated from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtrouter_rl.ope.bandit import MIN_EFFECTIVE_SAMPLE_SIZE
from mtrouter_rl.ope.bellman import BellmanCheck, bellman_check
from mtrouter_rl.ope.diagnosis import MAX_PARETO_K, MIN_SUPPORT
from mtrouter_rl.ope.fqe import QUANTITIES, FqeData, FqeResult, expected_cost, fitted_q_evaluation
from mtrouter_rl.ope.inputs import OpeLog
from mtrouter_rl.ope.reward_memory import reward_memory
from mtrouter_rl.ope.rollouts import RolloutResult, roll_out
from mtrouter_rl.ope.run_lengths import CallRuns, call_runs
from mtrouter_rl.ope.sequential import (
    APPROXIMATE_MODEL,
    FAMILIES,
    HEADLINES,
    Estimator,
    OpeDiagnosis,
    OpeEstimate,
    TurnLog,
    Values,
    diagnose,
    estimate,
    is_believed,
)
from mtrouter_rl.ope.trajectory_arrays import with_return
from mtrouter_rl.records import FloatArray

COLUMNS = (*QUANTITIES, "return")
MAX_UNSUPPORTED_SHARE = 0.05
"""Above this share of choices in unsupported states, fitted values are guesses, and DM is refused."""
MAX_BIAS = 0.5
"""Largest Bellman bias for DM, beyond two standard errors, in standard deviations of the logged episodes."""
MAX_HALF_WIDTH = 1.0
"""Largest half of the interval of the return, in standard deviations of the logged episodes; a wider one tells nothing."""
MAX_BEYOND_SHARE = 0.5
"""Above this share of turns that follow more calls of one model in a row than the log holds, DM is refused."""
THRESHOLDS = {
    "min_effective_sample_size": MIN_EFFECTIVE_SAMPLE_SIZE,
    "max_pareto_k": MAX_PARETO_K,
    "min_support": MIN_SUPPORT,
    "max_unsupported_share": MAX_UNSUPPORTED_SHARE,
    "max_bias": MAX_BIAS,
    "max_half_width": MAX_HALF_WIDTH,
    "max_beyond_share": MAX_BEYOND_SHARE,
}
_MEMORY_STREAM = 3


@dataclass(frozen=True, kw_only=True)
class PolicyEstimates:
    """Of one policy, before it becomes a report.

    Attributes:
        estimates: By estimator.
        diagnosis: Of its weights; None without propensities.
        unsupported_share: Share of its choices that the behaviour policy hardly ever makes there; None if nobody knows.
        runs: Its runs of calls of one model against those of the log.
        checks: Of the fitted values, by quantity.
        refusals: Why a family of estimators ("weighting", "fitted", "model") is not believed; a family that is believed is left
            out.
        headline: The estimator to believe; None if the log cannot tell.
    """

    estimates: dict[Estimator, OpeEstimate]
    diagnosis: OpeDiagnosis | None
    unsupported_share: float | None
    runs: CallRuns
    checks: dict[str, BellmanCheck]
    refusals: dict[str, tuple[str, ...]]
    headline: Estimator | None

    def believes(self, name: Estimator) -> bool:
        """See `sequential.is_believed`."""
        return is_believed(name, self.estimates, self.refusals)


def fit_values(run: OpeLog, *, say: Callable[[str], None], show_progress: bool) -> FqeResult:
    """Fit values of all policies at once, and say beforehand what that will cost."""
    from mtrouter_rl.agents.q.networks import HistoryLayout

    data = FqeData(
        transitions=run.transitions,
        layout=HistoryLayout.of_features(run.features),
        model_features=run.features.model_features.tolist(),
        policies={name: run.probabilities[name] for name in run.names},
        clusters=run.clusters,
        strata=run.strata,
        memory=reward_memory(run.episodes, run.request.pool.model_names),
    )
    cost = expected_cost(data, run.request.fqe)
    bound = f" (a long log: {cost.n_steps_at_most:,})" if cost.n_steps < cost.n_steps_at_most else ""
    say(
        f"fit values of {len(run.names)} policies to {len(run.transitions)} turns: {cost.n_steps:,} gradient steps{bound}, "
        f"about {max(1, round(cost.seconds)):,} s of one core"
    )
    return fitted_q_evaluation(
        data,
        run.request.fqe,
        seed=run.request.seed,
        show_progress=show_progress,
        n_threads=run.request.n_threads,
    )


def common_estimator(one: PolicyEstimates, *others: PolicyEstimates) -> Estimator | None:
    """The first estimator that may be believed for all of these policies; None if there is none."""
    return next((name for name in HEADLINES if all(some.believes(name) for some in (one, *others))), None)


def play_model(run: OpeLog, *, say: Callable[[str], None], show_progress: bool) -> RolloutResult:
    """Make a model of the logged world, and let all policies play it.

    Raises:
        InvalidConfigError: If the log has no token counts.
    """
    from mtrouter_rl.ope.logged_turns import turns_of_log

    turns = turns_of_log(run, say=say, show_progress=show_progress)
    say(f"play {len(run.names)} policies in a model of the log")
    return roll_out(
        turns,
        {name: run.probabilities[name] for name in run.names},
        costs=run.transitions.costs_usd.astype(np.float64),
        reward=run.request.reward,
        seed=run.request.seed,
    )


def estimate_policies(
    run: OpeLog, fitted: FqeResult | None, rolled: RolloutResult | None = None
) -> tuple[dict[str, PolicyEstimates], dict[str, float] | None]:
    """Estimate all policies.

    Args:
        run: The log.
        fitted: Fitted values; None leaves out what needs them.
        rolled: Roll-outs of all policies; likewise.

    Returns:
        Estimates by policy, and the `memory_spread` by quantity that is in the intervals of DM, None if there are none.
    """
    assert run.log is not None
    parts = {name: _unchecked(run, name, fitted, rolled) for name in run.names}
    spread = None
    if fitted is not None and any("dm" in part.estimates for part in parts.values()):
        spread = memory_spread([part.checks for part in parts.values() if _bad_weights(part.diagnosis)])
    return {
        name: _checked(
            run.log,
            part if spread is None else _with_memory(part, spread, seed=(run.request.seed, number)),
            rolled,
        )
        for number, (name, part) in enumerate(parts.items())
    }, spread


def memory_spread(checks: Sequence[Mapping[str, BellmanCheck]]) -> dict[str, float]:
    """How far fitted values of policies unlike the log are off, because the history does not show all: a standard deviation.

    One turn of memory shows a part of it, `BellmanCheck.memory_bias`, with a standard error. What its squares have beyond
    the squared errors, on average over the policies, is their spread; where they have less, there is none to be seen.

    Args:
        checks: By quantity, of every such policy.

    Source: the moment estimator of a variance between groups, Hedges and Olkin, Statistical Methods for Meta-Analysis (1985),
    section 9.3, here around 0.
    """
    found = {}
    for column in COLUMNS:
        pairs = [(one[column].memory_bias, one[column].memory_bias_error) for one in checks if column in one]
        excess = [bias**2 - error**2 for bias, error in pairs if np.isfinite(error)]
        found[column] = float(np.sqrt(max(0.0, float(np.mean(excess))))) if excess else 0.0
    return found


def _with_memory(part: PolicyEstimates, spread: Mapping[str, float], *, seed: tuple[int, int]) -> PolicyEstimates:
    """The same with that spread in the draws of DM, by chance of its own for every policy."""
    if "dm" not in part.estimates:
        return part
    dm = part.estimates["dm"]
    normal = np.random.default_rng([_MEMORY_STREAM, *seed]).normal(size=(len(dm.draws), 1))
    draws = dm.draws + normal * np.array([spread[column] for column in COLUMNS])
    return replace(part, estimates=part.estimates | {"dm": replace(dm, draws=draws)})


def _checked(log: TurnLog, part: PolicyEstimates, rolled: RolloutResult | None) -> PolicyEstimates:
    refusals = refusals_of(
        log,
        part.estimates,
        part.diagnosis,
        unsupported=part.unsupported_share,
        runs=part.runs,
        checks=part.checks,
        rolled=rolled,
    )
    told = replace(part, refusals=refusals)
    return replace(told, headline=next((name for name in HEADLINES if told.believes(name)), None))


def _unchecked(run: OpeLog, name: str, fitted: FqeResult | None, rolled: RolloutResult | None) -> PolicyEstimates:
    """Estimates of one policy, without refusals and headline."""
    assert run.log is not None
    probabilities = run.probabilities[name]
    values, checks = None, dict[str, BellmanCheck]()
    reward = run.request.reward
    if fitted is not None:
        number = fitted.names.index(name)
        values = Values(
            logged=with_return(fitted.values.logged[:, number], reward),
            states=with_return(fitted.values.states[:, number], reward),
        )
        checks = _checks(run, probabilities, values, with_return(fitted.residuals[:, number], reward))
    estimates = estimate(
        run.log,
        probabilities,
        values=values,
        seed=run.request.seed,
        estimators=tuple(one for one in run.request.estimators if one != APPROXIMATE_MODEL),
        n_resamples=run.n_resamples,
    )
    if rolled is not None:
        estimates["am"] = rolled.estimate(name, n_resamples=run.n_resamples, seed=run.request.seed)
    if "dm" in estimates and fitted is not None:
        gaps = with_return(fitted.gaps[:, fitted.names.index(name)], reward)
        noise = training_noise(gaps, n_resamples=run.n_resamples, seed=run.request.seed)
        estimates["dm"] = replace(estimates["dm"], draws=estimates["dm"].draws + noise)
    has_weights = run.log.propensities is not None
    diagnosis = diagnose(run.log, probabilities, behavior=run.behavior) if has_weights else None
    unsupported = (
        None if run.behavior is None else float((probabilities * (run.behavior < MIN_SUPPORT)).sum(axis=1).mean())
    )
    return PolicyEstimates(
        estimates=estimates,
        diagnosis=diagnosis,
        unsupported_share=unsupported,
        runs=call_runs(run.log, probabilities),
        checks=checks,
        refusals={},
        headline=None,
    )


def training_noise(gaps: FloatArray, *, n_resamples: int, seed: int) -> FloatArray:
    """Draws of what the training leaves to chance, to be added to bootstrap draws of DM.

    If each half of the log gives a mean value, their mean has variance E[gap^2] / 4. A gap is multiplied with a normal
    number, the same for all policies and quantities, and all is widened to Student's t.

    Args:
        gaps: Half minus half, for R repeats and K quantities, shape (R, K).
        n_resamples: How many draws.
        seed: Equal seeds give equal normal numbers.

    Returns:
        Shape (n_resamples, K).

    Source: the multiplier bootstrap, van der Vaart and Wellner, Weak Convergence and Empirical Processes (1996), 2.9.
    """
    n_repeats = len(gaps)
    rng = np.random.default_rng([seed, n_repeats])
    factors = rng.normal(size=(n_resamples, n_repeats)) / (2 * np.sqrt(n_repeats))
    widening = np.sqrt(n_repeats / rng.chisquare(n_repeats, size=(n_resamples, 1)))
    noise: FloatArray = (factors * widening) @ gaps
    return noise


def _checks(run: OpeLog, probabilities: FloatArray, values: Values, residuals: FloatArray) -> dict[str, BellmanCheck]:
    assert run.log is not None
    weights = probabilities[np.arange(len(run.log.actions)), run.log.actions]
    if run.log.propensities is not None:
        weights = weights / run.log.propensities
    if not weights.sum() > 0:
        return {}
    return {
        column: bellman_check(
            residuals[:, number],
            values.logged[:, number],
            weights,
            run.transitions.turns,
            cluster_of_turn=run.clusters[run.transitions.episodes],
            n_episodes=len(run.episodes),
        )
        for number, column in enumerate(COLUMNS)
    }


def refusals_of(
    log: TurnLog,
    estimates: Mapping[Estimator, OpeEstimate],
    diagnosis: OpeDiagnosis | None,
    *,
    unsupported: float | None,
    runs: CallRuns,
    checks: Mapping[str, BellmanCheck],
    rolled: RolloutResult | None = None,
) -> dict[str, tuple[str, ...]]:
    """Why the log cannot tell, by the thresholds in `THRESHOLDS`.

    Args:
        log: The log; its rewards have the columns `COLUMNS`.
        estimates: By estimator.
        diagnosis: Of the weights; None if there are none.
        unsupported: Share of choices in unsupported states; None if nobody knows.
        runs: The policy's runs of calls of one model against those of the log.
        checks: Of the fitted values, by quantity.
        rolled: Roll-outs in a model of the log; None if there are none.

    Returns:
        Reasons by family of estimators, "weighting", "fitted" and "model"; a family that may be believed is left out.
    """
    deviations = _spread(log)
    support = [] if unsupported is None else _without_support(unsupported)
    weighting = [*_bad_weights(diagnosis), *support]
    fitted = [*_bad_values(checks, deviations), *support, *_long_runs(runs)]
    if "dm" in estimates:
        fitted += _too_wide(estimates["dm"], deviations["return"])
    best = next((name for name in HEADLINES if name in estimates and name in FAMILIES["weighting"]), None)
    if best is not None:
        weighting += _too_wide(estimates[best], deviations["return"])
    found = {"weighting": tuple(weighting), "fitted": tuple(fitted)}
    if rolled is not None:
        found["model"] = (*_bad_model(rolled, deviations), *support, *_too_wide(estimates["am"], deviations["return"]))
    return {family: reasons for family, reasons in found.items() if reasons}


def _bad_weights(diagnosis: OpeDiagnosis | None) -> list[str]:
    if diagnosis is None:
        return ["the log has no propensities"]
    if diagnosis.effective_sample_size < MIN_EFFECTIVE_SAMPLE_SIZE:
        return [
            f"the effective sample size is {diagnosis.effective_sample_size:.1f} episodes, must be at least "
            f"{MIN_EFFECTIVE_SAMPLE_SIZE:.0f}"
        ]
    if diagnosis.pareto_k is not None and diagnosis.pareto_k > MAX_PARETO_K:
        return [
            f"the weights have a heavy tail: its Pareto k is {diagnosis.pareto_k:.2f}, must be at most {MAX_PARETO_K:g}, so "
            "that a few episodes decide the estimate"
        ]
    return []


def _without_support(share: float) -> list[str]:
    if share <= MAX_UNSUPPORTED_SHARE:
        return []
    return [
        f"{share:.1%} of its choices are models that were called with a probability below {MIN_SUPPORT:g} there, "
        f"must be at most {MAX_UNSUPPORTED_SHARE:.0%}"
    ]


def _long_runs(runs: CallRuns) -> list[str]:
    if runs.beyond_share <= MAX_BEYOND_SHARE:
        return []
    return [
        f"{runs.beyond_share:.0%} of its turns would follow {runs.longest_logged} or more calls of one model in a row, must be "
        f"at most {MAX_BEYOND_SHARE:.0%}: the log holds hardly any such history, so what a model does then is a guess"
    ]


def _bad_values(checks: Mapping[str, BellmanCheck], deviations: Mapping[str, float]) -> list[str]:
    """Fitted values that are off by much, beyond chance, in states of the log or after a choice of the policy's own."""
    if not checks:
        return ["no fitted values, or no logged turn to check them at"]
    found = []
    for column, check in checks.items():
        kinds = (
            ("held-out turns", check.bias, check.bias_error),
            ("held-out turns that follow its own choice", check.memory_bias, check.memory_bias_error),
        )
        found += [
            f"fitted values contradict {where}: {column} is off by {bias:+.3g} an episode (standard error {error:.2g}), "
            f"beyond chance by more than {MAX_BIAS:g} standard deviations of logged episodes ({deviations[column]:.3g})"
            for where, bias, error in kinds
            if abs(bias) - 2 * error > MAX_BIAS * deviations[column]
        ]
    return found


def _bad_model(rolled: RolloutResult, deviations: Mapping[str, float]) -> list[str]:
    """A model of the log in which the policy that logged it earns something else, beyond chance."""
    return [
        f"the model of the log contradicts the log: for the policy that made it, {column} is off by {gap:+.3g} an episode "
        f"(standard error {error:.2g}), beyond chance by more than {MAX_BIAS:g} standard deviations of logged episodes "
        f"({deviations[column]:.3g})"
        for column, gap, error in zip(COLUMNS, rolled.gap.tolist(), rolled.gap_error.tolist(), strict=True)
        if abs(gap) - 2 * error > MAX_BIAS * deviations[column]
    ]


def _too_wide(one: OpeEstimate, deviation: float) -> list[str]:
    low, high = one.interval(COLUMNS.index("return"))
    half = (high - low) / 2
    if half <= MAX_HALF_WIDTH * deviation:
        return []
    return [
        f"the interval of the return is ±{half:.3g}, wider than {MAX_HALF_WIDTH:g} standard deviation(s) of a single logged "
        f"episode ({deviation:.3g}), so it tells next to nothing"
    ]


def _spread(log: TurnLog) -> dict[str, float]:
    """Standard deviation of the logged episodes, by quantity."""
    totals = np.add.reduceat(log.rewards, log.starts, axis=0)
    return dict(zip(COLUMNS, totals.std(axis=0).tolist(), strict=True))
