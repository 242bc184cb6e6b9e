"""Figures of how policies routed, drawn from `behavior.json`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mtrouter_rl.evaluation.behavior_file import BehaviorRow, ErrorSpread, FollowedBy
from mtrouter_rl.reporting.plot_style import (
    MIN_CELL_TURNS,
    OTHER_COLOR,
    left_title,
    legend_below,
    model_style,
    new_figure,
)
from mtrouter_rl.reporting.plots import stacked_bars

_COLOR_MAP = "Blues"
"""One hue that darkens, which the color-blind read as well."""
_LIGHT_UP_TO = 0.55
_LINE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
_N_MARKERS = 8
"""About as many markers on a line of budget use."""
_N_TOTALS = 2
"""Lanes of the figure of errors before those of single models."""


def switch_matrix_figure(counts: Sequence[Sequence[int]], model_names: Sequence[str], *, title: str) -> Figure:
    """Which model follows which, as a heat map: color and percentage are of the row, the count is below.

    Args:
        counts: Consecutive turns by [model][next model], in pool order, shape (M, M); stays are on the diagonal,
            which is framed. Rows of fewer than `MIN_CELL_TURNS` turns are blank.
        model_names: Names of the pool, in pool order, length M.
        title: Title of the figure.
    """
    matrix = np.asarray(counts, dtype=float)
    totals = matrix.sum(axis=1, keepdims=True)
    is_shown = totals >= MIN_CELL_TURNS
    shares = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=is_shown)
    n_models = len(model_names)
    figure, axes = new_figure(width=3.2 + 0.95 * n_models, height=2.2 + 0.75 * n_models)
    image = axes.imshow(shares, cmap=_COLOR_MAP, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        if count and is_shown[row, 0]:
            axes.text(
                column,
                row,
                f"{shares[row, column]:.0%}\n{count:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="black" if shares[row, column] < _LIGHT_UP_TO else "white",
            )
    positions = range(n_models)
    for index in positions:
        axes.add_patch(Rectangle((index - 0.5, index - 0.5), 1, 1, fill=False, edgecolor=OTHER_COLOR, lw=1.5))
    axes.set_xticks(positions, list(model_names), rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        positions, [f"{name}  ({total:.0f})" for name, total in zip(model_names, totals[:, 0], strict=True)]
    )
    axes.set_xlabel("model of the next turn")
    blank = "" if is_shown.all() else f"; blank: fewer than {MIN_CELL_TURNS}"
    axes.set_ylabel(f"model of a turn (turns that another follows{blank})")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    stays = float(np.trace(matrix))
    share = stays / matrix.sum() if matrix.sum() else 0.0
    left_title(figure, f"{title}\nstays (diagonal): {stays:.0f} of {matrix.sum():.0f}, {share:.0%}")
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), shrink=0.8)
    bar.set_label("share of the row")
    bar.outline.set_visible(False)
    return figure


def cost_share_figure(rows: Sequence[BehaviorRow], model_names: Sequence[str], *, split: str) -> Figure:
    """Share of all money that the calls of every model cost, one bar per policy that spent any.

    Args:
        rows: Policies of one split.
        model_names: Names of the pool, in pool order.
        split: Which split, for the title.
    """
    shares = {row.policy: row.cost_share for row in rows if row.cost_share}
    figure, axes = new_figure(width=8.2, height=1.6 + 0.38 * len(shares))
    stacked_bars(axes, shares, model_names, label="share of cost")
    left_title(figure, f"whose calls the money is spent on, {split} split")
    return figure


def budget_use_figure(rows: Sequence[BehaviorRow], *, split: str) -> Figure:
    """Mean share of the budget spent by each turn, one line per policy that has a budget.

    Args:
        rows: Policies of one split.
        split: Which split, for the title.
    """
    figure, axes = new_figure(width=8.2, height=4.6)
    for number, row in enumerate(one for one in rows if one.budget_use_by_turn):
        shares = row.budget_use_by_turn or ()
        axes.plot(
            range(1, len(shares) + 1),
            shares,
            color=model_style(number)[0],
            marker=_LINE_MARKERS[number % len(_LINE_MARKERS)],
            markevery=max(1, len(shares) // _N_MARKERS),
            ms=5,
            lw=1.5,
            label=row.policy,
        )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("turn")
    axes.set_ylabel("share of the budget spent so far, mean")
    axes.grid(visible=True, color="0.92")
    left_title(figure, f"use of the budget over the episode, {split} split")
    legend_below(axes, n_columns=4)
    return figure


def has_error_edges(spread: ErrorSpread | None) -> bool:
    """Whether there is anything to draw of how errors spread: turns that come from an error, and turns that do not."""
    return spread is not None and None not in (spread.after_success.share, spread.after_error.share)


def error_spread_figure(rows: Sequence[BehaviorRow], model_names: Sequence[str], *, split: str) -> Figure:
    """How often a turn is an error, by what it comes from: no error, any error, and an error of each model.

    Bars are 95% intervals. Models whose errors fewer than `MIN_CELL_TURNS` turns come from are left out.

    Args:
        rows: Policies of one split, those of `has_error_edges`.
        model_names: Names of the pool, in pool order.
        split: Which split, for the title.
    """
    spreads = {row.policy: row.spread for row in rows if row.spread is not None}
    lanes = {name: number for number, name in enumerate(("no error", "any error", *model_names))}
    step = 0.8 / len(lanes)
    figure, axes = new_figure(width=8.2, height=1.8 + (0.3 + 0.13 * len(lanes)) * len(spreads))
    for name, lane in lanes.items():
        shown: dict[int, FollowedBy] = {}
        for number, spread in enumerate(spreads.values()):
            cell = {"no error": spread.after_success, "any error": spread.after_error}.get(name)
            cell = spread.after_error_of.get(name) if cell is None else cell
            if cell is not None and (lane < _N_TOTALS or cell.n_turns >= MIN_CELL_TURNS):
                shown[number] = cell
        points = [(number, cell.share) for number, cell in shown.items() if cell.share is not None]
        if not points:
            continue
        means = np.array([share.value for _, share in points])
        ends = np.array([share.ends or (share.value, share.value) for _, share in points])
        axes.errorbar(
            means,
            [number - 0.4 + step * (lane + 0.5) for number, _ in points],
            xerr=np.abs(ends - means[:, None]).T,
            fmt="o" if lane < _N_TOTALS else "D",
            color=("0.55", "black")[lane] if lane < _N_TOTALS else model_style(lane - _N_TOTALS)[0],
            ms=6 if lane < _N_TOTALS else 4,
            lw=1.5,
            label=name if lane < _N_TOTALS else f"{name}'s error",
        )
    axes.set_yticks(range(len(spreads)), list(spreads))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_xlabel("share of turns that are errors, by what the turn comes from")
    axes.grid(visible=True, axis="x", color="0.92")
    left_title(figure, f"how errors spread, {split} split")
    legend_below(axes, n_columns=4)
    return figure
