"""What a study on a log found, as rows of a results file: estimates instead of episodes that were run."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl import __version__
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.evaluation.result_rows import adjust_p_values
from mtrouter_rl.evaluation.results import PairedDifference, PolicyRoles, ResultRow, Results
from mtrouter_rl.ope.bandit import OUTCOMES, BanditEstimate, EpisodeLog
from mtrouter_rl.records import Episode, FloatArray, JsonValue
from mtrouter_rl.reporting.tables import verdict_word
from mtrouter_rl.statistics.estimate import (
    COST_RANGE,
    RETURN_RANGE,
    SCORE_RANGE,
    Estimate,
    studentized_ends,
    within,
)
from mtrouter_rl.statistics.hull import hull_value
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value

logger = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

ESTIMATOR = (
    "estimated from a log, nothing was run: self-normalised importance sampling stratified by task, every instance by "
    "routers that were not trained on it, mean over several divisions into folds"
)
BASELINE = "task-table"
_FIXED = ("random", "cheapest", "strongest")


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the training folds say of a policy on the fold that they do not hold.

    Attributes:
        n_episodes: Episodes of that fold.
        score_difference: Score minus that of the best single model.
        cost_saved: Share of the best single model's cost.
        is_reached: Whether a cost weight was found at which the training folds say that the score is kept.
    """

    n_episodes: int
    score_difference: float
    cost_saved: float
    is_reached: bool = True


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A promise beside what came of it.

    Attributes:
        policy: Name of the policy.
        promised_cost_saved: Mean over folds of what the training folds said, a share of the strongest model's cost.
        promised_score: Likewise, score minus that of the strongest.
        cost_saved: What the other folds say, with its 95% interval.
        score: Likewise.
        score_unconfounded: Score minus that of the strongest without the tasks that are flagged as confounded.
        n_promises: Folds of all divisions.
        n_reached: In how many of them a cost weight was found that keeps the score.
    """

    policy: str
    promised_cost_saved: float
    promised_score: float
    cost_saved: Estimate
    score: Estimate
    score_unconfounded: float
    n_promises: int
    n_reached: int

    def to_json(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "promised_cost_saved": self.promised_cost_saved,
            "cost_saved": self.cost_saved.value,
            "cost_saved_ci95": list(self.cost_saved.ends or ()),
            "promised_score_difference": self.promised_score,
            "score_difference": self.score.value,
            "score_difference_ci95": list(self.score.ends or ()),
            "score_difference_without_confounded": self.score_unconfounded,
            "folds": self.n_promises,
            "folds_where_score_is_kept": self.n_reached,
        }

    def __str__(self) -> str:
        """One sentence for a reader."""
        (low, high), (score_low, score_high) = self.cost_saved.ends or (0.0, 0.0), self.score.ends or (0.0, 0.0)
        return (
            f"'{self.policy}': the training folds promise {100 * self.promised_cost_saved:.0f}% of the strongest model's "
            f"cost saved at {self.promised_score:+.1f} score; on the fold that they do not hold it is "
            f"{100 * self.cost_saved.value:.0f}% [{100 * low:.0f}, {100 * high:.0f}] at {self.score.value:+.1f} "
            f"[{score_low:+.1f}, {score_high:+.1f}] ({self.score_unconfounded:+.1f} without confounded tasks)."
            + (
                f" In {self.n_promises - self.n_reached} of {self.n_promises} folds no cost weight promised to keep it."
                if self.n_reached < self.n_promises
                else ""
            )
        )


@dataclass(frozen=True, kw_only=True)
class LogOutcome:
    """Everything that a study on a log found.

    Attributes:
        info: The log's info.
        episodes: Its episodes turn by turn, N of them.
        log: The same as one decision each.
        reward: Cost weight and unit.
        estimates: Policy -> what it is estimated to earn.
        weights: Policy -> cost weight, for those that have another one than the reward.
        promises: Policy -> what the training folds said of it, one per fold.
        confounded: Task -> overlap of what the models played, where that is low.
    """

    info: DatasetInfo
    episodes: tuple[Episode, ...]
    log: EpisodeLog
    reward: RewardCard
    estimates: dict[str, BanditEstimate]
    weights: dict[str, float]
    promises: dict[str, list[Promise]]
    confounded: dict[str, float]

    @property
    def believed(self) -> dict[str, BanditEstimate]:
        """Estimates of the policies that the log can tell of."""
        return {name: one for name, one in self.estimates.items() if not one.diagnosis.refusals}

    @property
    def refused(self) -> dict[str, tuple[str, ...]]:
        """Policies that the log cannot tell of, with the reasons."""
        return {name: one.diagnosis.refusals for name, one in self.estimates.items() if one.diagnosis.refusals}

    @property
    def roles(self) -> PolicyRoles:
        """Roles of the policies that are believed."""
        known = tuple(self.believed)
        singles = tuple(single_policy(name) for name in self.info.model_names)
        return PolicyRoles(
            single_models=tuple(name for name in singles if name in known),
            strongest="strongest" if "strongest" in known else None,
            learned=tuple(name for name in known if name not in (*singles, *_FIXED)),
            baselines=tuple(name for name in (*_FIXED, *self._best_single(singles), BASELINE) if name in known),
        )

    def _best_single(self, singles: Sequence[str]) -> tuple[str, ...]:
        """The single model with the highest return: what a router has to beat at this cost weight."""
        returns = {name: float(one.snips[OUTCOMES.index("return")]) for name, one in self.believed.items()}
        known = [name for name in singles if name in returns]
        return (max(known, key=lambda name: returns[name]),) if known else ()

    def kept(self) -> tuple[Kept, ...]:
        """What came of the promises, of the policies that are believed."""
        known = self.believed
        strongest = known.get("strongest")
        if strongest is None:
            return ()
        return tuple(_kept(self, name, known[name], strongest) for name in self.promises if name in known)

    def score_unconfounded(self, one: BanditEstimate) -> float:
        """Score of an estimate over the tasks that are not flagged as confounded."""
        is_sound = np.array([stratum not in self.confounded for stratum in self.log.strata])
        return _score(self, one.weights * is_sound)


def log_results(outcome: LogOutcome, *, seed: int, config: dict[str, JsonValue]) -> Results:
    """Results file of a study on a log.

    Args:
        outcome: What the study found.
        seed: Seed of the study.
        config: How it was made; what the log cannot tell, and diagnostics of every policy, are added.
    """
    for name, reasons in outcome.refused.items():
        logger.warning("policy '%s': this log cannot tell; %s", name, "; ".join(reasons))
    rows = adjust_p_values(_row(outcome, name) for name in outcome.believed)
    found: dict[str, JsonValue] = {
        "assumptions": list(outcome.info.assumptions),
        "equal_score": {kept.policy: kept.to_json() for kept in outcome.kept()},
        "refused": {name: list(reasons) for name, reasons in outcome.refused.items()},
        "confounded_tasks": dict(outcome.confounded),
        "diagnostics": {name: _diagnostics(one) for name, one in outcome.estimates.items()},
    }
    return Results(
        env=outcome.info.env,
        pool=outcome.info.pool_name,
        model_names=outcome.info.model_names,
        is_simulated=outcome.info.is_simulated,
        cost_weight=outcome.reward.cost_weight,
        cost_unit_usd=outcome.reward.cost_unit_usd,
        dataset_id=outcome.info.dataset_id,
        seed=seed,
        n_seeds=1,
        package_version=__version__,
        config=config | found,
        roles=outcome.roles,
        rows=rows,
        estimator=ESTIMATOR,
        notes=(*_against_table(rows), *map(str, outcome.kept()), *_warnings(outcome)),
    )


def _kept(outcome: LogOutcome, name: str, one: BanditEstimate, strongest: BanditEstimate) -> Kept:
    promises = outcome.promises[name]
    shares = [promise.n_episodes for promise in promises]
    low, high = studentized_ends(1 - one.draws[:, 1] / strongest.draws[:, 1])
    saved = 1 - float(one.snips[1] / strongest.snips[1])
    n = len(one.weights)
    return Kept(
        policy=name,
        promised_cost_saved=float(np.average([promise.cost_saved for promise in promises], weights=shares)),
        promised_score=float(np.average([promise.score_difference for promise in promises], weights=shares)),
        cost_saved=Estimate(value=saved, low=low, high=high, n_episodes=n, n_clusters=n),
        score=_difference(one, strongest).score,
        score_unconfounded=outcome.score_unconfounded(one) - outcome.score_unconfounded(strongest),
        n_promises=len(promises),
        n_reached=sum(promise.is_reached for promise in promises),
    )


def _against_table(rows: Sequence[ResultRow]) -> list[str]:
    """What beats the per-task table at the same cost weight, in words."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if "@" not in row.policy and BASELINE in row.paired:
            groups.setdefault(verdict_word(row.paired[BASELINE].return_), []).append(row.policy)
    if not groups:
        return []
    words = "; ".join(f"{word}: {', '.join(names)}" for word, names in groups.items())
    return [f"Return against the per-task table of mean score and mean cost, at the same cost weight: {words}."]


def _warnings(outcome: LogOutcome) -> list[str]:
    notes = [
        f"Confounded: in task '{task}' the models played different instances (overlap {overlap:.2f} of 1), so what it says "
        "of the models is partly what their instances were."
        for task, overlap in sorted(outcome.confounded.items())
    ]
    notes += [f"Policy '{name}': this log cannot tell ({'; '.join(why)})." for name, why in outcome.refused.items()]
    return [*notes, *(f"Assumed in the log: {text.rstrip('.')}." for text in outcome.info.assumptions)]


def _diagnostics(one: BanditEstimate) -> JsonValue:
    diagnosis = one.diagnosis
    return {
        "effective_sample_size": diagnosis.effective_sample_size,
        "unsupported_share": diagnosis.unsupported_share,
        "largest_weight": diagnosis.largest_weight,
        "ips": {name: float(value) for name, value in zip(OUTCOMES, one.ips, strict=True)},
        "dr": {name: float(value) for name, value in zip(OUTCOMES, one.dr, strict=True) if np.isfinite(value)},
    }


def _row(outcome: LogOutcome, name: str) -> ResultRow:
    one, known, roles = outcome.estimates[name], outcome.believed, outcome.roles
    utility, cost_usd, return_ = (float(value) for value in one.snips)
    turns = np.array([len(episode.turns) for episode in outcome.episodes])
    singles = [(float(known[s].snips[1]), 100 * float(known[s].snips[0])) for s in roles.single_models]
    strongest = known.get("strongest")
    low, high = one.interval("utility")
    n_errors = sum(bool(turn.error) for episode in outcome.episodes for turn in episode.turns[:-1])
    return ResultRow(
        policy=name,
        split="test",
        cost_weight=outcome.weights.get(name),
        n_episodes=len(outcome.episodes),
        score_mean=100 * utility,
        score_ci95=within((100 * low, 100 * high), SCORE_RANGE),
        utility_mean=utility,
        cost_usd_mean=cost_usd,
        cost_usd_ci95=within(one.interval("cost_usd"), COST_RANGE),
        cost_usd_total=cost_usd * len(outcome.episodes),
        return_mean=return_,
        return_ci95=within(one.interval("return"), RETURN_RANGE),
        turns_mean=float(one.weights @ turns),
        switches_mean=0.0,
        stay_after_error=1.0 if n_errors else None,  # the model never changes within an episode
        model_share=_shares(outcome, one.weights * turns),
        model_share_by_task=_by_task(outcome, lambda members: _shares(outcome, one.weights * turns * members)),
        score_by_task=_by_task(outcome, lambda members: _score(outcome, one.weights * members)),
        budget_violations=0,
        n_failed=0,
        hull_gain=100 * utility - hull_value(cost_usd, singles) if singles else None,
        cost_saved_share=None if strongest is None else 1 - cost_usd / float(strongest.snips[1]),
        paired=_paired(name, known, roles),
    )


def _shares(outcome: LogOutcome, weights: FloatArray) -> dict[str, float]:
    names = outcome.info.model_names
    sums = np.bincount(outcome.log.actions, weights=weights, minlength=len(names))
    return {name: float(share) for name, share in zip(names, sums / sums.sum(), strict=True)}


def _score(outcome: LogOutcome, weights: FloatArray) -> float:
    return float(100 * (weights @ outcome.log.outcomes[:, 0]) / weights.sum())


def _by_task(outcome: LogOutcome, of: Callable[[npt.NDArray[np.bool_]], ValueT]) -> dict[str, ValueT]:
    """A statistic of every task; `of` is told which episodes are the task's, shape (N,)."""
    strata = np.array(outcome.log.strata)
    return {str(task): of(strata == task) for task in np.unique(strata)}


def _paired(name: str, estimates: dict[str, BanditEstimate], roles: PolicyRoles) -> dict[str, PairedDifference]:
    if name not in roles.learned:
        return {}
    return {
        baseline: _difference(estimates[name], estimates[baseline]) for baseline in roles.baselines if baseline != name
    }


def _difference(one: BanditEstimate, other: BanditEstimate) -> PairedDifference:
    def interval(outcome: str, scale: float = 1.0) -> Estimate:
        column = OUTCOMES.index(outcome)
        low, high = studentized_ends(scale * (one.draws[:, column] - other.draws[:, column]))
        n = len(one.weights)
        value = scale * float(one.snips[column] - other.snips[column])
        return Estimate(value=value, low=low, high=high, n_episodes=n, n_clusters=n)

    column = OUTCOMES.index("return")
    return PairedDifference(
        score=interval("utility", 100.0),
        cost_usd=interval("cost_usd"),
        return_=interval("return"),
        p_value=bootstrap_p_value(one.draws[:, column] - other.draws[:, column]),
        p_value_holm=None,
    )
