"""What moves in the report: the frontier under the mouse, policies filtered by name, and the episode viewer.

Plotly draws; its script and everything else is written into the page, which needs no network. Without scripts a reader sees the
tables and the pictures.
"""

import html
import json
from functools import cache
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mtrouter_rl.evaluation.result_rows import single_model_points
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.evaluation.shown_episodes import Transcripts
from mtrouter_rl.ope.record import OpeReport
from mtrouter_rl.records import SCORE_PER_UTILITY, Ends
from mtrouter_rl.reporting.plot_style import KINDS, MODEL_COLORS, SINGLE_COLOR, kind_of
from mtrouter_rl.reporting.plots import uses_log_costs
from mtrouter_rl.reporting.tables import ABSENT, format_usd
from mtrouter_rl.statistics.hull import hull_value, upper_hull

_SYMBOLS = {"*": "star", "o": "circle", "s": "square"}
_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d", "toImage"]}


@cache
def plotly_script() -> str:
    """Plotly's own script, for the head of a page."""
    return f"<script>{get_plotlyjs()}</script>"


@cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def frontier_html(results: Results, split: str) -> str:
    """Score against cost of every policy on a split, to be pointed at; names are filtered by the box above."""
    figure = _figure("cost per episode, USD", "score (100 = every task solved)")
    rows = results.split_rows(split)
    points = single_model_points(rows, results.roles, like=rows[0])
    if points:
        costs = np.linspace(float(upper_hull(points)[0, 0]), max(row.cost_usd_mean for row in rows), 200).tolist()
        figure.add_trace(
            go.Scatter(
                x=costs,
                y=[hull_value(cost, points) for cost in costs],
                mode="lines",
                name="hull of single models",
                line={"dash": "dash", "color": SINGLE_COLOR, "width": 1.5},
                hoverinfo="skip",
            )
        )
    if uses_log_costs([row.cost_usd_mean for row in rows]):
        figure.update_xaxes(type="log", title="cost per episode, USD (log scale)", dtick="D2")
    for row in rows:
        kind = kind_of(row, results)
        _point(
            figure,
            row.label,
            kind,
            (row.cost_usd_mean, row.cost_usd_ci95),
            (row.score_mean, row.score_ci95),
            _hover(row),
        )
    return _with_filter(figure, f"frontier-{split}")


def estimates_html(report: OpeReport) -> str:
    """Estimated score against estimated cost of every policy that the log can tell of."""
    figure = _figure("cost per episode, USD (estimated)", "score (estimated)")
    for one in report.policies:
        if one.headline is None:
            continue
        numbers = one.estimates[one.headline]
        score, cost, gain = numbers["utility"], numbers["cost_usd"], numbers["return"]
        ends = (SCORE_PER_UTILITY * score.low, SCORE_PER_UTILITY * score.high)
        told = (
            f"<b>{html.escape(one.policy)}</b> by {one.headline.upper()}<br>score {SCORE_PER_UTILITY * score.value:.1f}"
            f"{_ends(ends, 1)}<br>{format_usd(cost.value)} USD an episode<br>"
            f"return {gain.value:.3f}{_ends((gain.low, gain.high), 3)}"
        )
        kind = "single model" if one.router.startswith("single:") else "learned router"
        x, y = (max(cost.value, 0.0), (max(cost.low, 0.0), cost.high)), (SCORE_PER_UTILITY * score.value, ends)
        _point(figure, one.policy, kind, x, y, told)
    return _with_filter(figure, "frontier-log")


def viewer_html(transcripts: Transcripts) -> str:
    """The episode viewer: choose policy and episode, read turn by turn who was called, why, and what it cost."""
    data = json.dumps(transcripts.model_dump(mode="json"), ensure_ascii=False)
    # Texts of a log may hold anything; "<" is all that could end the script or begin another.
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    colors = json.dumps(MODEL_COLORS)
    return (
        '<div class="viewer"><div class="viewer-choice"><label>split <select data-role="split"></select></label> '
        '<label>policy <select data-role="policy"></select></label> '
        '<label>episode <select data-role="episode"></select></label></div>'
        '<div data-role="head"></div><ol data-role="turns"></ol></div>\n'
        f"<script>(function () {{ const DATA = {safe};\nconst COLORS = {colors};\n{_file('viewer.js')} }})();</script>"
    )


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        margin={"l": 50, "r": 10, "t": 10, "b": 45},
        height=460,
        hovermode="closest",
        legend={"orientation": "h", "y": -0.18},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13},
    )
    figure.update_xaxes(
        title=x, tickprefix="$", exponentformat="none", gridcolor="rgba(128,128,128,.25)", zeroline=False
    )
    figure.update_yaxes(title=y, gridcolor="rgba(128,128,128,.25)", zeroline=False)
    return figure


def _point(
    figure: go.Figure, name: str, kind: str, x: tuple[float, Ends | None], y: tuple[float, Ends | None], told: str
) -> None:
    color, marker, size = KINDS[kind]
    is_first = not any(trace.legendgroup == kind for trace in figure.data)
    figure.add_trace(
        go.Scatter(
            x=[x[0]],
            y=[y[0]],
            error_x=_bar(*x, color),
            error_y=_bar(*y, color),
            mode="markers",
            name=kind,
            legendgroup=kind,
            showlegend=is_first,
            meta=name,
            marker={
                "symbol": _SYMBOLS[marker],
                "size": size if marker != "*" else 14,
                "color": color,
                "line": {"color": "white", "width": 1},
            },
            hovertemplate=told + "<extra></extra>",
        )
    )


def _bar(value: float, ends: Ends | None, color: str) -> dict[str, object] | None:
    if ends is None:
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(ends[1] - value, 0.0)],
        "arrayminus": [max(value - ends[0], 0.0)],
        "thickness": 1,
        "width": 0,
        "color": color,
    }


def _hover(row: ResultRow) -> str:
    saved = "" if row.cost_saved_share is None else f" ({row.cost_saved_share:.0%} less than the strongest)"
    return (
        f"<b>{html.escape(row.label)}</b><br>score {row.score_mean:.1f}{_ends(row.score_ci95, 1)}<br>"
        f"{format_usd(row.cost_usd_mean)} USD an episode{saved}<br>return {row.return_mean:.3f}{_ends(row.return_ci95, 3)}<br>"
        f"{row.n_episodes} episodes, {row.turns_mean:.1f} turns, {row.switches_mean:.1f} switches each"
    )


def _ends(ends: Ends | None, decimals: int) -> str:
    return f" {ABSENT}" if ends is None else f" [{ends[0]:.{decimals}f}, {ends[1]:.{decimals}f}]"


def _with_filter(figure: go.Figure, anchor: str) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=anchor)
    return (
        f'<div class="frontier"><label class="filter">show policies whose name holds <input type="search" data-plot="{anchor}" '
        f'placeholder="all of them"></label>\n{drawn}</div>\n<script>{_file("filter.js")}</script>'
    )
