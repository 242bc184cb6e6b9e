"""What all figures share: colors, an empty figure, titles, legends.

No global plotting state: every figure is a `Figure` of its own. Colors are those of Okabe and Ito, which the color-blind
can tell apart; a model keeps its color in all figures.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtrouter_rl.evaluation.results import ResultRow, Results

MODEL_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#BBBBBB", "#F0E442", "#000000")
"""Okabe and Ito, Color Universal Design (2008), without the vermilion of learned routers; hatched when reused."""
_HATCHES = ("", "///", "...", "xxx")
LEARNED_COLOR = "#D55E00"
SINGLE_COLOR = "#0072B2"
OTHER_COLOR = "#555555"
DPI = 130

KINDS: dict[str, tuple[str, str, float]] = {
    "learned router": (LEARNED_COLOR, "*", 15.0),
    "single model": (SINGLE_COLOR, "o", 7.0),
    "other policy": (OTHER_COLOR, "s", 6.5),
}
"""Kind of policy -> color, marker and its size."""


MIN_CELL_TURNS = 30
"""Shares of fewer turns than this are mostly chance: they are left blank."""
_LETTERS_PER_INCH = 10
_scale: ContextVar[float] = ContextVar("figure scale", default=1.0)


@contextmanager
def thumbnails() -> Iterator[None]:
    """Figures that are drawn meanwhile are small beside their letters, so that they can be read as thumbnails."""
    token = _scale.set(0.62)
    try:
        yield
    finally:
        _scale.reset(token)


def is_thumbnail() -> bool:
    """Whether figures are drawn as thumbnails, which have room for less."""
    return _scale.get() < 1


def new_figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes; sizes in inches."""
    scale = _scale.get()
    figure = Figure(figsize=(scale * width, scale * height), dpi=DPI / scale, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def left_title(figure: Figure, text: str) -> None:
    """Title a figure; long titles are given line breaks by the caller, and more where the figure is a thumbnail."""
    if is_thumbnail():
        width = round(figure.get_figwidth() * _LETTERS_PER_INCH)
        text = "\n".join(textwrap.fill(line, width) for line in text.split("\n"))
    figure.suptitle(text, x=0.01, ha="left", fontsize=11)


def results_title(figure: Figure, results: Results, text: str) -> None:
    """Title a figure with the environment first, and that its models were simulated if they were."""
    simulated = " (simulated models)" if results.is_simulated else ""
    left_title(figure, f"{results.env}: {text}{simulated}")


def kind_of(row: ResultRow, results: Results) -> str:
    """Which of `KINDS` a policy is."""
    if row.policy in results.roles.learned:
        return "learned router"
    return "single model" if row.policy in results.roles.single_models else "other policy"


def legend_below(axes: Axes, *, n_columns: int) -> None:
    """Legend of the axes below the figure."""
    handles, names = axes.get_legend_handles_labels()
    n_columns = min(n_columns, 2) if is_thumbnail() else n_columns
    axes.figure.legend(handles, names, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=8.5)


def model_style(index: int) -> tuple[str, str]:
    """Color and hatch of the model at an index of the pool."""
    return MODEL_COLORS[index % len(MODEL_COLORS)], _HATCHES[index // len(MODEL_COLORS) % len(_HATCHES)]


def text_color(background: str) -> str:
    """Black or white, whichever can be read on a background given as "#RRGGBB"."""
    red, green, blue = (int(background[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
