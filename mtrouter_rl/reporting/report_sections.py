"""Sections of the report that concern one run: results, usage, behaviour, estimates from a log, provenance."""

import json
from collections.abc import Sequence
from pathlib import Path

from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.files import slug
from mtrouter_rl.reporting.behavior_section import behavior_mismatch, behavior_tables, is_mixing
from mtrouter_rl.reporting.document import Block, Code, Paragraph, Picture
from mtrouter_rl.reporting.plot_style import DPI
from mtrouter_rl.reporting.reported_run import ReportedRun
from mtrouter_rl.reporting.tables import Table, paired_table, results_table
from mtrouter_rl.reporting.verdict import first_learned

SPLIT_NAMES = {"test": "test (tasks of the training kinds)", "ood": "ood (held-out kinds of task)"}
FEW_CLUSTERS = 10
"""With fewer (task, variation) pairs than this the page warns that intervals may be too narrow."""
SIMULATED_NOTE = (
    "**The models are simulated.** The environment ran every action, but no LLM was called: each model's success, "
    "errors and output length are drawn from the numbers of the pool card. These results compare routing policies "
    "under that simulation; they say nothing new about the real models of the same names."
)
_RESULT_FIGURES = {
    "cost_score": "Score against cost per episode, with 95% intervals; dashed: upper hull of the single models",
    "paired_difference": "Return of the learned router minus each baseline's on the same episodes, with 95% intervals",
}
_USAGE_FIGURES = {
    "model_share_by_turn": "Share of each model at each turn, among the episodes still running",
    "model_share_by_task": "Share of each model by task, with the mean score of the task",
    "model_share": "Share of turns for which each model is called",
}
"""Start of a figure's file name -> what it shows; longer starts come first, so that none is taken for a shorter one."""


def result_blocks(results: Results, split: str, *, plots: Path) -> list[Block]:
    """Table, frontier, and paired differences of a split."""
    found = _pictures(plots, split, texts=_RESULT_FIGURES)
    blocks: list[Block] = [results_table(results, split), *found["cost_score"]]
    return [*blocks, *difference_blocks(results, split, plots=plots)]


def difference_blocks(results: Results, split: str, *, plots: Path) -> list[Block]:
    """Paired differences of a split, as a table and as a figure; none without a learned router and a baseline."""
    table = paired_table(results, split)
    found = _pictures(plots, split, texts=_RESULT_FIGURES)["paired_difference"]
    return [] if table is None else [table, *found]


def usage_blocks(results: Results, split: str, *, plots: Path, is_short: bool = False) -> list[Block]:
    """Which model is called: by policy, by turn and by task.

    Args:
        results: The results.
        split: Which split.
        plots: Folder that holds the figures; those by turn are there only if an evaluation left them.
        is_short: Whether only the learned router that was named first is shown by turn and task.
    """
    found = _pictures(plots, split, texts=_USAGE_FIGURES)
    first = first_learned(results, split)
    endings = None if not is_short or first is None else (f"_{slug(first.label)}", f"_{slug(first.policy)}")
    by_router = [*found["model_share_by_turn"], *found["model_share_by_task"]]
    return [
        *found["model_share"],
        *(one for one in by_router if endings is None or one.path.stem.endswith(endings)),
    ]


def behavior_blocks(run: ReportedRun, split: str, *, plots: Path) -> list[Block]:
    """Tables and figures of `behavior.json` on a split."""
    from mtrouter_rl.reporting.behavior_plots import (
        budget_use_figure,
        cost_share_figure,
        error_spread_figure,
        has_error_edges,
        switch_matrix_figure,
    )

    if run.behavior is None:
        return []
    mismatch = behavior_mismatch(run.behavior, run.results)
    if mismatch is not None:
        words = f"There is a `behavior.json`, but it is of another run: {mismatch}; it is not shown."
        return [Paragraph(text=words, is_note=True)] if split == run.splits[0] else []
    rows = run.behavior.split_rows(split)
    mixing = [row for row in rows if is_mixing(row)]
    blocks: list[Block] = [*behavior_tables(run.behavior, split)]
    plots.mkdir(parents=True, exist_ok=True)
    if any(row.cost_share for row in mixing):
        path = plots / f"cost_share_{split}.png"
        cost_share_figure(mixing, run.behavior.model_names, split=split).savefig(path, dpi=DPI)
        blocks.append(Picture(path=path, text=f"Share of all money that each model's calls cost, {split} split"))
    spreading = [row for row in mixing if has_error_edges(row.spread)]
    if spreading:
        path = plots / f"error_spread_{split}.png"
        error_spread_figure(spreading, run.behavior.model_names, split=split).savefig(path, dpi=DPI)
        text = f"How often a turn is an error, by what it comes from, {split} split; bars are 95% intervals"
        blocks.append(Picture(path=path, text=text))
    first = first_learned(run.results, split)
    router = None if first is None else run.behavior.row(first.policy, split)
    if router is not None and router.n_turns:
        path = plots / f"switch_matrix_{split}.png"
        title = f"{router.policy}, {split} split: which model follows which"
        switch_matrix_figure(router.switch_matrix, run.behavior.model_names, title=title).savefig(path, dpi=DPI)
        blocks.append(Picture(path=path, text=f"Which model follows which: {router.policy}, {split} split"))
    if any(row.budget_use_by_turn for row in rows):
        path = plots / f"budget_use_{split}.png"
        budget_use_figure(rows, split=split).savefig(path, dpi=DPI)
        text = f"Mean share of the budget spent by each turn, {split} split; an episode that ended keeps its last value"
        blocks.append(Picture(path=path, text=text))
    return blocks


def warnings(results: Results) -> list[str]:
    """What a reader must know before believing the tables."""
    n_failed = sum(row.n_failed for row in results.rows)
    n_over = sum(row.budget_violations for row in results.rows)
    notes = [] if results.estimator is None else [f"**Nothing was run:** the numbers are {results.estimator}."]
    notes += results.notes
    notes += [text for split in results.splits if (text := _few_clusters(results, split)) is not None]
    if n_failed:
        notes.append(f"{n_failed} episode(s) broke for outside reasons; they are counted here and not scored.")
    if n_over:
        notes.append(f"{n_over} episode(s) spent more than their budget, which should never happen.")
    return notes


def _few_clusters(results: Results, split: str) -> str | None:
    counts = [one.return_.n_clusters for row in results.split_rows(split) for one in row.paired.values()]
    if not counts or min(counts) >= FEW_CLUSTERS:
        return None
    return (
        f"On {split}, intervals rest on {min(counts)} (task, variation) pairs: of so few they may hold the truth in less "
        "than 95% of cases, and what they call higher or lower may be chance. "
        f"No p-value of this split is below {2.0 ** (1 - min(counts)):.2g}."
    )


def provenance_blocks(run: ReportedRun) -> list[Block]:
    """What made the numbers: cards, models, reward, dataset, seeds, version, resolved configuration."""
    results = run.results
    facts = (
        ("environment", results.env),
        ("pool", f"{results.pool} ({'simulated' if results.is_simulated else 'real'} models)"),
        ("models", ", ".join(results.model_names)),
        ("reward", f"utility - {results.cost_weight:g} x cost / {results.cost_unit_usd:g} USD"),
        ("training dataset", results.dataset_id or "none"),
        ("seed", str(results.seed)),
        ("seeds per variation", str(results.n_seeds)),
        ("mtrouter_rl", results.package_version),
        *_other_versions(run),
    )
    return [
        Table(caption="Provenance of this run.", header=("field", "value"), rows=facts, is_prose=True),
        Paragraph(text="Resolved configuration:"),
        Code(text=json.dumps(results.config, indent=2, sort_keys=True)),
    ]


def _other_versions(run: ReportedRun) -> list[tuple[str, str]]:
    if run.ope is None:
        return []
    return [
        ("estimates from a log", f"{run.ope.dataset_id}, seed {run.ope.seed}, mtrouter_rl {run.ope.package_version}")
    ]


def _pictures(plots: Path, split: str, *, texts: dict[str, str]) -> dict[str, Sequence[Picture]]:
    """Figures of a split by the start of their file name, each file once."""
    seen: set[Path] = set()
    found: dict[str, Sequence[Picture]] = {}
    for start, text in texts.items():
        paths = [path for path in sorted(plots.glob(f"{start}_{split}*.png")) if path not in seen]
        seen.update(paths)
        found[start] = [
            Picture(path=path, text=f"{text} ({_of(path, f'{start}_{split}')}{split} split)") for path in paths
        ]
    return found


def _of(path: Path, start: str) -> str:
    policy = path.stem.removeprefix(start).lstrip("_")
    return f"{policy}, " if policy else ""
