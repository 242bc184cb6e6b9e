"""Results as tables: aligned text for a terminal, Markdown for a page, one list of columns behind both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.statistics.estimate import FEWEST_CLUSTERS, Estimate

ABSENT = "-"
"""Stands for a number that does not exist, such as a hull gain without single models."""

NOT_COMPUTED = "not computed"
"""Stands for a p-value that a file does not hold."""

Best = Literal["high", "low"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts.

    Attributes:
        caption: What it shows.
        header: Names of the columns; the first is left-aligned, the others right-aligned.
        rows: Cells, one text per column.
        best: (row, column) of cells that are best in their column.
        groups: Rows that begin a group, set off by a line where the rendering can draw one.
        is_prose: Whether the cells are words instead of numbers, which are aligned to the left and may be broken.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    groups: frozenset[int] = frozenset()
    is_prose: bool = False


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One column of the main table; `best` None where neither more nor less is better."""

    title: str
    value: Callable[[ResultRow], float | None]
    text: Callable[[ResultRow], str]
    best: Best | None = None


def format_number(value: float | None, *, decimals: int, sign: bool = False) -> str:
    """A number with a fixed count of decimals, never "-0.0"; "-" if there is none.

    Example:
        >>> format_number(-0.001, decimals=1), format_number(2.5, decimals=1, sign=True)
        ('0.0', '+2.5')
    """
    if value is None:
        return ABSENT
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}" if sign and rounded else f"{rounded:.{decimals}f}"


def format_usd(value: float) -> str:
    """USD with three significant digits, at least to the cent.

    Example:
        >>> format_usd(0.0123456), format_usd(12.3456), format_usd(-0.5)
        ('0.0123', '12.35', '-0.500')
    """
    return format_number(value, decimals=_usd_decimals(value))


def _usd_decimals(*values: float) -> int:
    """Decimals that show three significant digits of the largest value, at least 2."""
    largest = max(abs(value) for value in values)
    return 2 if largest == 0 or largest >= 1 else 2 - math.floor(math.log10(largest))


def format_percent(value: float | None) -> str:
    """A share as a percentage with one decimal; "-" if there is none.

    Example:
        >>> format_percent(0.587)
        '58.7%'
    """
    return ABSENT if value is None else f"{format_number(100 * value, decimals=1)}%"


def results_table(results: Results, split: str) -> Table:
    """All policies of a split, best return first.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = results.split_rows(split)
    cells = tuple(tuple(column.text(row) for column in _COLUMNS) for row in rows)
    best = frozenset(
        (index, number) for number, column in enumerate(_COLUMNS) for index in _best_rows(column, rows, cells=cells)
    )
    header = tuple(column.title for column in _COLUMNS)
    first = next((index for index, row in enumerate(rows) if row.is_reference), None)
    groups = frozenset[int]() if first is None else frozenset({first})
    return Table(caption=caption(results, split), header=header, rows=cells, best=best, groups=groups)


def paired_table(results: Results, split: str, *, is_short: bool = False) -> Table | None:
    """Learned routers minus every baseline, or None if nothing was paired.

    Args:
        results: The results file.
        split: Which split.
        is_short: Whether only the learned router that was named first is shown.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    shown = results.roles.learned[:1] if is_short else results.roles.learned
    rows = tuple(
        (
            f"{row.label} - {baseline}",
            format_interval(difference.return_, decimals=3),
            format_interval(difference.score, decimals=1),
            format_usd_interval(difference.cost_usd),
            verdict_word(difference.return_),
            format_p_value(difference.p_value),
            format_p_value(difference.p_value_holm),
        )
        for row in results.split_rows(split)
        if row.policy in shown
        for baseline, difference in row.paired.items()
    )
    if not rows:
        return None
    header = (
        *("learned router - baseline", "return (95% CI)", "score (95% CI)", "cost, USD (95% CI)", "return is"),
        *("p", "p, Holm"),
    )
    unit = (
        "(task, variation)"
        if results.estimator is None
        else "instances (within task and model) and divisions into folds, not over tasks"
    )
    text = f"Paired differences over the same episodes, 95% intervals bootstrapped over {unit}."
    return Table(caption=f"{text} {_p_value_words(results, split)}", header=header, rows=rows)


def n_differences(results: Results, split: str) -> int:
    """Size of the family of Holm's correction: all differences of return of a split."""
    return sum(len(row.paired) for row in results.split_rows(split))


def _p_value_words(results: Results, split: str) -> str:
    """What the p-values of a split are, or why there are none."""
    known = [one.p_value for row in results.split_rows(split) for one in row.paired.values() if one.p_value is not None]
    if not known:
        return f"p-values: {NOT_COMPUTED} (fewer than two (task, variation) pairs, or a file of an older version)."
    return (
        "p: two-sided, of the difference of return, from the draws behind its interval; p, Holm: adjusted for all "
        f"{n_differences(results, split)} differences of return of this split, so that the chance of even one false "
        "finding among them is at most 5% where values below 0.05 are taken as findings."
    )


def format_p_value(value: float | None) -> str:
    """A p-value with three decimals.

    Example:
        >>> format_p_value(0.0312), format_p_value(0.0007), format_p_value(None)
        ('0.031', '0.001', 'not computed')
    """
    if value is None:
        return NOT_COMPUTED
    return "<0.001" if value < 0.0005 else format_number(value, decimals=3)


def verdict_word(interval: Estimate) -> str:
    """What an interval of a difference says: "higher", "lower" or "not distinguishable".

    With fewer than `FEWEST_CLUSTERS` clusters nothing is told apart, whatever the interval: no p-value could be below 5%.
    """
    if interval.n_clusters < FEWEST_CLUSTERS:
        return "not distinguishable"
    if interval.is_above_zero:
        return "higher"
    return "lower" if interval.is_below_zero else "not distinguishable"


def format_with_ends(mean: float | None, ends: tuple[float, float] | None, *, decimals: int) -> str:
    """A number with its interval; "-" if there is no number.

    Example:
        >>> format_with_ends(1.0, (0.5, 2.5), decimals=1), format_with_ends(1.0, None, decimals=1)
        ('1.0 [0.5, 2.5]', '1.0 [no interval]')
    """
    if mean is None:
        return ABSENT
    low, high = (format_number(end, decimals=decimals) for end in ends or (0.0, 0.0))
    return f"{format_number(mean, decimals=decimals)} [{'no interval' if ends is None else f'{low}, {high}'}]"


def format_usd_mean(mean: float, ends: tuple[float, float] | None) -> str:
    """USD with their interval, all with the digits of the largest.

    Example:
        >>> format_usd_mean(0.0691, (0.06, 0.0801))
        '0.0691 [0.0600, 0.0801]'
    """
    return format_with_ends(mean, ends, decimals=_usd_decimals(mean, *(ends or ())))


def format_interval(interval: Estimate, *, decimals: int) -> str:
    """A difference with its interval, signed.

    Example:
        >>> format_interval(Estimate(value=1.0, low=-0.5, high=2.5, n_episodes=8, n_clusters=4), decimals=1)
        '+1.0 [-0.5, +2.5]'
    """
    mean = format_number(interval.value, decimals=decimals, sign=True)
    if interval.low is None:
        return f"{mean} [no interval]"
    low, high = (format_number(end, decimals=decimals, sign=True) for end in (interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def format_usd_interval(interval: Estimate) -> str:
    """A difference in USD with its interval, signed."""
    return format_interval(interval, decimals=_usd_decimals(interval.value, *(interval.ends or ())))


def caption(results: Results, split: str) -> str:
    """One line under a table: environment, split, episodes, reward, and whether models are simulated.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = results.split_rows(split)
    counts = sorted({row.n_episodes for row in rows})
    episodes = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    n_failed = sum(row.n_failed for row in rows)
    failed = f"; {n_failed} failed episode(s) not scored" if n_failed else ""
    models = "simulated models (no LLM was called)" if results.is_simulated else "real models"
    if results.estimator is not None:
        models += f", {results.estimator}"
    unit = (
        "(task, variation)"
        if results.estimator is None
        else "instances (within task and model) and divisions into folds, not over tasks"
    )
    references = [row.label for row in rows if row.is_reference]
    seen = f" {', '.join(references)}: no router, it sees the simulator's hidden state." if references else ""
    weight = f"return = utility - {results.cost_weight:g} x cost / {results.cost_unit_usd:g} USD"
    return (
        f"{results.env}, {split} split, pool {results.pool}, {models}: {episodes} episodes per "
        f"policy{failed}. {weight}. Brackets: 95% intervals over {unit}.{seen}"
    )


def format_table(results: Results, split: str) -> str:
    """Aligned plain text for a terminal: all policies, and the paired differences of the first learned router.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    tables = [results_table(results, split), paired_table(results, split, is_short=True)]
    return "\n\n".join(to_plain(table) for table in tables if table is not None)


def markdown_table(results: Results, split: str) -> str:
    """The same in Markdown, with the best value of a column in bold.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    tables = [results_table(results, split), paired_table(results, split)]
    return "\n\n".join(to_markdown(table) for table in tables if table is not None)


def to_markdown(table: Table) -> str:
    """One table in Markdown, caption below."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rows = [
        [f"**{cell}**" if (index, number) in table.best else cell for number, cell in enumerate(cells)]
        for index, cells in enumerate(table.rows)
    ]
    rule = "|" + "|".join(["---"] + ["---:"] * (len(table.header) - 1)) + "|"
    return "\n".join([line(table.header), rule, *(line(row) for row in rows), "", f"*{table.caption}*"])


def to_plain(table: Table) -> str:
    """One table as aligned text, caption below."""
    widths = [max(len(cell) for cell in column) for column in zip(table.header, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
        ]
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(table.header), rule, *(line(row) for row in table.rows), "", table.caption])


def _best_rows(column: _Column, rows: Sequence[ResultRow], *, cells: Sequence[Sequence[str]]) -> list[int]:
    """Rows whose printed value is the best of the column, so that equal texts are marked alike."""
    numbers = [(column.value(row), index) for index, row in enumerate(rows)]
    known = [(value, index) for value, index in numbers if value is not None and not rows[index].is_reference]
    if column.best is None or len(known) < 2:
        return []
    _, winner = max(known) if column.best == "high" else min(known)
    number = _COLUMNS.index(column)
    best_text = cells[winner][number].split(" ")[0]
    return [index for _, index in known if cells[index][number].split(" ")[0] == best_text]


def _score_text(row: ResultRow) -> str:
    return format_with_ends(row.score_mean, row.score_ci95, decimals=1)


def _return_text(row: ResultRow) -> str:
    return format_with_ends(row.return_mean, row.return_ci95, decimals=3)


_COLUMNS: tuple[_Column, ...] = (
    _Column(title="policy", value=lambda row: None, text=lambda row: row.label),
    _Column(title="score (95% CI)", value=lambda row: row.score_mean, text=_score_text, best="high"),
    _Column(
        title="USD/episode",
        value=lambda row: row.cost_usd_mean,
        text=lambda row: format_usd(row.cost_usd_mean),
        best="low",
    ),
    _Column(
        title="saved",
        value=lambda row: row.cost_saved_share,
        text=lambda row: format_percent(row.cost_saved_share),
        best="high",
    ),
    _Column(title="return (95% CI)", value=lambda row: row.return_mean, text=_return_text, best="high"),
    _Column(
        title="turns", value=lambda row: row.turns_mean, text=lambda row: format_number(row.turns_mean, decimals=1)
    ),
    _Column(
        title="switches",
        value=lambda row: row.switches_mean,
        text=lambda row: format_number(row.switches_mean, decimals=1),
    ),
    _Column(
        title="hull gain",
        value=lambda row: row.hull_gain,
        text=lambda row: format_number(row.hull_gain, decimals=1, sign=True),
        best="high",
    ),
)
"""Turns and switches are shown, not judged: fewer of them is no aim in itself."""
