"""Estimates from a log beside what happened when the same policies were run, for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.records import SCORE_PER_UTILITY
from mtrouter_rl.reporting.document import Block, Bullets, Paragraph, Picture
from mtrouter_rl.reporting.plot_style import DPI
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

if TYPE_CHECKING:
    from mtrouter_rl.ope.record import OpeReport, PolicyReport

SELECTION_TITLES = {"return": "return", "utility": "score", "cost_usd": "cost"}
"""Quantity of an estimate -> what the report calls it."""
_UNIT_FREE = "dm"
"""The one estimator that needs no propensities."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Rows of the results that estimates are compared with.

    Attributes:
        split: Their split.
        rows: Policy -> its row.
    """

    split: str
    rows: dict[str, ResultRow]

    def means(self) -> dict[str, dict[str, float]]:
        """Closed-loop means by policy and quantity."""
        return {
            name: {"utility": row.utility_mean, "cost_usd": row.cost_usd_mean, "return": row.return_mean}
            for name, row in self.rows.items()
        }


def ope_mismatch(ope: "OpeReport", results: Results) -> str | None:
    """Why estimates and results may not be put side by side, in words; None if they may."""
    wanted = {name: getattr(results, name) for name in ("cost_weight", "cost_unit_usd", "env", "pool", "model_names")}
    found = {name: getattr(ope, name) for name in wanted}
    apart = [
        f"`{name}` is {_shown(found[name])} there and {_shown(wanted[name])} here"
        for name in wanted
        if found[name] is not None and found[name] != wanted[name]
    ]
    return enumerate_words(apart) if apart else None


def truth_of(ope: "OpeReport", results: Results) -> Truth | None:
    """Closed-loop rows to compare with: of the log's split if it was run, else of the first; None if none shares a policy."""
    splits = sorted(results.splits, key=lambda split: (split != ope.split, split != "test"))
    for split in splits[:1]:
        rows = {row.policy: row for row in results.split_rows(split) if row.label == row.policy}
        known = {one.policy: rows[one.policy] for one in ope.policies if one.policy in rows}
        if known:
            return Truth(split=split, rows=known)
    return None


def ope_blocks(ope: "OpeReport", results: Results, *, plots: Path) -> list[Block]:
    """Notes, table, figures, refusals and selection quality of one run.

    Args:
        ope: Estimates from a log.
        results: What the same policies did when they were run.
        plots: Folder that the figures are written into.
    """
    mismatch = ope_mismatch(ope, results)
    if mismatch is not None:
        return [
            Paragraph(
                text=f"There is an `ope.json`, but it was made in another setting: {mismatch}. Its numbers and those "
                "of this run are not of one kind and are not shown together; run `mtrouter-rl ope` again with this "
                "run's reward and pool.",
                is_note=True,
            )
        ]
    truth = truth_of(ope, results)
    blocks: list[Block] = [Paragraph(text=_about(ope, truth))]
    if ope.pool is None:
        blocks.append(
            Paragraph(
                text="This `ope.json` does not say of which pool it is; the models are taken to be this run's.",
                is_note=True,
            )
        )
    if truth is None:
        blocks.append(Paragraph(text="No policy that was estimated was also run, so there is nothing to compare with."))
    blocks += [estimates_table(ope, truth, quantity) for quantity in SELECTION_TITLES]
    if truth is not None:
        blocks += _pictures(ope, results, truth, plots=plots)
        blocks += [table for table in [selection_table(ope, truth)] if table is not None]
    refusals = refusal_words(ope)
    if refusals:
        blocks += [Paragraph(text="What the log cannot tell, and why:"), Bullets(items=refusals)]
    if ope.notes:
        blocks.append(Bullets(items=tuple(f"{note[0].upper()}{note[1:]}." for note in ope.notes)))
    return blocks


def estimates_table(ope: "OpeReport", truth: Truth | None, quantity: str) -> Table:
    """Every policy's estimate of a quantity, with its interval, beside its closed-loop mean, with its own.

    Args:
        ope: Estimates from a log.
        truth: What the policies did when they were run; None if none of them was.
        quantity: "return", "utility" (shown as score) or "cost_usd".
    """
    rows = {} if truth is None else truth.rows
    title = SELECTION_TITLES[quantity]
    unit = {"utility": "score, points", "cost_usd": "cost per episode, USD"}.get(quantity, title)
    return Table(
        caption=f"{unit[0].upper()}{unit[1:]}: estimated from the log (by the headline estimator) beside the "
        "closed-loop mean, both with 95% intervals. Held: whether the interval of the estimate holds the closed-loop "
        "mean. (1) trained on this very log. (2) with estimated propensities.",
        header=("policy", "by", f"{title}: log", f"{title}: run", "log - run", "held"),
        rows=tuple(
            _cells(one, rows.get(one.policy), quantity=quantity, propensities=ope.propensities) for one in ope.policies
        ),
    )


def selection_table(ope: "OpeReport", truth: Truth) -> Table | None:
    """How good a choice by the estimates would have been; None if no policy has both an estimate and a run."""
    from mtrouter_rl.ope.record import selection_by_quantity

    found = selection_by_quantity(ope.policies, truth.means())
    if not found:
        return None
    return Table(
        caption="Choosing by the estimates, judged by the closed-loop means of "
        f"{next(iter(found.values()))['n_policies']} policies (themselves uncertain). Regret@k: what the best of the "
        "k policies estimated highest earns less than the best of all, in units of the quantity and as a share of "
        "its range.",
        header=("quantity", "rank correlation", "regret@1", "regret@3", "intervals that hold the run", "mean error"),
        rows=tuple(
            (title, *_selection_cells(found[quantity], quantity)) for quantity, title in SELECTION_TITLES.items()
        ),
    )


def refusal_words(ope: "OpeReport") -> tuple[str, ...]:
    """Every refusal with its reasons, a sentence each."""
    lines = []
    for one in ope.policies:
        if one.headline is None:
            reasons = dict.fromkeys(reason for many in one.refusals.values() for reason in many)
            lines.append(
                f"`{one.policy}`: **this log cannot tell**; {'; '.join(reasons) or 'no estimator was asked for'}."
            )
        else:
            lines += [
                f"`{one.policy}`: {_FAMILIES.get(family, family)} are not believed; {'; '.join(reasons)}."
                for family, reasons in one.refusals.items()
                if reasons
            ]
    return tuple(lines)


_FAMILIES = {"weighting": "weighting estimators", "fitted": "fitted values"}


def _about(ope: "OpeReport", truth: Truth | None) -> str:
    kinds = {
        "exact": "the log holds exact propensities",
        "estimated": "**the propensities are estimated**: a classifier stands for the behaviour policy",
        "unknown": "the log has no propensities, so no estimator that weighs choices was used",
    }
    words = (
        f"`mtrouter-rl ope` estimated {len(ope.policies)} policies from `{ope.dataset_id}` ({ope.split} split, "
        f"{ope.n_episodes} episodes, {ope.n_turns} turns, logged by {ope.behavior_policy}); {kinds[ope.propensities]}."
    )
    if truth is None:
        return words
    if truth.split == ope.split:
        return f"{words} They are compared with runs of the same split."
    return (
        f"{words} They are compared with runs of the {truth.split} split: other episodes than those of the log, so a "
        "gap between the two is not error of the estimate alone."
    )


def _pictures(ope: "OpeReport", results: Results, truth: Truth, *, plots: Path) -> list[Block]:
    from mtrouter_rl.reporting.ope_plots import QUANTITIES, ope_figure

    pictures: list[Block] = []
    plots.mkdir(parents=True, exist_ok=True)
    for quantity in reversed(QUANTITIES):
        figure = ope_figure(ope, results, truth.split, quantity)
        if figure is None:
            continue
        path = plots / f"ope_{quantity}_{truth.split}.png"
        figure.savefig(path, dpi=DPI)
        words = (
            f"Estimate of the {SELECTION_TITLES.get(quantity, quantity)} from the log against its closed-loop mean "
            f"({truth.split} split), with 95% intervals; on the dashed line both agree"
        )
        pictures.append(Picture(path=path, text=words))
    return pictures


_FIELDS = {
    "return": ("return_mean", "return_ci95"),
    "utility": ("score_mean", "score_ci95"),
    "cost_usd": ("cost_usd_mean", "cost_usd_ci95"),
}


def _cells(one: "PolicyReport", row: ResultRow | None, *, quantity: str, propensities: str) -> tuple[str, ...]:
    name = f"{one.policy}{' (1)' if one.is_trained_on_log else ''}"
    mean, ends = (None, None) if row is None else (getattr(row, field) for field in _FIELDS[quantity])
    run = _quantity_text(quantity, mean, ends)
    if one.headline is None:
        return (name, "log cannot tell", ABSENT, run, ABSENT, ABSENT)
    by = one.headline.upper() + (" (2)" if propensities == "estimated" and one.headline != _UNIT_FREE else "")
    scale = SCORE_PER_UTILITY if quantity == "utility" else 1.0
    number = one.estimates[one.headline][quantity]
    value, low, high = (scale * part for part in (number.value, number.low, number.high))
    log = _quantity_text(quantity, value, (low, high))
    if mean is None:
        return (name, by, log, run, ABSENT, ABSENT)
    return (name, by, log, run, _gap_text(quantity, value - mean), "yes" if low <= mean <= high else "no")


def _quantity_text(quantity: str, mean: float | None, ends: tuple[float, float] | None) -> str:
    if mean is None:
        return ABSENT
    if quantity == "cost_usd":
        return format_usd_mean(mean, ends)
    return format_with_ends(mean, ends, decimals=1 if quantity == "utility" else 3)


def _gap_text(quantity: str, gap: float) -> str:
    if quantity == "cost_usd":
        return f"+{format_usd(gap)}" if gap > 0 else format_usd(gap)
    return format_number(gap, decimals=1 if quantity == "utility" else 3, sign=True)


def _selection_cells(found: Mapping[str, float | int | None], quantity: str) -> tuple[str, ...]:
    scale = SCORE_PER_UTILITY if quantity == "utility" else 1.0

    def number(name: str) -> float:
        return scale * float(found[name] or 0.0)

    regrets = [
        f"{_quantity_text(quantity, number(f'regret_at_{k}'), None).split(' ')[0]} "
        f"({format_percent(found[f'regret_share_at_{k}'])})"
        for k in (1, 3)
    ]
    coverage = found["coverage"]
    return (
        format_number(found["rank_correlation"], decimals=2),
        *regrets,
        ABSENT if coverage is None else f"{coverage:.0%}",
        _gap_text(quantity, number("error_mean")),
    )


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
