"""Figures of an off-policy evaluation: estimates from a log beside what the same policies earned when they were run."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.ope.record import Estimated, OpeReport, PolicyReport
from mtrouter_rl.records import SCORE_PER_UTILITY
from mtrouter_rl.reporting.labels import Label, place_labels
from mtrouter_rl.reporting.plot_style import KINDS, OTHER_COLOR, kind_of, legend_below, new_figure, results_title
from mtrouter_rl.statistics.rank_agreement import selection_quality

Quantity = Literal["score", "cost_usd", "return"]
QUANTITIES: tuple[Quantity, ...] = ("score", "cost_usd", "return")
_UNITS: dict[Quantity, str] = {"score": "score", "cost_usd": "cost per episode, USD", "return": "return"}
_LINE_LENGTH = 96


@dataclass(frozen=True, kw_only=True)
class EstimatedAndRun:
    """One policy's number, estimated from a log and measured closed-loop.

    Attributes:
        row: Its row of results.
        estimate: From the log, in the unit of the results.
        run: Closed-loop mean and its interval; the ends are the mean where there is no interval.
        is_trained_on_log: Whether the policy learned from the very log, so that its estimate is too good.
    """

    row: ResultRow
    estimate: Estimated
    run: Estimated
    is_trained_on_log: bool


def headline(report: PolicyReport, quantity: Quantity) -> Estimated | None:
    """The estimate to believe, in the unit of results (score instead of utility); None if the log cannot tell."""
    if report.headline is None:
        return None
    found = report.estimates[report.headline]["utility" if quantity == "score" else quantity]
    if quantity != "score":
        return found
    ends = (SCORE_PER_UTILITY * value for value in (found.value, found.low, found.high))
    return Estimated(**dict(zip(("value", "low", "high"), ends, strict=True)))


def pair_with_results(
    report: OpeReport, results: Results, split: str, quantity: Quantity
) -> tuple[EstimatedAndRun, ...]:
    """Policies that have both an estimate that may be believed and a row of a split, in the order of the report."""
    pairs = []
    for one in report.policies:
        estimate, row = headline(one, quantity), results.row(one.policy, split)
        if estimate is None or row is None:
            continue
        mean = float(getattr(row, f"{quantity}_mean"))
        low, high = getattr(row, f"{quantity}_ci95") or (mean, mean)
        pairs.append(
            EstimatedAndRun(
                row=row,
                estimate=estimate,
                run=Estimated(value=mean, low=low, high=high),
                is_trained_on_log=bool(one.is_trained_on_log),
            )
        )
    return tuple(pairs)


def ope_figure(report: OpeReport, results: Results, split: str, quantity: Quantity) -> Figure | None:
    """Estimate from the log against the closed-loop mean, both with 95% intervals, one point per policy.

    Args:
        report: The off-policy evaluation.
        results: Closed-loop results.
        split: Their split.
        quantity: Which number.

    Returns:
        None if no policy has both. Policies that the log cannot tell of, and those that were not run, are listed below
        the axes.
    """
    pairs = pair_with_results(report, results, split, quantity)
    if not pairs:
        return None
    figure, axes = new_figure(width=8.2, height=6.6)
    for pair in pairs:
        _draw_pair(axes, pair, kind=kind_of(pair.row, results))
    axes.margins(0.1)
    # Intervals of estimates are often far wider than those of runs, so each axis keeps a range of its own.
    limits = axes.get_xlim(), axes.get_ylim()
    ends = min(map(min, limits)), max(map(max, limits))
    axes.plot(ends, ends, color=OTHER_COLOR, lw=1.2, ls="--", zorder=1, label="estimate = run")
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    if quantity == "cost_usd":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"${value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"${value:g}"))
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    axes.set_ylabel(f"estimated from the log ({report.split} split)")
    axes.set_xlabel("\n".join([f"run closed-loop ({split} split)", *_remarks(report, pairs)]))
    rank = _rank_correlation(pairs)
    found = "" if rank is None else f", Spearman's rank correlation {rank:.2f}"
    results_title(figure, results, f"{_UNITS[quantity]}, estimated and run{found}")
    for kind, (color, marker, size) in KINDS.items():
        axes.plot([], [], color=color, marker=marker, ms=min(size, 11), ls="", label=kind)
    legend_below(axes, n_columns=4)
    _label_pairs(figure, axes, pairs, results)
    return figure


def _draw_pair(axes: Axes, pair: EstimatedAndRun, *, kind: str) -> None:
    color, marker, size = KINDS[kind]
    x, y = pair.run, pair.estimate
    axes.plot([x.low, x.high], [y.value, y.value], color=color, lw=1.2, alpha=0.45)
    axes.plot([x.value, x.value], [y.low, y.high], color=color, lw=1.2, alpha=0.45)
    axes.plot([x.value], [y.value], color=color, marker=marker, ms=size, markeredgecolor="white", zorder=4)


def _label_pairs(figure: Figure, axes: Axes, pairs: Sequence[EstimatedAndRun], results: Results) -> None:
    labels, bars = [], []
    for pair in pairs:
        kind = kind_of(pair.row, results)
        mark = "*" if pair.is_trained_on_log else ""
        x, y = pair.run, pair.estimate
        labels.append(
            Label(
                text=f"{pair.row.label}{mark}",
                x=x.value,
                y=y.value,
                color=KINDS[kind][0],
                is_bold=kind == "learned router",
            )
        )
        bars += [(float(point), y.value) for point in np.linspace(x.low, x.high, 25)]
        bars += [(x.value, float(point)) for point in np.linspace(y.low, y.high, 25)]
    place_labels(figure, axes, sorted(labels, key=lambda label: not label.is_bold), obstacles=bars)


def _remarks(report: OpeReport, pairs: Sequence[EstimatedAndRun]) -> list[str]:
    """What the points cannot show: refusals, policies that were not run, routers that were trained on the log."""
    drawn = {pair.row.policy for pair in pairs}
    refused = [one.policy for one in report.policies if one.headline is None]
    not_run = [one.policy for one in report.policies if one.headline is not None and one.policy not in drawn]
    texts = [f"this log cannot tell: {', '.join(refused)}"] if refused else []
    texts += [f"estimated, not run: {', '.join(not_run)}"] if not_run else []
    if any(pair.is_trained_on_log for pair in pairs):
        texts.append("* trained on this very log, so its estimate is too good")
    return [line for text in texts for line in textwrap.wrap(text, _LINE_LENGTH)]


def _rank_correlation(pairs: Sequence[EstimatedAndRun]) -> float | None:
    return selection_quality(
        {pair.row.policy: pair.estimate.value for pair in pairs},
        {pair.row.policy: pair.run.value for pair in pairs},
    ).rank_correlation
