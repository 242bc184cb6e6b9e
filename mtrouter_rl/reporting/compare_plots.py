"""The figure that shows several runs: score against cost, a marker shape per run."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrouter_rl.evaluation.result_rows import single_model_points
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.reporting.labels import Label, place_labels
from mtrouter_rl.reporting.plot_style import KINDS, kind_of, left_title, legend_below, new_figure
from mtrouter_rl.reporting.plots import draw_hull, error_bar_points, format_cost_axis, uses_log_costs

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
_STYLES = ("--", ":", "-.", "-")
_INK = "#1a1a1a"


def frontier_figure(runs: Mapping[str, Results], split: str) -> Figure:
    """Score against cost of every policy of several runs, with 95% intervals and the hull of their single models.

    The color tells the kind of policy, the marker the run. A hull is drawn once for runs whose single models agree.

    Args:
        runs: Name of a run -> its results; all of equal environment, pool and reward, and with rows of the split.
        split: Which split.
    """
    rows = [(name, row) for name, results in runs.items() for row in results.split_rows(split)]
    figure, axes = new_figure(width=8.2, height=6.0)
    for name, row in rows:
        _draw_point(axes, row, kind=kind_of(row, runs[name]), marker=_marker(list(runs).index(name)))
    is_log = uses_log_costs([row.cost_usd_mean for _, row in rows])
    axes.margins(x=0.12, y=0.12)
    format_cost_axis(axes, is_log=is_log)
    hulls = _draw_hulls(axes, runs, split, is_log=is_log)
    axes.set_ylabel("score (100 = every task solved)")
    first = next(iter(runs.values()))
    simulated = " (simulated models)" if first.is_simulated else ""
    left_title(figure, f"{first.env}: score against cost of {len(runs)} runs, {split} split{simulated}")
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    _legend(axes, runs)
    bars = [point for _, row in rows for point in error_bar_points(row)]
    place_labels(figure, axes, _labels(runs, split), obstacles=[*hulls, *bars])
    return figure


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _draw_point(axes: Axes, row: ResultRow, *, kind: str, marker: str) -> None:
    color = KINDS[kind][0]
    x, y = row.cost_usd_mean, row.score_mean
    if row.cost_usd_ci95 is not None:
        axes.plot(row.cost_usd_ci95, [y, y], color=color, lw=1.0, alpha=0.4)
    if row.score_ci95 is not None:
        axes.plot([x, x], row.score_ci95, color=color, lw=1.0, alpha=0.4)
    size = 9.5 if kind == "learned router" else 7.0
    order = 4 if kind == "learned router" else 3
    axes.plot([x], [y], color=color, marker=marker, ms=size, markeredgecolor="white", markeredgewidth=0.7, zorder=order)


def _draw_hulls(axes: Axes, runs: Mapping[str, Results], split: str, *, is_log: bool) -> list[tuple[float, float]]:
    """Hulls, those of equal single models once; gives the points that they were drawn through."""
    drawn: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name, results in runs.items():
        rows = results.split_rows(split)
        points = tuple(sorted(single_model_points(rows, results.roles, like=rows[0])))
        if points:
            drawn.setdefault(points, []).append(name)
    found = []
    for number, names in enumerate(drawn.values()):
        results, style = runs[names[0]], _STYLES[number % len(_STYLES)]
        found += draw_hull(axes, results.split_rows(split), results, is_log=is_log, style=style)
        whose = "" if len(drawn) == 1 else f", {', '.join(names)}"
        axes.plot([], [], color=KINDS["single model"][0], lw=1.4, ls=style, label=f"hull of single models{whose}")
    return found


def _labels(runs: Mapping[str, Results], split: str) -> list[Label]:
    """Names at the points: every learned router of every run, and each other policy once."""
    learned: list[Label] = []
    others: dict[str, Label] = {}
    for results in runs.values():
        for row in results.split_rows(split):
            kind = kind_of(row, results)
            is_learned = kind == "learned router"
            label = Label(
                text=row.label, x=row.cost_usd_mean, y=row.score_mean, color=KINDS[kind][0], is_bold=is_learned
            )
            if is_learned:
                learned.append(label)
            else:
                others.setdefault(row.label, label)
    return [*learned, *others.values()]


def _legend(axes: Axes, runs: Mapping[str, Results]) -> None:
    for number, name in enumerate(runs):
        axes.plot([], [], color=_INK, marker=_marker(number), ms=7, ls="", label=name)
    for kind, (color, _, _) in KINDS.items():
        axes.plot([], [], color=color, lw=5, label=kind)
    legend_below(axes, n_columns=3)
