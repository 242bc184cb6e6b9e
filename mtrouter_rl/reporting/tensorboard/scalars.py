"""Which scalars a record of an evaluation becomes: metric name -> value. What does not exist (None) has no point."""

from collections.abc import Mapping

from mtrouter_rl.evaluation.behavior_file import BehaviorRow, ModelDependence
from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.evaluation.value_calibration import Calibration
from mtrouter_rl.metric_names import evaluation_name
from mtrouter_rl.ope.record import PolicyReport
from mtrouter_rl.reporting.ope_plots import QUANTITIES, headline

_ROW_FIELDS = (
    "score_mean",
    "utility_mean",
    "cost_usd_mean",
    "cost_usd_total",
    "return_mean",
    "turns_mean",
    "switches_mean",
    "stay_after_error",
    "hull_gain",
    "cost_saved_share",
    "budget_violations",
    "n_failed",
    "n_episodes",
)
_INTERVAL_FIELDS = ("score_ci95", "cost_usd_ci95", "return_ci95")
_BEHAVIOR_FIELDS = (
    "budget_used_mean",
    "usage_entropy_bits",
    "usage_entropy_within_episode_bits",
    "run_length_mean",
)
_ERROR_FIELDS = (
    "stay_after_transient",
    "stay_after_persistent",
    "recovery_after_transient",
    "recovery_after_persistent",
    "recovery_by_staying",
    "recovery_by_switching",
    "turns_to_recovery_mean",
)
_ERROR_INTERVALS = ("stay_after_transient_ci95", "stay_after_persistent_ci95")
_OPE_FIELDS = ("effective_sample_size", "largest_weight_share", "unsupported_share")

LABELS = tuple(ModelDependence.model_fields)
"""What the choice of model may depend on."""

_Values = Mapping[str, float | int | None]


def row_scalars(row: ResultRow) -> dict[str, float]:
    """Every number of a row of results."""
    split = row.split
    values: dict[str, float | int | None] = {
        evaluation_name(field, split=split): getattr(row, field) for field in _ROW_FIELDS
    }
    for field in _INTERVAL_FIELDS:
        values |= _ends(field, getattr(row, field), split=split)
    for model, share in row.model_share.items():
        values[evaluation_name("model_share/{name}", split=split, name=model)] = share
    for baseline, difference in row.paired.items():
        name = evaluation_name("return_difference/{name}", split=split, name=baseline)
        values[name] = difference.return_.value
    return _present(values)


def behavior_scalars(row: BehaviorRow) -> dict[str, float]:
    """The numbers of a row of the behaviour file that policies are compared by; `budget_use_by_turn` is a curve."""
    split, errors = row.split, row.errors

    def name_of(field: str, name: str = "") -> str:
        return evaluation_name(f"behavior/{field}", split=split, name=name)

    values: dict[str, float | int | None] = {name_of(field): getattr(row, field) for field in _BEHAVIOR_FIELDS}
    values |= {name_of(field): getattr(errors, field) for field in _ERROR_FIELDS}
    values[name_of("error_share")] = errors.share_of_turns
    for field in _ERROR_INTERVALS:
        values |= _ends(f"behavior/{field}", getattr(errors, field), split=split)
    for model, share in row.cost_share.items():
        values[name_of("cost_share/{name}", model)] = share
    for label in LABELS:
        found = getattr(row.mutual_information, label)
        if found is not None:
            values[name_of("mutual_information_bits/{name}", label)] = found.bits_corrected
            values[name_of("mutual_information_ci95_low/{name}", label)] = found.low
            values[name_of("mutual_information_ci95_high/{name}", label)] = found.high
    return _present(values)


def calibration_scalars(calibration: Calibration, *, split: str) -> dict[str, float]:
    """Over-estimation with its interval, and calibration error."""
    values: dict[str, float | int | None] = {
        evaluation_name("q/overestimation_mean", split=split): calibration.overestimation.value,
        evaluation_name("q/calibration_error", split=split): calibration.error,
    }
    return _present(values | _ends("q/overestimation_ci95", calibration.overestimation.ends, split=split))


def ope_scalars(report: PolicyReport) -> dict[str, float]:
    """The headline estimates with their intervals, if the log can tell, and the checks of the weights."""
    values: dict[str, float | int | None] = {f"ope/{field}": getattr(report, field) for field in _OPE_FIELDS}
    for quantity in QUANTITIES:
        found = headline(report, quantity)
        if found is not None:
            values |= {f"ope/{quantity}_{end}": getattr(found, end) for end in ("value", "low", "high")}
    return _present(values)


def _ends(field: str, ends: tuple[float, float] | None, *, split: str) -> dict[str, float | int | None]:
    low, high = ends or (None, None)
    names = [evaluation_name(f"{field}_{end}", split=split) for end in ("low", "high")]
    return dict(zip(names, (low, high), strict=True))


def _present(values: _Values) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
