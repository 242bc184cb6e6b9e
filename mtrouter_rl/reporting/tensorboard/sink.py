"""TensorBoard: curves of a training, and an evaluation with one run per policy.

`write_evaluation` makes a run (sub-folder) for every policy, and one called "comparison" for what concerns them all. It
may be called again with more policies: what it wrote before is replaced, files of others (training curves) are kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import PoolMismatchError, ResultsError, unknown_name
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.metrics import cumulative_by_turn, running_share_by_turn
from mtrouter_rl.evaluation.query_router import N_TRANSCRIPTS, HistoryStates, choose_keys
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.evaluation.value_calibration import Calibration, ValueMeaning, calibrate
from mtrouter_rl.files import slug, visible
from mtrouter_rl.metric_names import check_name, evaluation_name
from mtrouter_rl.ope.record import OPE_FILE, OpeReport, PolicyReport
from mtrouter_rl.records import FloatArray, TracedEpisode, episode_key
from mtrouter_rl.reporting.behavior_plots import switch_matrix_figure
from mtrouter_rl.reporting.calibration_plots import calibration_figure
from mtrouter_rl.reporting.ope_plots import QUANTITIES, ope_figure
from mtrouter_rl.reporting.ope_report import format_report
from mtrouter_rl.reporting.plot_style import MIN_CELL_TURNS, thumbnails
from mtrouter_rl.reporting.plots import (
    cost_score_figure,
    model_share_by_task_figure,
    model_share_by_turn_figure,
    model_share_figure,
    paired_difference_figure,
)
from mtrouter_rl.reporting.tables import markdown_table
from mtrouter_rl.reporting.tensorboard.pages import (
    HyperParameters,
    hparams_of,
    layout,
    write_experiment,
    write_session,
)
from mtrouter_rl.reporting.tensorboard.projector import (
    clear_embeddings,
    write_history_embeddings,
    write_model_embeddings,
)
from mtrouter_rl.reporting.tensorboard.scalars import behavior_scalars, calibration_scalars, ope_scalars, row_scalars
from mtrouter_rl.reporting.transcripts import transcript_markdown

COMPARISON_RUN = "comparison"
_SUFFIX = ".evaluation"
"""Ends the name of every event file that `write_evaluation` makes, so that it can replace its own and no other."""


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
class RouterDetails:
    """What is shown of a router beside what it earned.

    Attributes:
        hyper_parameters: For the HParams page.
        model_embeddings: How it sees every model, in pool order, shape (M, d); None if it embeds none.
        history_states: How it sees states of its episodes; None if it embeds no histories.
        value_meaning: What its Q-values predict; None if it has none.
    """

    hyper_parameters: HyperParameters = field(default_factory=dict)
    model_embeddings: FloatArray | None = None
    history_states: HistoryStates | None = None
    value_meaning: ValueMeaning | None = None


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """Everything that the runs are written from.

    Attributes:
        calibrations: (label, split) -> how far the Q-values come true.
    """

    results: Results
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]]
    pool: PoolCard
    routers: Mapping[str, RouterDetails]
    behavior: Behavior | None
    ope: OpeReport | None
    calibrations: Mapping[tuple[str, str], Calibration]

    def details(self, label: str) -> RouterDetails:
        """What is known of a policy's router."""
        return self.routers.get(label, RouterDetails())

    def estimates(self, row: ResultRow) -> PolicyReport | None:
        """What the log says of a policy; None if it was not asked."""
        if self.ope is None or (row.label != row.policy and row.cost_weight not in (None, self.ope.cost_weight)):
            return None
        return next((one for one in self.ope.policies if one.policy == row.policy), None)


def write_evaluation(
    folder: Path,
    *,
    results: Results,
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]],
    pool: PoolCard,
    routers: Mapping[str, RouterDetails] | None = None,
    behavior: Behavior | None = None,
    ope: OpeReport | None = None,
) -> tuple[Path, ...]:
    """Write an evaluation as TensorBoard runs.

    Args:
        folder: Log folder; `tensorboard --logdir FOLDER` shows it.
        results: The results file; every row becomes scalars.
        traced: Split -> policy -> its episodes; may lack policies, which then get no transcripts and no curves by turn.
        pool: The pool of all policies.
        routers: Policy -> what is shown of its router; may lack policies.
        behavior: The behaviour file; None shows nothing of it.
        ope: Estimates of the same policies from a log; None shows none.

    Returns:
        Folders of the runs.

    Raises:
        PoolMismatchError: If results, embeddings or behaviour are of another pool.
        UnknownNameError: If episodes or routers are of a policy that results have no row of.
        ResultsError: If two policies would share a run folder, episodes contradict the pool, or the estimates are of
            another reward.
    """
    runs = _runs(results)
    routers = routers or {}
    _check_policies(traced, routers, labels=tuple(runs.values()))
    _check_pool(results, routers, pool=pool)
    _check_companions(results, behavior, ope)
    evaluation = _Evaluation(
        results=results,
        traced=traced,
        pool=pool,
        routers=routers,
        behavior=behavior,
        ope=ope,
        calibrations=_calibrations(results, traced, routers),
    )
    paths = []
    for run, label in runs.items():
        with _writer(folder / run) as writer, thumbnails():
            _write_policy(writer, evaluation, label=label)
        paths.append(folder / run)
    with _writer(folder / COMPARISON_RUN) as writer, thumbnails():
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


def _check_policies(
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]],
    routers: Mapping[str, RouterDetails],
    *,
    labels: Sequence[str],
) -> None:
    for policy in (*(policy for policies in traced.values() for policy in policies), *routers):
        if policy not in labels:
            raise unknown_name("policy", policy, labels, fix="Add its row to the results first")


def _check_pool(results: Results, routers: Mapping[str, RouterDetails], *, pool: PoolCard) -> None:
    names = pool.model_names
    if results.model_names != names:
        raise PoolMismatchError(
            f"results are of models {list(results.model_names)}, pool '{pool.name}' has "
            f"{list(names)}; give the pool that was evaluated"
        )
    for router, details in routers.items():
        embeddings = details.model_embeddings
        if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(names)):
            raise PoolMismatchError(
                f"model_embeddings of '{router}' have shape {embeddings.shape}, must be ({len(names)}, d): "
                "one row per model"
            )


def _check_companions(results: Results, behavior: Behavior | None, ope: OpeReport | None) -> None:
    """Make sure that the files beside the results speak of the same pool and reward."""
    if behavior is not None and behavior.model_names != results.model_names:
        raise PoolMismatchError(
            f"{BEHAVIOR_FILE} is of models {list(behavior.model_names)}, the results of {list(results.model_names)}; "
            "evaluate again, or remove it"
        )
    if ope is None:
        return
    shown = [row.cost_weight for row in results.rows if row.label != row.policy]
    weights = {results.cost_weight, *(weight for weight in shown if weight is not None)}
    if ope.cost_weight not in weights or ope.cost_unit_usd != results.cost_unit_usd:
        raise ResultsError(
            f"{OPE_FILE} estimates returns with cost_weight {ope.cost_weight} and cost_unit_usd {ope.cost_unit_usd}, the "
            f"results have {', '.join(map(str, sorted(weights)))} and {results.cost_unit_usd}; run 'mtrouter-rl ope' with "
            "the --cost-weight and the environment of the results, or move the file away"
        )


def _calibrations(
    results: Results,
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]],
    routers: Mapping[str, RouterDetails],
) -> dict[tuple[str, str], Calibration]:
    found = {}
    for split, policies in traced.items():
        for label, episodes in policies.items():
            meaning = routers[label].value_meaning if label in routers else None
            if meaning is None:
                continue
            calibration = calibrate(episodes, meaning, model_names=results.model_names, seed=results.seed)
            if calibration is not None:
                found[label, split] = calibration
    return found


class _VisibleWriter(SummaryWriter):
    """Writes out the control characters of names and texts, which come from logs."""

    def add_text(self, tag: str, text_string: str, *args: Any, **named: Any) -> None:  # noqa: ANN401 - as its base has it
        super().add_text(visible(tag), visible(text_string), *args, **named)

    def add_scalar(self, tag: str, *args: Any, **named: Any) -> None:  # noqa: ANN401
        super().add_scalar(visible(tag), *args, **named)


def _writer(run: Path) -> SummaryWriter:
    """A writer on a run folder, after what an earlier evaluation left there is gone."""
    for stale in run.glob(f"events.out.tfevents.*{_SUFFIX}"):
        stale.unlink()
    clear_embeddings(run)
    return _VisibleWriter(log_dir=str(run), filename_suffix=_SUFFIX)


def _write_policy(writer: SummaryWriter, evaluation: _Evaluation, *, label: str) -> None:
    results, details = evaluation.results, evaluation.details(label)
    rows = [row for row in results.rows if row.label == label]
    for row in rows:
        _scalars(writer, row_scalars(row))
        _write_tasks(writer, evaluation, row)
        traced = evaluation.traced.get(row.split, {}).get(label, ())
        if any(one.episode.turns for one in traced if one.episode.status == "completed"):
            _write_turns(writer, traced, row, model_names=results.model_names)
            _write_transcripts(writer, evaluation, split=row.split, label=label)
        _write_behavior(writer, evaluation, row)
        calibration = evaluation.calibrations.get((label, row.split))
        if calibration is not None:
            _scalars(writer, calibration_scalars(calibration, split=row.split))
            figure = calibration_figure(calibration, title=f"{label}, {row.split} split: do its Q-values come true?")
            writer.add_figure(f"calibration/{row.split}", figure, close=False)
    estimates = evaluation.estimates(rows[0])
    if estimates is not None:
        _scalars(writer, ope_scalars(estimates))
    write_session(writer, hparams_of(results, rows[0], details.hyper_parameters))
    if details.model_embeddings is not None:
        write_model_embeddings(writer, details.model_embeddings, evaluation.pool)
    if details.history_states is not None:
        write_history_embeddings(writer, details.history_states)


def _write_tasks(writer: SummaryWriter, evaluation: _Evaluation, row: ResultRow) -> None:
    """The figure of model share by task, if any task has enough turns."""
    if not _is_mixing(row):
        return
    n_turns: Counter[str] = Counter()
    for one in evaluation.traced.get(row.split, {}).get(row.label, ()):
        n_turns[one.episode.task] += len(one.episode.turns)
    if not n_turns or max(n_turns.values()) >= MIN_CELL_TURNS:
        figure = model_share_by_task_figure(row, evaluation.results.model_names, n_turns=n_turns or None)
        writer.add_figure(f"model_share_by_task/{row.split}", figure, close=False)


def _is_mixing(row: ResultRow) -> bool:
    """Whether a policy calls more than one model; a figure of its shares says nothing otherwise."""
    return sum(share > 0 for share in row.model_share.values()) > 1


def _scalars(writer: SummaryWriter, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        _scalar(writer, name, value)


def _scalar(writer: SummaryWriter, name: str, value: float, *, step: int = 0) -> None:
    check_name(name)
    writer.add_scalar(name, value, global_step=step)


def _curve(writer: SummaryWriter, name: str, values: Sequence[float] | FloatArray) -> None:
    """A curve whose step is the turn, from 1."""
    for turn, value in enumerate(values, start=1):
        _scalar(writer, name, float(value), step=turn)


def _write_turns(
    writer: SummaryWriter, traced: Sequence[TracedEpisode], row: ResultRow, *, model_names: Sequence[str]
) -> None:
    """Curves over the turns, and the figure of model share by turn."""
    episodes = [one.episode for one in traced]
    scores, costs_usd = cumulative_by_turn(episodes)
    curves = {"score_mean": scores, "cost_usd_mean": costs_usd, "running_share": running_share_by_turn(episodes)}
    for name, values in curves.items():
        _curve(writer, evaluation_name(f"by_turn/{name}", split=row.split), values)
    if not _is_mixing(row):
        return
    figure = model_share_by_turn_figure(traced, model_names, title=f"{row.label}, {row.split} split: model by turn")
    writer.add_figure(f"model_share_by_turn/{row.split}", figure, close=False)


def _write_behavior(writer: SummaryWriter, evaluation: _Evaluation, row: ResultRow) -> None:
    """How the policy routed, from its row of the behaviour file."""
    behavior = None if row.budget_usd is not None else evaluation.behavior  # the file knows of no budgets
    found = None if behavior is None else behavior.row(row.policy, row.split)
    if found is None:
        return
    _scalars(writer, behavior_scalars(found))
    name = evaluation_name("behavior/budget_used_by_turn", split=row.split)
    _curve(writer, name, found.budget_use_by_turn or ())
    if _is_mixing(row):
        title = f"{row.label}, {row.split} split: which model follows which"
        figure = switch_matrix_figure(found.switch_matrix, evaluation.results.model_names, title=title)
        writer.add_figure(f"switch_matrix/{row.split}", figure, close=False)


def _write_transcripts(writer: SummaryWriter, evaluation: _Evaluation, *, split: str, label: str) -> None:
    policies = evaluation.traced[split]
    keys = choose_keys(policies, n_keys=N_TRANSCRIPTS)
    for traced in policies[label]:
        key = episode_key(traced.episode)
        if key in keys:
            text = transcript_markdown(traced, evaluation.results.model_names)
            tag = f"episodes_{split}/{slug('-'.join(map(str, key)))}"
            writer.add_text(tag, text)


def _write_comparison(writer: SummaryWriter, evaluation: _Evaluation) -> None:
    results = evaluation.results
    for split in results.splits:
        # TensorBoard orders groups by name; what is looked at first is to come first.
        figures = {"1_cost_score": cost_score_figure, "3_model_share": model_share_figure}
        if any(row.paired for row in results.split_rows(split)):
            figures["2_paired_difference"] = paired_difference_figure
        for name, draw in figures.items():
            writer.add_figure(f"{name}/{split}", draw(results, split), close=False)
        writer.add_text(f"results/{split}", markdown_table(results, split))
    if evaluation.ope is not None:
        _write_ope(writer, evaluation.ope, results)
    pages = layout(
        results.splits,
        behavior=evaluation.behavior,
        calibrated_splits=tuple(dict.fromkeys(split for _, split in evaluation.calibrations)),
        has_ope=evaluation.ope is not None,
    )
    writer.add_custom_scalars(pages)
    hparams = [hparams_of(results, row, evaluation.details(row.label).hyper_parameters) for row in results.rows]
    write_experiment(writer, hparams, splits=results.splits, has_ope=evaluation.ope is not None)


def _write_ope(writer: SummaryWriter, ope: OpeReport, results: Results) -> None:
    """Estimates beside the closed-loop means, and what the log cannot tell."""
    for split in results.splits:
        for quantity in QUANTITIES:
            figure = ope_figure(ope, results, split, quantity)
            if figure is not None:
                writer.add_figure(f"ope_{quantity}/{split}", figure, close=False)
    lines = format_report(ope).splitlines()
    writer.add_text("ope", "\n".join(f"    {line}" for line in lines))
