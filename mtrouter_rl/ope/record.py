"""The records of an off-policy evaluation: `ope.json`, and how it is printed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import save_record
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.sequential import Estimator, is_believed
from mtrouter_rl.records import Frozen
from mtrouter_rl.statistics.rank_agreement import selection_quality

OPE_FILE = "ope.json"
Propensities = Literal["exact", "estimated", "unknown"]


class Estimated(Frozen):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


class WeightDiagnosis(Frozen):
    """Whether the log speaks of a policy, turn by turn and in the tail of its weights; see `ope_diagnosis.OpeDiagnosis`.

    Attributes:
        episodes_by_turn: Episodes that reach every turn, T numbers.
        effective_by_turn: Effective sample size of the weights up to every turn.
        support_by_turn: Probability that the policy chooses a model that the behaviour policy calls often enough there; None
            if the behaviour policy is unknown.
        overlap_by_turn: What both distributions have in common, in [0, 1]; None likewise.
        never_logged_share: Probability that the policy chooses a model that was never called in states of that kind.
        quantiles: 50%, 90%, 99% and largest whole-episode weight, 1 being an even share; None if all are 0.
        pareto_k: Shape of their tail; None if there is none.
    """

    episodes_by_turn: tuple[int, ...]
    effective_by_turn: tuple[float, ...]
    support_by_turn: tuple[float, ...] | None
    overlap_by_turn: tuple[float, ...] | None
    never_logged_share: float
    quantiles: tuple[float, ...] | None
    pareto_k: float | None


class ModelCheck(Frozen):
    """How far a model of the log is off for the policy that made the log; see `mtrouter_rl.ope.rollouts.RolloutResult`."""

    gap: float
    gap_error: float
    task_spread: float


class PolicyReport(Frozen):
    """What the log says of one router.

    Attributes:
        policy: Its name.
        router: What the user wrote.
        headline: The estimator to believe; None if the log cannot tell.
        refusals: Why an estimator was not believed, by estimator family ("weighting", "fitted", "model"); empty lists are left
            out.
        estimates: Estimator -> quantity (utility, cost_usd, return) -> number; empty if the router could not be estimated.
        effective_sample_size: Of the whole-episode weights; None without propensities.
        largest_weight_share: Share of the largest of them; likewise.
        unsupported_share: Share of its choices that the behaviour policy hardly ever makes there.
        runs: How long it keeps one model, against how long the log does; see `call_runs.CallRuns`.
        weights: Overlap, support and weight tails; None without propensities.
        bellman: Checks of the fitted values, by quantity.
        own_value: What its own Q-function says of the first states; a return only if its discount factor is 1.
        is_trained_on_log: Whether it was trained on this log, so that it chose what turned out well by chance in it; None if
            its provenance is unknown.
    """

    policy: str
    router: str
    headline: Estimator | None
    refusals: dict[str, tuple[str, ...]]
    estimates: dict[str, dict[str, Estimated]]
    effective_sample_size: float | None = None
    largest_weight_share: float | None = None
    unsupported_share: float | None = None
    runs: dict[str, float] = Field(default_factory=dict)
    weights: WeightDiagnosis | None = None
    bellman: dict[str, dict[str, float]] = Field(default_factory=dict)
    own_value: float | None = None
    is_trained_on_log: bool | None = None

    def believes(self, name: Estimator) -> bool:
        """See `sequential.is_believed`."""
        return is_believed(name, self.estimates, self.refusals)


class Difference(Frozen):
    """Return of a policy minus that of another, by the same estimator, on shared resamples.

    Attributes:
        policy: The one.
        other: The other.
        estimator: By which.
        difference: With its 95% interval.
        p_value: Two-sided, by the bootstrap.
        p_value_holm: The same, adjusted for all differences of the report.
    """

    policy: str
    other: str
    estimator: Estimator
    difference: Estimated
    p_value: float
    p_value_holm: float


class OpeReport(Frozen):
    """Everything that was found; `ope.json` holds it.

    Attributes:
        dataset_id: The log.
        env: Its environment; None in files of older versions, which do not say. Likewise the pool.
        pool: Name of the pool card that gave the models.
        model_names: The pool's models, in pool order.
        split: Its split: estimates are of episodes such as these.
        n_episodes: Completed episodes with at least one turn.
        n_left_out: Episodes that failed or have no turn.
        n_turns: Turns.
        n_clusters: (task, variation) pairs.
        behavior_policy: Who logged it.
        propensities: "exact", "estimated" (a classifier stands for the behaviour policy) or "unknown" (none were needed).
        logged: Mean of the logged episodes, by quantity.
        cost_weight: Of the return.
        cost_unit_usd: Of the return.
        seed: Seed of everything.
        encoder: Text encoder of the fitted values; None if there are none.
        fqe: Parameters of the fitted values; None likewise.
        memory_spread: By quantity, what the intervals of DM hold for what the history does not show, as a standard
            deviation; None if there is no DM.
        approximate_model: By quantity, the check of the model of the log; None if none was asked for.
        thresholds: Behind the refusals.
        policies: In the order that was asked for.
        differences: Between every two policies that have a headline, by the first estimator that may be believed for both.
        selection: Quality of the choice against closed-loop results, by quantity; None without such results.
        notes: What a reader must know, a sentence each.
        package_version: Of mtrouter_rl.
    """

    dataset_id: str
    env: str | None = None
    pool: str | None = None
    model_names: tuple[str, ...] | None = None
    split: str
    n_episodes: int
    n_left_out: int
    n_turns: int
    n_clusters: int
    behavior_policy: str
    propensities: Propensities
    logged: dict[str, float]
    cost_weight: float
    cost_unit_usd: float
    seed: int
    encoder: str | None
    fqe: FqeParameters | None
    memory_spread: dict[str, float] | None = None
    approximate_model: dict[str, ModelCheck] | None = None
    thresholds: dict[str, float]
    policies: tuple[PolicyReport, ...]
    differences: tuple[Difference, ...]
    selection: dict[str, dict[str, float | int | None]] | None
    notes: tuple[str, ...]
    package_version: str

    @field_validator("fqe", mode="before")
    @classmethod
    def _older_files_had_no_bound(cls, fqe: object) -> object:
        if isinstance(fqe, dict) and "max_passes" not in fqe:
            return {**fqe, "max_passes": None}
        return fqe

    def save(self, folder: Path) -> Path:
        """Write `ope.json`; returns its path."""
        path = folder / OPE_FILE
        save_record(self, path)
        return path


def selection_by_quantity(
    policies: Sequence[PolicyReport], truth: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float | int | None]]:
    """Quality of the choice against closed-loop means, by quantity; empty if no policy has both.

    Args:
        policies: Estimates; those without a headline are left out.
        truth: Closed-loop means by policy and quantity (utility, cost_usd, return).

    Returns:
        Fields of `SelectionQuality` by quantity. Less cost is better, so it is compared with its sign turned.
    """
    headlines = {one.policy: one.estimates[one.headline] for one in policies if one.headline is not None}
    told = {name: numbers for name, numbers in headlines.items() if name in truth}
    if not told:
        return {}
    found = {}
    for quantity, sign in (("utility", 1.0), ("cost_usd", -1.0), ("return", 1.0)):
        numbers = {name: estimates[quantity] for name, estimates in told.items()}
        quality = selection_quality(
            {name: sign * one.value for name, one in numbers.items()},
            {name: sign * value[quantity] for name, value in truth.items()},
            intervals={
                name: (min(sign * one.low, sign * one.high), max(sign * one.low, sign * one.high))
                for name, one in numbers.items()
            },
        )
        found[quantity] = vars(quality) | {"error_mean": sign * quality.error_mean}
    return found


def load_report(path: Path) -> OpeReport:
    """Read an `ope.json`.

    Raises:
        InvalidConfigError: If it is missing or is no such file.
    """
    try:
        return OpeReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfigError(
            f"{path} cannot be read as {OPE_FILE}: {error}; run 'mtrouter-rl ope' again"
        ) from error
