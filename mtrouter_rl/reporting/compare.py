"""Which runs may stand in one table, what differs between them, and the tables that hold several of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.reporting.reported_run import ReportedRun
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    format_number,
    format_percent,
    format_usd,
    format_usd_mean,
    format_with_ends,
)
from mtrouter_rl.reporting.verdict import enumerate_words

_SETTING = (
    *("env", "pool", "model_names", "is_simulated", "cost_weight", "cost_unit_usd", "estimator", "cards"),
    *("limits.max_turns", "limits.budget_usd", "limits.max_output_tokens"),
)
"""Fields in which runs must be equal for their numbers to stand in one table: environment, pool and reward."""
_REWARD = ("cost_weight", "cost_unit_usd")
_TASK = ("env", "pool", "model_names", "is_simulated", "estimator", "cards")
"""Fields that no table by one field may be about: another task, other models, or estimates beside runs."""
_MAX_VALUES = 12
"""As many values of differing fields are told in words; more are left to the table."""
_MEANINGS = {
    "cards": "the contents of environment and pool card (`cards`)",
    "is_simulated": "whether the models are simulated (`is_simulated`)",
    "estimator": "whether numbers were run or estimated (`estimator`)",
}


def differing_fields(runs: Sequence[ReportedRun]) -> dict[str, tuple[JsonValue, ...]]:
    """Fields of the configuration that every run records and that are not the same in all: field -> value by run."""
    shared = [name for name in runs[0].config if all(name in run.config for run in runs)]
    values = {name: tuple(run.config[name] for run in runs) for name in shared}
    return {name: many for name, many in values.items() if any(one != many[0] for one in many)}


def unrecorded_fields(runs: Sequence[ReportedRun]) -> tuple[str, ...]:
    """Fields of the configuration that some runs record and others do not."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    return tuple(name for name in names if not all(name in run.config for run in runs))


def comparable_groups(runs: Sequence[ReportedRun]) -> tuple[tuple[ReportedRun, ...], ...]:
    """Runs of equal environment, pool and reward together, in order of first appearance."""
    groups: dict[str, list[ReportedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.config.get(name) for name in _SETTING]), []).append(run)
    return tuple(map(tuple, groups.values()))


def difference_words(runs: Sequence[ReportedRun]) -> tuple[str, ...]:
    """What differs between the runs, and which of them may be compared, a sentence each."""
    fields = differing_fields(runs)
    sentences = [_differing_words(fields, runs) if fields else "The runs have the same configuration."]
    missing = unrecorded_fields(runs)
    if missing:
        sentences.append(f"Not every run records {enumerate_words([f'`{name}`' for name in missing])}.")
    groups = comparable_groups(runs)
    if len(groups) == 1:
        sentences.append(
            "They have environment, pool and reward in common, so their numbers stand in one table. They are not "
            "paired with one another: an interval is that of one run."
        )
        return tuple(sentences)
    apart = [name for name in _SETTING if name in fields]
    names = "; ".join(enumerate_words([run.name for run in group]) for group in groups)
    return (
        *sentences,
        f"**Not all of them can be compared.** They differ in {enumerate_words([_meaning(name) for name in apart])}, "
        "so that their returns, scores or costs are not of one kind, and no table of results holds them together. "
        f"Apart from one another stand: {names}.",
    )


def _differing_words(fields: Mapping[str, Sequence[JsonValue]], runs: Sequence[ReportedRun]) -> str:
    """Which fields differ, with their values where these are few."""
    if len(fields) * len(runs) > _MAX_VALUES:
        return f"The runs differ in {enumerate_words([_meaning(name) for name in fields])}; the values are in the table below."
    told = [
        f"{_meaning(name)} ({', '.join(f'{text(value)} in {run.name}' for run, value in zip(runs, values, strict=True))})"
        for name, values in fields.items()
    ]
    return f"The runs differ in {enumerate_words(told)}."


def difference_table(runs: Sequence[ReportedRun]) -> Table | None:
    """Fields that differ, a column per run; None if there are none."""
    fields = differing_fields(runs)
    if not fields:
        return None
    return Table(
        caption="Fields of the configuration that are not the same in all runs.",
        header=("field", *(run.name for run in runs)),
        rows=tuple((name, *map(text, values)) for name, values in fields.items()),
        is_prose=True,
    )


def side_by_side(runs: Sequence[ReportedRun], split: str) -> Table:
    """The same policies of several runs below one another, those with the best return first.

    Args:
        runs: Runs of equal environment, pool and reward that all have rows of the split.
        split: Which split.
    """
    by_label: dict[str, list[tuple[ReportedRun, ResultRow]]] = {}
    for run in runs:
        for row in run.results.split_rows(split):
            by_label.setdefault(row.label, []).append((run, row))
    shared = {label: pairs for label, pairs in by_label.items() if len(pairs) > 1}
    order = sorted(shared, key=lambda label: (-_mean([row.return_mean for _, row in shared[label]]), label))
    rows = [(label, run.name, *_numbers(row)) for label in order for run, row in shared[label]]
    alone = [f"{label} ({pairs[0][0].name})" for label, pairs in by_label.items() if len(pairs) == 1]
    left_out = f" In one run only, and left out: {', '.join(alone)}." if alone else ""
    return Table(
        caption=f"The same policies in every run, {split} split. Brackets: 95% intervals over (task, variation), "
        "within one run." + left_out,
        header=("policy", "run", *(number.title for number in _NUMBERS)),
        rows=tuple(rows),
        groups=_starts([row[0] for row in rows]),
    )


def field_table(runs: Sequence[ReportedRun], split: str) -> tuple[str, Table] | None:
    """Learned routers by the one field in which several runs differ: the field and the table.

    The mean and the range over runs are added where the runs may be compared.

    Returns:
        None if the runs differ in no or in several fields, in one that makes another task of it, or share no learned router.
    """
    fields = differing_fields(runs)
    if len(fields) != 1 or next(iter(fields)) in _TASK or not all(split in run.splits for run in runs):
        return None
    ((name, values),) = fields.items()
    hidden = ("return",) if name in _REWARD else ()
    numbers = [number for number in _NUMBERS if number.title.split(" ")[0] not in hidden]
    pairs = sorted(zip(values, runs, strict=True), key=lambda pair: _sort_key(pair[0]))
    rows: list[tuple[str, ...]] = []
    for label in _shared_learned(runs, split):
        found = [(value, row) for value, run in pairs for row in run.results.split_rows(split) if row.label == label]
        rows += [(label, text(value), *(number.text(row) for number in numbers)) for value, row in found]
        if len(comparable_groups(runs)) == 1:
            rows.append(
                (label, f"mean of {len(found)} runs", *(number.over([row for _, row in found]) for number in numbers))
            )
    if not rows:
        return None
    why = " Return is left out: every run has a reward of its own." if hidden else ""
    over = " Behind a mean of runs: lowest to highest run." if len(comparable_groups(runs)) == 1 else ""
    return name, Table(
        caption=f"Learned routers by `{name}`, the one field in which the runs differ, {split} split.{over}{why}".replace(
            "`", ""
        ),
        header=("policy", name, *(number.title for number in numbers)),
        rows=tuple(rows),
        groups=_starts([row[0] for row in rows]),
    )


def setting_table(run: ReportedRun, split: str) -> Table | None:
    """Rows of one file that compares several cost weights or budgets, by these; None if it compares none."""
    rows = [row for row in run.results.split_rows(split) if row.cost_weight is not None or row.budget_usd is not None]
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: (row.family, row.cost_weight or 0.0, row.budget_usd or 0.0))
    return Table(
        caption=f"Policies by the cost weight that they act at and by budget, {split} split. Every return is "
        f"worked out with one reward, utility - {run.results.cost_weight:g} x cost / {run.results.cost_unit_usd:g} "
        "USD.",
        header=("policy", "cost weight", "budget, USD", *(number.title for number in _NUMBERS)),
        rows=tuple((row.family, _setting(row.cost_weight), _setting(row.budget_usd), *_numbers(row)) for row in rows),
        groups=_starts([row.family for row in rows]),
    )


def text(value: JsonValue) -> str:
    """A value of a configuration for a cell.

    Example:
        >>> text(0.5), text("hashing"), text(["a", "b"]), text(None)
        ('0.5', 'hashing', 'a, b', 'none')
    """
    if isinstance(value, list):
        return ", ".join(map(text, value)) or "none"
    return "none" if value is None else str(value) if isinstance(value, str) else json.dumps(value)


def _meaning(name: str) -> str:
    return _MEANINGS.get(name, f"`{name}`")


def _shared_learned(runs: Sequence[ReportedRun], split: str) -> list[str]:
    """Labels of learned routers that every run has on the split, in the order of the first run."""
    labels = [
        [row.label for row in run.results.rows if row.split == split and row.policy in run.results.roles.learned]
        for run in runs
    ]
    return [label for label in labels[0] if all(label in others for others in labels)]


def _setting(value: float | None) -> str:
    return ABSENT if value is None else f"{value:g}"


def _sort_key(value: JsonValue) -> tuple[int, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, text(value))  # type: ignore[arg-type]


def _starts(labels: Sequence[str]) -> frozenset[int]:
    """Where a label differs from the one before it."""
    return frozenset(index for index in range(1, len(labels)) if labels[index] != labels[index - 1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True, kw_only=True)
class _Number:
    """A column of the tables above.

    Attributes:
        title: Its header.
        text: Cell of a row.
        value: What is averaged over runs; None where there is nothing to average.
        format: One value in words.
        has_range: Whether the range over runs is shown beside their mean.
    """

    title: str
    text: Callable[[ResultRow], str]
    value: Callable[[ResultRow], float | None]
    format: Callable[[float], str]
    has_range: bool = False

    def over(self, rows: Sequence[ResultRow]) -> str:
        """Mean, lowest and highest of several rows."""
        known = [value for value in map(self.value, rows) if value is not None]
        if len(known) < len(rows):
            return ABSENT
        ends = f" ({self.format(min(known))} to {self.format(max(known))})" if self.has_range else ""
        return f"{self.format(_mean(known))}{ends}"


def _numbers(row: ResultRow) -> tuple[str, ...]:
    return tuple(number.text(row) for number in _NUMBERS)


def _decimals(n: int, *, sign: bool = False) -> Callable[[float], str]:
    return lambda value: format_number(value, decimals=n, sign=sign)


_NUMBERS = (
    _Number(
        title="episodes",
        text=lambda row: str(row.n_episodes),
        value=lambda row: float(row.n_episodes),
        format=_decimals(0),
    ),
    _Number(
        title="return (95% CI)",
        text=lambda row: format_with_ends(row.return_mean, row.return_ci95, decimals=3),
        value=lambda row: row.return_mean,
        format=_decimals(3),
        has_range=True,
    ),
    _Number(
        title="score (95% CI)",
        text=lambda row: format_with_ends(row.score_mean, row.score_ci95, decimals=1),
        value=lambda row: row.score_mean,
        format=_decimals(1),
        has_range=True,
    ),
    _Number(
        title="USD/episode (95% CI)",
        text=lambda row: format_usd_mean(row.cost_usd_mean, row.cost_usd_ci95),
        value=lambda row: row.cost_usd_mean,
        format=format_usd,
        has_range=True,
    ),
    _Number(
        title="saved",
        text=lambda row: format_percent(row.cost_saved_share),
        value=lambda row: row.cost_saved_share,
        format=format_percent,
    ),
    _Number(
        title="hull gain",
        text=lambda row: format_number(row.hull_gain, decimals=1, sign=True),
        value=lambda row: row.hull_gain,
        format=_decimals(1, sign=True),
    ),
)
