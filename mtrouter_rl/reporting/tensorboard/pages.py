"""TensorBoard's pages that span runs: which scalars the Custom Scalars page lays out, and the HParams page."""

from collections.abc import Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from mtrouter_rl.evaluation.behavior_file import Behavior
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.metric_names import evaluation_name
from mtrouter_rl.reporting.tensorboard.scalars import LABELS

HyperParameters = Mapping[str, str | int | float]
_HParams = dict[str, str | int | float]
_Charts = dict[str, list[str | list[str]]]

_FIRST_HPARAMS = ("policy", "role")
_HPARAM_METRICS = ("return_mean", "score_mean", "cost_usd_mean", "cost_saved_share", "hull_gain", "switches_mean")
_ESTIMATED_RETURN = "ope/return_value"
_TITLES = {"score": "score", "cost_usd": "cost, USD", "return": "return"}


def hparams_of(results: Results, row: ResultRow, own: HyperParameters) -> _HParams:
    """Columns of a policy on the HParams page: who it is, and its own hyper-parameters."""
    role = "learned router" if row.policy in results.roles.learned else "other policy"
    role = "single model" if row.policy in results.roles.single_models else role
    role = "hidden-state reference, no router" if row.is_reference else role
    cost_weight = results.cost_weight if row.cost_weight is None else row.cost_weight
    common: _HParams = {"policy": row.policy, "role": role, "cost_weight": cost_weight}
    return common | dict(own)


def write_session(writer: SummaryWriter, hparams: HyperParameters) -> None:
    """The run as a session of the HParams page.

    `SummaryWriter.add_hparams` would open a sub-run of its own and repeat the metrics there. The session is written
    into the policy's run instead, where the metrics already are.
    """
    _, start, end = hparams_summaries(dict(hparams), {})  # type: ignore[no-untyped-call]
    writer._get_file_writer().add_summary(start)  # type: ignore[no-untyped-call]
    writer._get_file_writer().add_summary(end)  # type: ignore[no-untyped-call]


def write_experiment(
    writer: SummaryWriter, all_hparams: Sequence[HyperParameters], *, splits: Sequence[str], has_ope: bool
) -> None:
    """Columns of the HParams page: every hyper-parameter of any policy, and the metrics that people sort by."""
    union: _HParams = {}
    for hparams in all_hparams:
        union |= dict(hparams)
    names = [evaluation_name(field, split=split) for split in splits for field in _HPARAM_METRICS]
    metrics = dict.fromkeys([*names, _ESTIMATED_RETURN] if has_ope else names, 0.0)
    experiment, _, _ = hparams_summaries(union, metrics)  # type: ignore[no-untyped-call]
    _put_policy_first(experiment)
    writer._get_file_writer().add_summary(experiment)  # type: ignore[no-untyped-call]


def _put_policy_first(experiment: Summary) -> None:
    """Have the HParams page show who is compared among its first columns, which are the only ones it shows at once.

    It sorts by name, after those that are marked as differing between runs.
    """
    plugin = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name in _FIRST_HPARAMS
    plugin.content = data.SerializeToString()


def layout(
    splits: Sequence[str], *, behavior: Behavior | None, calibrated_splits: Sequence[str], has_ope: bool
) -> dict[str, _Charts]:
    """Custom Scalars: one line per chosen run in every chart; intervals are margins.

    Args:
        splits: Splits of the results.
        behavior: The behaviour file, if there is one.
        calibrated_splits: Splits with routers whose Q-values were held against what they achieved.
        has_ope: Whether there are estimates from a log.
    """
    pages: dict[str, _Charts] = {}
    for split in splits:
        pages[f"policies on {split}"] = _policy_charts(split)
    if has_ope:
        pages["estimated from a log"] = {
            f"{title}, with 95% interval": ["Margin", [f"ope/{quantity}_{end}" for end in ("value", "low", "high")]]
            for quantity, title in _TITLES.items()
        }
    if behavior is not None:
        shown = [split for split in behavior.splits if split in splits]
        pages |= {f"behavior on {split}": _behavior_charts(behavior, split) for split in shown}
    for split in calibrated_splits:
        tags = [_named(f"q/overestimation_{end}", split) for end in ("mean", "ci95_low", "ci95_high")]
        pages[f"Q-values on {split}"] = {
            "predicted minus achieved return-to-go, with 95% interval": ["Margin", tags],
            "calibration error": ["Multiline", [_named("q/calibration_error", split)]],
        }
    return pages


def _policy_charts(split: str) -> _Charts:
    charts: _Charts = {}
    for field, title in _TITLES.items():
        tags = [_named(f"{field}_{end}", split) for end in ("mean", "ci95_low", "ci95_high")]
        charts[f"{title}, with 95% interval"] = ["Margin", tags]
    for field, title in (("score_mean", "score so far"), ("cost_usd_mean", "cost so far, USD")):
        charts[f"{title}, by turn"] = ["Multiline", [_named(f"by_turn/{field}", split)]]
    charts["switches"] = ["Multiline", [_named("switches_mean", split)]]
    return charts


def _behavior_charts(behavior: Behavior, split: str) -> _Charts:
    charts: _Charts = {
        "share of the budget spent, by turn": ["Multiline", [_named("behavior/budget_used_by_turn", split)]]
    }
    for kind in ("transient", "persistent"):
        field = f"behavior/stay_after_{kind}"
        tags = [_named(f"{field}{end}", split) for end in ("", "_ci95_low", "_ci95_high")]
        charts[f"stays after a {kind} error, with 95% interval"] = ["Margin", tags]
    charts["entropy of the models used, bits"] = ["Multiline", [_named("behavior/usage_entropy_bits", split)]]
    dependences = [row.mutual_information for row in behavior.rows if row.split == split]
    known = [label for label in LABELS if any(getattr(one, label) is not None for one in dependences)]
    for label in known:
        tags = [
            evaluation_name(f"behavior/mutual_information_{end}/{{name}}", split=split, name=label)
            for end in ("bits", "ci95_low", "ci95_high")
        ]
        charts[f"mutual information of model and {label}, bits, with 95% interval"] = ["Margin", tags]
    return charts


def _named(field: str, split: str) -> str:
    return evaluation_name(field, split=split)
