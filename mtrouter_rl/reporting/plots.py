"""Figures drawn from results and traced episodes; every function returns a `Figure` of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.metrics import model_share_by_turn, running_share_by_turn
from mtrouter_rl.evaluation.result_rows import single_model_points
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.files import slug
from mtrouter_rl.records import FloatArray, TracedEpisode
from mtrouter_rl.reporting.labels import Label, place_labels
from mtrouter_rl.reporting.plot_style import (
    DPI,
    KINDS,
    LEARNED_COLOR,
    MIN_CELL_TURNS,
    SINGLE_COLOR,
    is_thumbnail,
    kind_of,
    left_title,
    legend_below,
    model_style,
    new_figure,
    results_title,
    text_color,
)
from mtrouter_rl.reporting.tables import format_number
from mtrouter_rl.reporting.verdict import top_learned
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.hull import CostScore, hull_value, upper_hull

_MIN_PRINTED_SHARE = 0.08
_LOG_RATIO = 8.0
"""The cost axis is logarithmic where the dearest policy costs more than this many times the cheapest."""


def cost_score_figure(results: Results, split: str) -> Figure:
    """Score against cost per episode of every policy, with 95% intervals and the single models' upper hull.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = results.split_rows(split)
    figure, axes = new_figure(width=8.2, height=5.4)
    for row in rows:
        _draw_point(axes, row, kind=kind_of(row, results))
    _draw_frontiers(axes, rows, results)
    is_log = uses_log_costs([row.cost_usd_mean for row in rows])
    axes.margins(x=0.12, y=0.12)
    format_cost_axis(axes, is_log=is_log)
    hull = draw_hull(axes, rows, results, is_log=is_log)
    axes.set_ylabel("score (100 = every task solved)")
    results_title(figure, results, f"score against cost, {split} split")
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    _kind_legend(axes, has_hull=bool(hull))
    labels = [_label(row, kind=kind_of(row, results)) for row in rows]
    bars = [point for row in rows for point in error_bar_points(row)]
    ordered = sorted(labels, key=lambda label: not label.is_bold)
    place_labels(figure, axes, ordered, obstacles=[*hull, *bars])
    return figure


def model_share_figure(results: Results, split: str) -> Figure:
    """Share of turns of every model, one bar per policy; policies that call one model by definition are left out.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = results.split_rows(split)
    mixing = [row for row in rows if row.policy not in results.roles.single_models] or list(rows)
    figure, axes = new_figure(width=8.2, height=1.6 + 0.38 * len(mixing))
    stacked_bars(axes, {row.label: row.model_share for row in mixing}, results.model_names)
    results_title(figure, results, f"which model is called, {split} split")
    return figure


def model_share_by_task_figure(
    row: ResultRow, model_names: Sequence[str], *, n_turns: Mapping[str, int] | None = None
) -> Figure:
    """Share of turns of every model within each task, one bar per task with the task's mean score.

    Args:
        row: The policy on a split.
        model_names: Names of the pool, in pool order, length M.
        n_turns: Task -> its turns: tasks of fewer than `MIN_CELL_TURNS` are left out; None shows all.
    """
    shares = {
        f"{task}  ({format_number(row.score_by_task[task], decimals=0)})": share
        for task, share in row.model_share_by_task.items()
        if n_turns is None or n_turns.get(task, 0) >= MIN_CELL_TURNS
    }
    figure, axes = new_figure(width=8.2, height=1.6 + 0.32 * max(1, len(shares)))
    stacked_bars(axes, shares, model_names)
    left_title(figure, f"{row.label}, {row.split} split: model by task (mean score)")
    return figure


def model_share_by_turn_figure(traced: Sequence[TracedEpisode], model_names: Sequence[str], *, title: str) -> Figure:
    """Share of every model at each turn, among the episodes still running, and how many those are.

    Turns that fewer than `MIN_CELL_TURNS` episodes reach are blank.

    Args:
        traced: Episodes of one policy, of unequal length.
        model_names: Names of the pool, in pool order, length M.
        title: Title of the figure.
    """
    episodes = [one.episode for one in traced]
    shares = model_share_by_turn(episodes, model_names)
    turns = np.arange(1, len(shares) + 1)
    n_running = running_share_by_turn(episodes) * sum(episode.status == "completed" for episode in episodes)
    shares = np.where(np.round(n_running)[:, None] >= MIN_CELL_TURNS, shares, 0.0)
    figure, axes = new_figure(width=8.2, height=4.2)
    floor = np.zeros(len(shares))
    for index, name in enumerate(model_names):
        color, hatch = model_style(index)
        axes.bar(
            turns,
            shares[:, index],
            bottom=floor,
            width=1.0,
            color=color,
            hatch=hatch,
            edgecolor=color,
            label=name,
            lw=0.4,
        )
        floor = floor + shares[:, index]
    axes.plot(turns, running_share_by_turn(episodes), color="white", lw=3.5)
    axes.plot(turns, running_share_by_turn(episodes), color="black", lw=1.6, ls="--", label="episodes still running")
    axes.set_xlim(0.5, max(len(shares), 1) + 0.5)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("turn")
    axes.set_ylabel(f"share of running episodes (blank: fewer than {MIN_CELL_TURNS})")
    left_title(figure, title)
    legend_below(axes, n_columns=4)
    return figure


def paired_difference_figure(results: Results, split: str) -> Figure:
    """Return of every learned router minus each baseline's, with 95% intervals, as a forest plot.

    A thumbnail shows those of the learned router with the highest return alone.

    Raises:
        ResultsError: If there are no rows of that split, or nothing was paired on it.
    """
    pairs = [
        (f"{row.label} - {baseline}", difference.return_)
        for row in results.split_rows(split)
        if not is_thumbnail() or row == top_learned(results, split)
        for baseline, difference in row.paired.items()
    ]
    if not pairs:
        raise ResultsError(
            f"no row of split '{split}' has paired differences; evaluate a learned router with baselines"
        )
    figure, axes = new_figure(width=8.2, height=1.5 + (0.6 if is_thumbnail() else 0.36) * len(pairs))
    axes.axvline(0.0, color="0.3", lw=1.0)
    for position, (_, interval) in enumerate(pairs):
        color, marker = _difference_style(interval)
        low, high = interval.ends or (interval.value, interval.value)
        axes.plot([low, high], [position, position], color=color, lw=2.0, solid_capstyle="butt")
        axes.plot([interval.value], [position], color=color, marker=marker, ms=7)
    axes.set_yticks(range(len(pairs)), [name for name, _ in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(visible=True, axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel("difference of return\n(right of 0: the learned router is better)")
    results_title(figure, results, f"paired differences with 95% intervals, {split} split")
    for name, (color, marker) in _DIFFERENCE_STYLES.items():
        axes.plot([], [], color=color, marker=marker, ls="", label=name)
    legend_below(axes, n_columns=3)
    return figure


def figures_of_results(results: Results) -> dict[str, Figure]:
    """Every figure that results alone give: file stem -> figure. Model share by task is drawn for learned routers."""
    figures: dict[str, Figure] = {}
    for split in results.splits:
        figures[f"cost_score_{split}"] = cost_score_figure(results, split)
        if any(row.paired for row in results.split_rows(split)):
            figures[f"paired_difference_{split}"] = paired_difference_figure(results, split)
        figures[f"model_share_{split}"] = model_share_figure(results, split)
        for row in results.split_rows(split):
            if row.policy in results.roles.learned:
                stem = f"model_share_by_task_{split}_{slug(row.label)}"
                figures[stem] = model_share_by_task_figure(row, results.model_names)
    return figures


def save_plots(
    results: Results, traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]], folder: Path
) -> tuple[Path, ...]:
    """Write every figure as a PNG.

    Args:
        results: The results file.
        traced: Split -> policy -> its episodes; may be empty. Learned routers found in it get a
            figure of their model share by turn.
        folder: Where the files go; made if needed, files of the same name are replaced.

    Returns:
        The files written.
    """
    figures = figures_of_results(results)
    for split, policies in traced.items():
        for policy, episodes in policies.items():
            if policy in results.roles.learned and any(one.episode.turns for one in episodes):
                title = f"{policy}, {split} split: model by turn"
                stem = f"model_share_by_turn_{split}_{slug(policy)}"
                figures[stem] = model_share_by_turn_figure(episodes, results.model_names, title=title)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, figure in figures.items():
        path = folder / f"{stem}.png"
        figure.savefig(path, dpi=DPI)
        paths.append(path)
    return tuple(paths)


_DIFFERENCE_STYLES: dict[str, tuple[str, str]] = {
    "interval above 0": (SINGLE_COLOR, "o"),
    "not distinguishable": ("0.5", "D"),
    "interval below 0": (LEARNED_COLOR, "s"),
}


def _draw_point(axes: Axes, row: ResultRow, *, kind: str) -> None:
    color, marker, size = KINDS[kind]
    x, y = row.cost_usd_mean, row.score_mean
    if row.cost_usd_ci95 is not None:
        axes.plot(row.cost_usd_ci95, [y, y], color=color, lw=1.0, alpha=0.45)
    if row.score_ci95 is not None:
        axes.plot([x, x], row.score_ci95, color=color, lw=1.0, alpha=0.45)
    order = 4 if kind == "learned router" else 3
    axes.plot([x], [y], color=color, marker=marker, ms=size, markeredgecolor="white", markeredgewidth=0.7, zorder=order)


def _draw_frontiers(axes: Axes, rows: Sequence[ResultRow], results: Results) -> None:
    """Join the points of every router that was run at several cost weights, in the order of these."""
    priced = sorted((row for row in rows if row.cost_weight is not None), key=lambda row: row.cost_weight or 0.0)
    for family in dict.fromkeys(row.family for row in priced):
        line = [row for row in priced if row.family == family]
        color, _, _ = KINDS[kind_of(line[0], results)]
        points = [(row.cost_usd_mean, row.score_mean) for row in line]
        axes.plot(*zip(*points, strict=True), color=color, lw=1.2, alpha=0.6, zorder=2.5)


def uses_log_costs(costs: Sequence[float]) -> bool:
    """Whether costs lie so far apart that their axis is logarithmic."""
    return min(costs) > 0 and max(costs) / min(costs) > _LOG_RATIO


def _label(row: ResultRow, *, kind: str) -> Label:
    is_learned = kind == "learned router"
    return Label(text=row.label, x=row.cost_usd_mean, y=row.score_mean, color=KINDS[kind][0], is_bold=is_learned)


def error_bar_points(row: ResultRow) -> list[CostScore]:
    """Samples of a row's error bars, for labels to keep clear of."""
    x, y = row.cost_usd_mean, row.score_mean
    across = np.linspace(*(row.cost_usd_ci95 or (x, x)), 25)
    along = np.linspace(*(row.score_ci95 or (y, y)), 25)
    return [(float(cost), y) for cost in across] + [(x, float(score)) for score in along]


def format_cost_axis(axes: Axes, *, is_log: bool) -> None:
    """Ticks and label of an axis of costs per episode."""
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if is_thumbnail() else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"${value:g}"))
    axes.set_xlabel("cost per episode, USD" + (" (log scale)" if is_log else ""))


def draw_hull(
    axes: Axes, rows: Sequence[ResultRow], results: Results, *, is_log: bool, style: str = "--"
) -> list[CostScore]:
    """Draw the hull, if any single model was run, and give the points that it was drawn through."""
    points = single_model_points(rows, results.roles, like=rows[0])
    if not points:
        return []
    left, right = axes.get_xlim()
    start = float(upper_hull(points)[0, 0])
    stop = max(right, start)
    # A straight line of costs is a curve on a logarithmic axis, so it is drawn through many points.
    costs = np.geomspace(start, stop, 200) if is_log else np.linspace(start, stop, 200)
    hull = [(float(cost), hull_value(float(cost), points)) for cost in costs]
    axes.plot(*zip(*hull, strict=True), color=SINGLE_COLOR, lw=1.4, ls=style, alpha=0.8, zorder=2)
    axes.set_xlim(left, right)
    return hull


def _kind_legend(axes: Axes, *, has_hull: bool) -> None:
    for kind, (color, marker, size) in KINDS.items():
        axes.plot([], [], color=color, marker=marker, ms=min(size, 11), ls="", label=kind)
    if has_hull:
        axes.plot([], [], color=SINGLE_COLOR, lw=1.4, ls="--", label="upper hull of single models")
    legend_below(axes, n_columns=4)


def stacked_bars(
    axes: Axes, shares: Mapping[str, Mapping[str, float]], model_names: Sequence[str], *, label: str = "share of turns"
) -> None:
    """Horizontal bars, first name on top; a share of at least 8% is printed in its bar."""
    positions = np.arange(len(shares))
    floor: FloatArray = np.zeros(len(shares))
    for index, name in enumerate(model_names):
        color, hatch = model_style(index)
        widths = np.array([share.get(name, 0.0) for share in shares.values()])
        axes.barh(
            positions, widths, left=floor, height=0.78, color=color, hatch=hatch, edgecolor="white", lw=0.6, label=name
        )
        for position, width, left in zip(positions, widths, floor, strict=True):
            if width >= _MIN_PRINTED_SHARE:
                label_color = text_color(color)
                axes.text(
                    left + width / 2,
                    float(position),
                    f"{width:.0%}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=label_color,
                )
        floor = floor + widths
    axes.set_yticks(positions, list(shares))
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(label)
    legend_below(axes, n_columns=4)


def _difference_style(interval: Estimate) -> tuple[str, str]:
    if interval.is_above_zero:
        return _DIFFERENCE_STYLES["interval above 0"]
    return _DIFFERENCE_STYLES["interval below 0" if interval.is_below_zero else "not distinguishable"]
