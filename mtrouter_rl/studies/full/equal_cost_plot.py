"""Score against cost with the hull of every family of policies as a line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrouter_rl.evaluation.frontier_comparison import Frontier
from mtrouter_rl.records import Split
from mtrouter_rl.reporting.labels import Label, place_labels
from mtrouter_rl.reporting.plot_style import (
    LEARNED_COLOR,
    MODEL_COLORS,
    OTHER_COLOR,
    SINGLE_COLOR,
    left_title,
    legend_below,
    new_figure,
)
from mtrouter_rl.reporting.plots import format_cost_axis, uses_log_costs
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.hull import CostScore, hull_value
from mtrouter_rl.statistics.paired_means import Resamples

_FAMILY_COLORS = (LEARNED_COLOR, *(color for color in MODEL_COLORS[1:] if color != MODEL_COLORS[5]))
"""The first family has the color of learned routers; single models keep blue, and grey is for the others."""
_REFERENCE_COLOR = "#1a1a1a"
_N_SAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class FrontierPlot:
    """What a figure of frontiers shows.

    Attributes:
        env: Name of the environment.
        split: Which split.
        is_simulated: Whether the models were simulated.
        families: Frontiers, that of the learned router first.
        single_models: Named points, with their hull as a dashed line.
        references: Policies that see the hidden state: stars.
        baselines: Small markers.
    """

    env: str
    split: Split
    is_simulated: bool
    families: tuple[Frontier, ...]
    single_models: tuple[str, ...]
    references: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How the points of one kind are drawn."""

    name: str
    color: str
    marker: str
    size: float


def frontiers_figure(resamples: Resamples, plot: FrontierPlot) -> Figure:
    """Score against cost on one split, costs on a logarithmic axis unless they lie close together.

    Light bars are 95% intervals over (task, variation). A family's line is the hull of its points and its anchor; to the
    right of its best point it is flat, and not drawn.

    Args:
        resamples: Means of all policies that are shown.
        plot: What is shown.

    Raises:
        UnknownNameError: If a policy has no episodes.
    """
    figure, axes = new_figure(width=8.6, height=6.0)
    groups = _groups(plot)
    shown = [name for _, names in groups for name in names]
    labels: list[Label] = []
    obstacles: list[CostScore] = []
    for kind, names in groups:
        for name in names:
            obstacles += _draw_point(axes, resamples, name, kind)
            is_bold = kind.marker == "D"
            x, y = _point(resamples, name)
            labels.append(Label(text=name, x=x, y=y, color=kind.color, is_bold=is_bold))
    costs = resamples.costs_usd(shown)[0].tolist()
    axes.margins(x=0.12, y=0.12)
    format_cost_axis(axes, is_log=uses_log_costs(costs))
    for frontier, kind in zip(plot.families, (kind for kind, _ in groups), strict=False):
        obstacles += _draw_hull(axes, resamples, frontier.points, color=kind.color, style="-")
    if plot.single_models:
        obstacles += _draw_hull(axes, resamples, plot.single_models, color=SINGLE_COLOR, style="--")
    axes.set_ylabel("score (100 = every task solved)")
    simulated = " (simulated models)" if plot.is_simulated else ""
    left_title(figure, f"{plot.env}: frontiers of score against cost, {plot.split} split{simulated}")
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    _legend(axes, groups, has_hull=bool(plot.single_models))
    named = [label for label in labels if label.text not in plot.baselines]
    place_labels(figure, axes, named, obstacles=obstacles, font_size=8.0)
    return figure


def _groups(plot: FrontierPlot) -> list[tuple[_Kind, tuple[str, ...]]]:
    """Kinds with their policies: families first; a policy is drawn once, as the first kind that holds it."""
    kinds = [
        (_Kind(name=one.name, color=_FAMILY_COLORS[number % len(_FAMILY_COLORS)], marker="D", size=6.5), one.policies)
        for number, one in enumerate(plot.families)
    ]
    kinds += [
        (_Kind(name="single model", color=SINGLE_COLOR, marker="o", size=7.0), plot.single_models),
        (
            _Kind(name="sees the hidden state (no router)", color=_REFERENCE_COLOR, marker="*", size=14.0),
            plot.references,
        ),
        (_Kind(name="baseline", color=OTHER_COLOR, marker="s", size=4.0), plot.baselines),
    ]
    drawn: set[str] = set()
    groups = []
    for kind, names in kinds:
        groups.append((kind, tuple(name for name in names if name not in drawn)))
        drawn |= set(names)
    return groups


def _point(resamples: Resamples, name: str) -> CostScore:
    return float(resamples.costs_usd([name])[0, 0]), float(resamples.scores([name])[0, 0])


def _draw_point(axes: Axes, resamples: Resamples, name: str, kind: _Kind) -> list[CostScore]:
    """Draw a point with its bars; gives samples of the bars, for labels to keep clear of."""
    x, y = _point(resamples, name)
    column = resamples.columns([name])[0]
    numbers = (resamples.means.costs_usd, resamples.means.scores)
    cost, score = (resamples.mean_estimate(by_cluster[:, column], [name]) for by_cluster in numbers)
    across, along = np.linspace(*_ends(cost), 15), np.linspace(*_ends(score), 15)
    axes.plot(across, [y] * len(across), color=kind.color, lw=1.0, alpha=0.3)
    axes.plot([x] * len(along), along, color=kind.color, lw=1.0, alpha=0.3)
    axes.plot(
        *([x], [y]),
        color=kind.color,
        marker=kind.marker,
        ms=kind.size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4 if kind.marker in "D*" else 3,
    )
    return [(float(one), y) for one in across] + [(x, float(one)) for one in along]


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The interval, or the number itself twice where there is none."""
    return estimate.ends or (estimate.value, estimate.value)


def _draw_hull(axes: Axes, resamples: Resamples, names: Sequence[str], *, color: str, style: str) -> list[CostScore]:
    """Draw the hull of policies from their cheapest point to their best; gives the points that it was drawn through."""
    points = [_point(resamples, name) for name in dict.fromkeys(names)]
    start = min(points)[0]
    stop = min(cost for cost, score in points if score == max(score for _, score in points))
    # a straight line of costs is a curve on a logarithmic axis, so it is drawn through many points
    costs = np.geomspace(start, stop, _N_SAMPLES) if start > 0 else np.linspace(start, stop, _N_SAMPLES)
    hull = [(float(cost), hull_value(float(cost), points)) for cost in costs]
    axes.plot(*zip(*hull, strict=True), color=color, lw=1.5, ls=style, alpha=0.8, zorder=2)
    return hull


def _legend(axes: Axes, groups: Sequence[tuple[_Kind, tuple[str, ...]]], *, has_hull: bool) -> None:
    for kind, names in groups:
        if names:
            axes.plot([], [], color=kind.color, marker=kind.marker, ms=min(kind.size, 10), ls="", label=kind.name)
    if has_hull:
        axes.plot([], [], color=SINGLE_COLOR, lw=1.5, ls="--", label="hull of single models")
    legend_below(axes, n_columns=3)
