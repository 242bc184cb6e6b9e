"""Report of a replay study, drawn from its record alone: `report.md`, `report.html` and a figure for each holding out."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrouter_rl.files import write_atomically
from mtrouter_rl.reporting.document import (
    Block,
    Bullets,
    Contents,
    Heading,
    Paragraph,
    Picture,
    render_html,
    render_markdown,
)
from mtrouter_rl.reporting.plot_style import (
    DPI,
    LEARNED_COLOR,
    MODEL_COLORS,
    OTHER_COLOR,
    SINGLE_COLOR,
    left_title,
    legend_below,
    new_figure,
)
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    format_interval,
    format_number,
    format_p_value,
    format_percent,
    format_usd,
    format_usd_mean,
    format_with_ends,
)
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.hull import upper_hull
from mtrouter_rl.studies.replay.compare import TARGET_POINTS, TARGET_SAVING
from mtrouter_rl.studies.replay.crossval import Scheme
from mtrouter_rl.studies.replay.record import Comparison, ReplayResults

_HELD: dict[Scheme, str] = {"groups": "whole groups", "time": "later tasks"}
_GOALS = {"save": "save money", "gain": "gain score"}
_MAX_MOVES = 4
_MARKERS = ("v", "^", "s", "D", "<", ">", "X")


def write_report(results: ReplayResults, folder: Path) -> Path:
    """Write figures, `report.md` and `report.html`; returns the page."""
    pictures = []
    for held in results.held:
        path = folder / "plots" / f"frontier_{held.scheme}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        frontier_figure(results, held.scheme).savefig(path, dpi=DPI)
        text = f"Score against cost, {_HELD[held.scheme]} held out: single models, their hull, and every family at its prices."
        pictures.append(Picture(path=path, text=text))
    blocks = report_blocks(results, pictures)
    write_atomically(folder / "report.md", render_markdown(blocks, folder=folder).encode())
    page = folder / "report.html"
    write_atomically(page, render_html(blocks, title=f"Replay of {results.env}").encode())
    return page


def report_blocks(results: ReplayResults, pictures: list[Picture]) -> list[Block]:
    """The report."""
    layout = results.layout
    fitted = (
        ""
        if results.layout_error is None
        else f", which leaves an error of {results.layout_error:.1%} of the run's cost"
    )
    blocks: list[Block] = [
        Heading(text=f"Replay of {results.env}", level=1),
        Paragraph(
            text=f"{results.n_tasks} tasks in {results.n_groups} groups, {len(results.models)} models, one logged run of each. "
            "Outcomes are read off the log: nothing is simulated, nothing is estimated but by sampling tasks."
        ),
        Contents(),
        Heading(text="What came of it"),
        Bullets(items=tuple(results.answers)),
        Heading(text="Single models"),
        models_table(results),
        overlap_table(results),
        Heading(text="What knows the outcomes"),
        references_table(results),
        Heading(text="Routers on held-out tasks"),
        *pictures,
        comparisons_table(results),
        Paragraph(
            text="Every row was learned and chosen on other tasks than it was worked out on. The hull is that of the held-out "
            "tasks themselves, so that a router is held to a mixture that nobody could have chosen beforehand. p-values are "
            f"corrected for all {len(results.comparisons)} comparisons (Holm). 'Detectable' is what so many tasks show with "
            "80% power, so corrected.",
            is_note=True,
        ),
        Heading(text="What was learned"),
        moves_table(results),
    ]
    if results.layouts:
        blocks += [
            Heading(text="How much hangs on the layout"),
            Paragraph(
                text=f"Where only the total of a run is known, turn t (from 0) costs in proportion to 1 + {layout.rate:.4f} t "
                f"({results.layout_source}{fitted}). Below: the same under a flat and a quadratic rule, groups held out."
            ),
            layouts_table(results),
        ]
    if results.transfer:
        blocks += [Heading(text="Models that no training saw"), transfer_table(results)]
    notes = (*results.notes, *results.left_out)
    return [*blocks, Heading(text="How the suite was read"), Bullets(items=notes or ("Nothing to say.",))]


def models_table(results: ReplayResults) -> Table:
    """Single models."""
    rows = tuple(
        (row.model, _score(row.score), _usd(row.cost_usd), format_number(row.n_turns, decimals=0), str(row.n_known))
        for row in results.models
    )
    return Table(
        caption=f"Single models on all {results.n_tasks} tasks. Brackets: 95% intervals over tasks.",
        header=("model", "score", "USD a run", "turns", "runs known turn by turn"),
        rows=rows,
    )


def overlap_table(results: ReplayResults) -> Table:
    """How far others solve the same tasks as the best model."""
    rows = tuple((row.model, format_percent(row.of_failed), format_percent(row.of_solved)) for row in results.overlap)
    return Table(
        caption=(
            f"Of the tasks that {results.best_model} fails, and of those that it solves, the share that another "
            f"model solves."
        ),
        header=("model", "of its failures", "of its successes"),
        rows=rows,
    )


def references_table(results: ReplayResults) -> Table:
    """Oracles."""
    rows = tuple((row.name, _score(row.score), _usd(row.cost_usd), row.told) for row in results.references)
    return Table(
        caption="Upper limits that no router can be held to: they know the outcome of every run.",
        header=("reference", "score", "USD a task", "what it does"),
        rows=rows,
    )


def comparisons_table(results: ReplayResults) -> Table:
    """Every comparison."""
    return Table(
        caption=(
            f"Goal 'save money': cost at equal score, target {TARGET_SAVING:.0%} less. Goal 'gain score': points above "
            "blind mixing at "
            f"equal cost, target {TARGET_POINTS:g}. Brackets: 95% intervals over tasks, paired."
        ),
        header=(
            "held out",
            "router",
            "goal",
            "score",
            "USD a task",
            "points over the hull",
            "saved at equal score",
            "score - best single",
            "p (Holm)",
            "detectable",
            "tasks needed",
            "target",
        ),
        rows=tuple(_comparison_row(one) for one in results.comparisons),
    )


def _comparison_row(one: Comparison) -> tuple[str, ...]:
    detectable = f"{one.detectable:.1f}" if one.goal == "gain" else f"{one.detectable:.0%}"
    return (
        one.scheme,
        one.family,
        _GOALS[one.goal],
        format_number(one.score.value, decimals=1),
        format_usd(one.cost_usd.value),
        format_interval(one.hull_gain, decimals=1),
        _percent(one.saving),
        format_interval(one.score_difference, decimals=1),
        format_p_value(one.p_adjusted),
        detectable,
        ABSENT if one.n_needed is None else str(one.n_needed),
        one.answer,
    )


def moves_table(results: ReplayResults) -> Table:
    """What was restarted, and when."""
    rows = []
    for one in results.comparisons:
        for move in one.moves[:_MAX_MOVES]:
            second = move.second or "(given up)"
            rows.append(
                (
                    one.scheme,
                    one.family,
                    _GOALS[one.goal],
                    format_percent(one.share_restarted),
                    move.first,
                    second,
                    str(move.n_tasks),
                    format_number(move.median_turn, decimals=0),
                    format_usd(move.median_usd),
                )
            )
    return Table(
        caption=(
            f"Restarts on held-out tasks: the {_MAX_MOVES} most frequent of every router. Medians of when, and of "
            f"what was paid by then."
        ),
        header=("held out", "router", "goal", "restarted", "from", "to", "tasks", "after turns", "USD lost"),
        rows=tuple(rows) or (("-",) * 9,),
    )


def layouts_table(results: ReplayResults) -> Table:
    """Other rules of laying out costs."""
    rows = tuple(
        (
            row.family,
            _GOALS[row.goal],
            row.shape,
            format_number(row.score, decimals=1),
            format_usd(row.cost_usd),
            format_number(row.hull_gain, decimals=2, sign=True),
        )
        for row in sorted(results.layouts, key=lambda row: (row.family, row.goal))
    )
    return Table(
        caption="Routers whose money hangs on when a run is left, under three rules.",
        header=("router", "goal", "rule", "score", "USD a task", "points over the hull"),
        rows=rows,
    )


def transfer_table(results: ReplayResults) -> Table:
    """Unseen models."""
    rows = tuple(
        (
            row.model,
            format_number(row.unseen, decimals=4),
            format_number(row.seen, decimals=4),
            format_number(row.without, decimals=4),
            format_percent(row.share_started),
        )
        for row in results.transfer
    )
    return Table(
        caption=(
            "Mean return of the learned router on held-out groups (score / 100 minus a fifth of the score per best "
            "model's mean run "
            "cost): no regression saw the model's runs, all were seen, the model is not in the pool. Its table of means "
            "is known in "
            "the first two: what is carried over is the regression."
        ),
        header=("model", "unseen", "seen", "not in the pool", "called when unseen"),
        rows=rows,
    )


def frontier_figure(results: ReplayResults, scheme: Scheme) -> Figure:
    """Cost and score of everything, on held-out tasks."""
    figure, axes = new_figure(width=9.0, height=5.6)
    _draw_models(axes, results)
    oracle = results.references[0]
    axes.plot(
        oracle.cost_usd.value, oracle.score.value, "P", color="0.2", ms=9, label=f"{oracle.name} (knows the outcomes)"
    )
    rows = [row for row in results.families if row.scheme == scheme and row.family != "single"]
    # Points alone: a straight line between two of them would not be their mixtures, since the cost is on a log scale.
    for number, row in enumerate(rows):
        is_learned = row.family == "restart, learned"
        color = LEARNED_COLOR if is_learned else MODEL_COLORS[1 + number % (len(MODEL_COLORS) - 1)]
        points = [(point.cost_usd, point.score) for point in row.points]
        marker = "*" if is_learned else _MARKERS[number % len(_MARKERS)]
        axes.plot(*zip(*points, strict=True), ls="", marker=marker, ms=7, color=color, alpha=0.75, label=row.family)
    axes.set_xscale("log")
    axes.set_xlabel("USD a task (log scale)")
    axes.set_ylabel("score (100 = every task solved)")
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    legend_below(axes, n_columns=3)
    left_title(figure, f"{results.env}: score against cost, {_HELD[scheme]} held out")
    return figure


def _draw_models(axes: Axes, results: ReplayResults) -> None:
    points = [(row.cost_usd.value, row.score.value) for row in results.models]
    axes.plot(*zip(*points, strict=True), "o", color=SINGLE_COLOR, ms=5, label="single models (all tasks)")
    hull = upper_hull(points)
    at = np.geomspace(hull[0, 0], hull[-1, 0], 200) if hull[0, 0] > 0 else hull[:, 0]
    axes.plot(
        at, np.interp(at, hull[:, 0], hull[:, 1]), "-", color=OTHER_COLOR, lw=1, label="blind mixing of them (hull)"
    )
    corners = {tuple(corner) for corner in hull.tolist()}
    for row in results.models:
        place = row.cost_usd.value, row.score.value
        if place in corners:
            axes.annotate(row.model[:30], place, fontsize=7, xytext=(4, 6), textcoords="offset points")


def _score(estimate: Estimate) -> str:
    return format_with_ends(estimate.value, estimate.ends, decimals=1)


def _usd(estimate: Estimate) -> str:
    return format_usd_mean(estimate.value, estimate.ends)


def _percent(estimate: Estimate) -> str:
    ends = estimate.ends
    return f"{estimate.value:+.0%}" + ("" if ends is None else f" [{ends[0]:+.0%}, {ends[1]:+.0%}]")
