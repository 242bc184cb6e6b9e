"""TensorBoard: curves of a training, and an evaluation with one run per policy.

`write_evaluation` makes a run (sub-folder) for every policy, and one called "comparison" for what concerns them all. It
may be called again with more policies: what it wrote before is replaced, files of others (training curves) are kept.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from mtrouter_rl.errors import PoolMismatchError, ResultsError, unknown_name
from mtrouter_rl.evaluation.metrics import cumulative_by_turn, episode_key, running_share_by_turn
from mtrouter_rl.evaluation.plots import (
    cost_score_figure,
    model_share_by_task_figure,
    model_share_by_turn_figure,
    model_share_figure,
    paired_difference_figure,
    slug,
)
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.evaluation.tables import markdown_table
from mtrouter_rl.evaluation.transcripts import choose_keys, transcript_markdown
from mtrouter_rl.metric_names import check_name, evaluation_name
from mtrouter_rl.pools.card import PoolCard
from mtrouter_rl.records import FloatArray, TracedEpisode

COMPARISON_RUN = "comparison"
EMBEDDING_TAG = "model_embeddings"
N_TRANSCRIPTS = 3
"""Episodes per split that are written as text, the same ones for every policy."""

_SUFFIX = ".evaluation"
"""Ends the name of every event file that `write_evaluation` makes, so that it can replace its own and no other."""

HyperParameters = Mapping[str, str | int | float]

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
_FIRST_HPARAMS = ("policy", "role")
_HPARAM_METRICS = ("return_mean", "score_mean", "cost_usd_mean", "cost_saved_share", "hull_gain", "switches_mean")


class TensorBoardSink:
    """A `MetricSink` that writes to a TensorBoard run; use it in a `with` statement, which writes the last points.

    A value that is NaN or infinite is written as it is: a training that diverges is to be seen. Without a point there is
    no file, so that a training without curves is no empty run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one point of a curve.

        Args:
            name: One of `mtrouter_rl.metric_names`.
            value: Value.
            step: Gradient steps so far.

        Raises:
            UnknownNameError: If the table of metric names has no such name.
        """
        check_name(name)
        if self._writer is None:
            self._writer = SummaryWriter(log_dir=str(self._folder))
        self._writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        """Write what is buffered and close the file. May be called twice."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """Everything that the runs are written from."""

    results: Results
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]]
    pool: PoolCard
    model_embeddings: Mapping[str, FloatArray]
    hyper_parameters: Mapping[str, HyperParameters]


def write_evaluation(
    folder: Path,
    *,
    results: Results,
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]],
    pool: PoolCard,
    model_embeddings: Mapping[str, FloatArray] | None = None,
    hyper_parameters: Mapping[str, HyperParameters] | None = None,
) -> tuple[Path, ...]:
    """Write an evaluation as TensorBoard runs.

    Args:
        folder: Log folder; `tensorboard --logdir FOLDER` shows it.
        results: The results file; every row becomes scalars.
        traced: Split -> policy -> its episodes; may lack policies, which then get no transcripts and no curves by turn.
        pool: The pool of all policies.
        model_embeddings: Learned router -> its embedding of every model in pool order, shape (M, d).
        hyper_parameters: Policy -> its hyper-parameters, for the HParams page.

    Returns:
        Folders of the runs.

    Raises:
        PoolMismatchError: If results or embeddings are of another pool.
        UnknownNameError: If episodes, embeddings or hyper-parameters are of a policy that results have no row of.
        ResultsError: If two policies would share a run folder, or episodes contradict the pool.
    """
    evaluation = _Evaluation(
        results=results,
        traced=traced,
        pool=pool,
        model_embeddings=model_embeddings or {},
        hyper_parameters=hyper_parameters or {},
    )
    runs = _runs(results)
    _check(evaluation, labels=tuple(runs.values()))
    paths = []
    for run, label in runs.items():
        with _writer(folder / run) as writer:
            _write_policy(writer, evaluation, label=label)
        paths.append(folder / run)
    with _writer(folder / COMPARISON_RUN) as writer:
        _write_comparison(writer, evaluation)
    return (*paths, folder / COMPARISON_RUN)


def _runs(results: Results) -> dict[str, str]:
    """Run folder -> label of the policy."""
    runs: dict[str, str] = {}
    for row in results.rows:
        run = slug(row.label)
        if run == COMPARISON_RUN or runs.setdefault(run, row.label) != row.label:
            raise ResultsError(
                f"policies '{runs.get(run, COMPARISON_RUN)}' and '{row.label}' would both write run '{run}'; rename one"
            )
    return runs


def _check(evaluation: _Evaluation, *, labels: Sequence[str]) -> None:
    names = evaluation.pool.model_names
    if evaluation.results.model_names != names:
        raise PoolMismatchError(
            f"results are of models {list(evaluation.results.model_names)}, pool '{evaluation.pool.name}' has "
            f"{list(names)}; give the pool that was evaluated"
        )
    for router, embeddings in evaluation.model_embeddings.items():
        if embeddings.ndim != 2 or len(embeddings) != len(names):
            raise PoolMismatchError(
                f"model_embeddings of '{router}' have shape {embeddings.shape}, must be ({len(names)}, d): "
                "one row per model"
            )
    traced = [policy for policies in evaluation.traced.values() for policy in policies]
    for policy in (*traced, *evaluation.model_embeddings, *evaluation.hyper_parameters):
        if policy not in labels:
            raise unknown_name("policy", policy, labels, fix="Add its row to the results first")


def _writer(run: Path) -> SummaryWriter:
    """A writer on a run folder, after what an earlier evaluation left there is gone."""
    for stale in run.glob(f"events.out.tfevents.*{_SUFFIX}"):
        stale.unlink()
    embeddings = run / "00000" / EMBEDDING_TAG
    if embeddings.is_dir():
        shutil.rmtree(embeddings)
    return SummaryWriter(log_dir=str(run), filename_suffix=_SUFFIX)


def _write_policy(writer: SummaryWriter, evaluation: _Evaluation, *, label: str) -> None:
    rows = [row for row in evaluation.results.rows if row.label == label]
    for row in rows:
        for name, value in _row_scalars(row).items():
            _scalar(writer, name, value)
        if _is_mixing(row):
            figure = model_share_by_task_figure(row, evaluation.results.model_names)
            writer.add_figure(f"model_share_by_task/{row.split}", figure, close=False)
        traced = evaluation.traced.get(row.split, {}).get(label, ())
        if any(one.episode.turns for one in traced if one.episode.status == "completed"):
            _write_turns(writer, traced, row, model_names=evaluation.results.model_names)
            _write_transcripts(writer, evaluation, split=row.split, label=label)
    _write_hparams(writer, evaluation, rows=rows)
    if label in evaluation.model_embeddings:
        _write_embeddings(writer, evaluation.model_embeddings[label], evaluation.pool)


def _is_mixing(row: ResultRow) -> bool:
    """Whether a policy calls more than one model; a figure of its shares says nothing otherwise."""
    return sum(share > 0 for share in row.model_share.values()) > 1


def _scalar(writer: SummaryWriter, name: str, value: float, *, step: int = 0) -> None:
    check_name(name)
    writer.add_scalar(name, value, global_step=step)


def _row_scalars(row: ResultRow) -> dict[str, float]:
    """Every number of a row under its metric name; what does not exist (None) has no point."""
    values = {evaluation_name(field, split=row.split): getattr(row, field) for field in _ROW_FIELDS}
    for field in _INTERVAL_FIELDS:
        low, high = getattr(row, field) or (None, None)
        values[evaluation_name(f"{field}_low", split=row.split)] = low
        values[evaluation_name(f"{field}_high", split=row.split)] = high
    for model, share in row.model_share.items():
        values[evaluation_name("model_share/{name}", split=row.split, name=model)] = share
    for baseline, difference in row.paired.items():
        name = evaluation_name("return_difference/{name}", split=row.split, name=baseline)
        values[name] = difference.return_.mean
    return {name: float(value) for name, value in values.items() if value is not None}


def _write_turns(
    writer: SummaryWriter, traced: Sequence[TracedEpisode], row: ResultRow, *, model_names: Sequence[str]
) -> None:
    """Curves whose step is the turn, from 1, and the figure of model share by turn."""
    episodes = [one.episode for one in traced]
    scores, costs_usd = cumulative_by_turn(episodes)
    curves = {"score_mean": scores, "cost_usd_mean": costs_usd, "running_share": running_share_by_turn(episodes)}
    for field, values in curves.items():
        name = evaluation_name(f"by_turn/{field}", split=row.split)
        for turn, value in enumerate(values, start=1):
            _scalar(writer, name, float(value), step=turn)
    if not _is_mixing(row):
        return
    figure = model_share_by_turn_figure(traced, model_names, title=f"{row.label}, {row.split} split: model by turn")
    writer.add_figure(f"model_share_by_turn/{row.split}", figure, close=False)


def _write_transcripts(writer: SummaryWriter, evaluation: _Evaluation, *, split: str, label: str) -> None:
    policies = evaluation.traced[split]
    keys = choose_keys(policies, n_keys=N_TRANSCRIPTS)
    for traced in policies[label]:
        key = episode_key(traced.episode)
        if key in keys:
            text = transcript_markdown(traced, evaluation.results.model_names)
            tag = f"episodes_{split}/{slug('-'.join(map(str, key)))}"
            writer.add_text(tag, text)


def _write_hparams(writer: SummaryWriter, evaluation: _Evaluation, *, rows: Sequence[ResultRow]) -> None:
    """The run as a session of the HParams page.

    `SummaryWriter.add_hparams` would open a sub-run of its own and repeat the metrics there. The session is written
    into the policy's run instead, where the metrics already are.
    """
    _, start, end = hparams_summaries(_hparams(evaluation, rows[0]), {})  # type: ignore[no-untyped-call]
    writer._get_file_writer().add_summary(start)  # type: ignore[no-untyped-call]
    writer._get_file_writer().add_summary(end)  # type: ignore[no-untyped-call]


def _hparams(evaluation: _Evaluation, row: ResultRow) -> dict[str, str | int | float]:
    results = evaluation.results
    role = "learned router" if row.policy in results.roles.learned else "other policy"
    role = "single model" if row.policy in results.roles.single_models else role
    cost_weight = results.cost_weight if row.cost_weight is None else row.cost_weight
    common: dict[str, str | int | float] = {"policy": row.policy, "role": role, "cost_weight": cost_weight}
    return common | dict(evaluation.hyper_parameters.get(row.label, {}))


def _write_embeddings(writer: SummaryWriter, embeddings: FloatArray, pool: PoolCard) -> None:
    """Model embeddings for the projector, labelled with name and prices."""
    metadata = [[model.name, model.prices.input, model.prices.output] for model in pool.models]
    writer.add_embedding(
        np.asarray(embeddings, dtype=np.float32),
        metadata=metadata,
        metadata_header=["model", "input_usd_per_million", "output_usd_per_million"],
        tag=EMBEDDING_TAG,
    )


def _write_comparison(writer: SummaryWriter, evaluation: _Evaluation) -> None:
    results = evaluation.results
    for split in results.splits:
        figures = {"cost_score": cost_score_figure, "model_share": model_share_figure}
        if any(row.paired for row in results.split_rows(split)):
            figures["paired_difference"] = paired_difference_figure
        for name, draw in figures.items():
            writer.add_figure(f"{name}/{split}", draw(results, split), close=False)
        writer.add_text(f"results/{split}", markdown_table(results, split))
    writer.add_custom_scalars(_layout(results.splits))
    experiment, _, _ = hparams_summaries(  # type: ignore[no-untyped-call]
        _all_hparams(evaluation), _hparam_metrics(results)
    )
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


def _all_hparams(evaluation: _Evaluation) -> dict[str, str | int | float]:
    """Union of all policies' hyper-parameters; the HParams page takes its columns from it."""
    union: dict[str, str | int | float] = {}
    for row in evaluation.results.rows:
        union |= _hparams(evaluation, row)
    return union


def _hparam_metrics(results: Results) -> dict[str, float]:
    """Names of the metrics that people sort by; the numbers are in the policies' runs."""
    return {evaluation_name(field, split=split): 0.0 for split in results.splits for field in _HPARAM_METRICS}


def _layout(splits: Sequence[str]) -> dict[str, dict[str, list[str | list[str]]]]:
    """Custom scalars: per split, means with their intervals, and the course over the turns; one line per chosen run."""
    layout: dict[str, dict[str, list[str | list[str]]]] = {}
    for split in splits:
        charts: dict[str, list[str | list[str]]] = {}
        for field, title in (("score", "score"), ("cost_usd", "cost, USD"), ("return", "return")):
            tags = [evaluation_name(f"{field}_{end}", split=split) for end in ("mean", "ci95_low", "ci95_high")]
            charts[f"{title}, with 95% interval"] = ["Margin", tags]
        for field, title in (("score_mean", "score so far"), ("cost_usd_mean", "cost so far, USD")):
            charts[f"{title}, by turn"] = ["Multiline", [evaluation_name(f"by_turn/{field}", split=split)]]
        charts["switches"] = ["Multiline", [evaluation_name("switches_mean", split=split)]]
        layout[f"policies on {split}"] = charts
    return layout
