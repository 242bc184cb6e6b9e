"""Figures of `ablations.json`: what each change does to the return, and what a router makes of logs of several sizes."""

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrouter_rl.reporting.plot_style import (
    DPI,
    LEARNED_COLOR,
    OTHER_COLOR,
    SINGLE_COLOR,
    left_title,
    legend_below,
    new_figure,
)
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.ablations.record import AblationRow, Ablations

Quantity = Literal["return", "score"]
_LABELS: dict[Quantity, str] = {"return": "return", "score": "score (100 = every task solved)"}
_SHIFT = 1.02
_AGENT_STYLES = ((LEARNED_COLOR, "o", "-"), (SINGLE_COLOR, "s", "--"))


def save_ablation_plots(ablations: Ablations, folder: Path) -> tuple[Path, ...]:
    """Write every figure that there is something to draw of as a PNG; files of the same name are replaced."""
    split = ablations.setting.split
    figures: dict[str, Figure] = {}
    if len(ablations.components) > 1:
        figures[f"ablations_{split}"] = difference_figure(ablations)
    if ablations.log_sizes:
        figures[f"log_size_return_{split}"] = log_size_figure(ablations, "return")
        figures[f"log_size_score_{split}"] = log_size_figure(ablations, "score")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, figure in figures.items():
        path = folder / f"{stem}.png"
        figure.savefig(path, dpi=DPI)
        paths.append(path)
    return tuple(paths)


def difference_figure(ablations: Ablations) -> Figure:
    """Difference of return to the full router, one line per variant, with its 95% interval."""
    rows = [row for row in ablations.components if row.difference is not None]
    figure, axes = new_figure(width=8.2, height=1.7 + 0.36 * len(rows))
    for place, row in enumerate(rows):
        assert row.difference is not None
        _draw_difference(axes, row.difference.return_, place)
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(rows)), [f"{row.trained.group}: {row.trained.variant}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("return of the variant minus that of the full router, 95% interval over (task, variation)")
    axes.grid(visible=True, axis="x", color="0.92")
    axes.set_axisbelow(True)
    _title(figure, ablations, f"what each change does to {ablations.setting.agent}")
    return figure


def log_size_figure(ablations: Ablations, quantity: Quantity) -> Figure:
    """Return or score against the number of logged episodes, one line per agent, with 95% intervals."""
    rows = ablations.log_sizes
    figure, axes = new_figure(width=7.2, height=4.6)
    for number, agent in enumerate(dict.fromkeys(row.trained.agent for row in rows)):
        own = [row for row in rows if row.trained.agent == agent]
        color, marker, style = _AGENT_STYLES[number]
        # Beside each other, so that neither agent's intervals lie under the other's.
        episodes = [row.trained.n_logged_episodes * _SHIFT**number for row in own]
        intervals = [_value(row, quantity) for row in own]
        axes.plot(episodes, [one.value for one in intervals], color=color, marker=marker, ls=style, label=agent)
        for place, interval in zip(episodes, intervals, strict=True):
            if interval.ends is not None:
                axes.plot([place, place], interval.ends, color=color, lw=1.2, alpha=0.5)
    axes.set_xscale("log")
    ticks = sorted({row.trained.n_logged_episodes for row in rows})
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set_xlabel("logged episodes that were learned from (log scale)")
    axes.set_ylabel(_LABELS[quantity])
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    legend_below(axes, n_columns=2)
    _title(figure, ablations, f"{quantity} against the size of the log")
    return figure


def _value(row: AblationRow, quantity: Quantity) -> Estimate:
    return row.return_ if quantity == "return" else row.score


def _draw_difference(axes: Axes, interval: Estimate, place: int) -> None:
    is_told = interval.is_above_zero or interval.is_below_zero
    color = LEARNED_COLOR if is_told else OTHER_COLOR
    if interval.ends is not None:
        axes.plot(interval.ends, [place, place], color=color, lw=1.6)
    # Filled where the interval excludes 0, so that it is seen without color as well.
    axes.plot([interval.value], [place], color=color, marker="o", ms=7, mfc=color if is_told else "white")


def _title(figure: Figure, ablations: Ablations, text: str) -> None:
    setting = ablations.setting
    simulated = " (simulated models)" if setting.is_simulated else ""
    left_title(figure, f"{setting.env}: {text}\n{setting.split} split{simulated}")
