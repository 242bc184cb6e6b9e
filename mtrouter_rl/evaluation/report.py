"""The report of a run: a verdict in words, tables, figures and provenance, as Markdown and as one HTML page."""

import json
from pathlib import Path

from mtrouter_rl.evaluation.document import Block, Code, Heading, Paragraph, Picture, render_html, render_markdown
from mtrouter_rl.evaluation.plots import save_plots
from mtrouter_rl.evaluation.results import ResultRow, Results
from mtrouter_rl.evaluation.tables import (
    Table,
    format_number,
    format_percent,
    format_usd,
    paired_table,
    results_table,
    verdict_word,
)

RESULTS_FILE = "results.json"
PLOTS_FOLDER = "plots"
_SPLIT_ORDER = ("test", "ood")
_SPLIT_NAMES = {"test": "test (tasks of the training kinds)", "ood": "ood (held-out kinds of task)"}
_FIGURE_TEXTS = {
    "cost_score": "Score against cost per episode, with 95% intervals; dashed: upper hull of the single models",
    "paired_difference": "Return of the learned router minus each baseline's on the same episodes, with 95% intervals",
    "model_share_by_turn": "Share of each model at each turn, among the episodes still running",
    "model_share_by_task": "Share of each model by task, with the mean score of the task",
    "model_share": "Share of turns for which each model is called",
}
"""Start of a figure's file name -> what it shows; the order is that of the report, and longer starts come first."""


def write_report(run_folder: Path, *, draws_plots: bool = True) -> Path:
    """Write `report.md` and `report.html` into the folder of a run.

    Everything is drawn from `results.json`. Figures that need episodes (model share by turn) are taken from `plots/` if
    the evaluation left them there.

    Args:
        run_folder: Holds `results.json`; the figures are written into its `plots/`.
        draws_plots: Whether to draw the figures; False takes those that lie there already.

    Returns:
        The HTML page, which needs no other file.

    Raises:
        ResultsError: If the results file is missing or breaks its schema.
    """
    results = Results.load(run_folder / RESULTS_FILE)
    plots = run_folder / PLOTS_FOLDER
    if draws_plots:
        save_plots(results, {}, plots)
    title = f"{results.env}: routing policies compared"
    blocks = _blocks(results, title=title, plots=plots)
    (run_folder / "report.md").write_text(render_markdown(blocks, folder=run_folder), encoding="utf-8")
    page = run_folder / "report.html"
    page.write_text(render_html(blocks, title=title), encoding="utf-8")
    return page


def verdict(results: Results, split: str) -> str:
    """One or two sentences on a learned router on a split, from the numbers alone.

    It is the router that was named first when the run was started: choosing the best one by the numbers that are then
    reported would flatter it.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = results.split_rows(split)
    by_name = {row.policy: row for row in reversed(rows)}
    learned = next((by_name[name] for name in results.roles.learned if name in by_name), None)
    if learned is None:
        best = rows[0]
        return f"On {split}, no learned router was run; `{best.label}` has the best return ({best.return_mean:.3f})."
    return f"On {split}, {_against_strongest(learned, results)}. {_against_baselines(learned)}".strip()


def _against_strongest(row: ResultRow, results: Results) -> str:
    score = format_number(row.score_mean, decimals=1)
    own = f"`{row.label}` scores **{score}** at {format_usd(row.cost_usd_mean)} USD per episode"
    strongest = results.row(results.roles.strongest, row.split) if results.roles.strongest else None
    if strongest is None or row.cost_saved_share is None:
        return f"{own} (the strongest single model was not run)"
    saved = row.cost_saved_share
    words = (
        f"saves **{format_percent(saved)}** of its cost" if saved >= 0 else f"costs **{format_percent(-saved)}** more"
    )
    reference = format_number(strongest.score_mean, decimals=1)
    return f"{own}, against {reference} of the strongest single model (`{strongest.label}`), and {words}"


def _against_baselines(row: ResultRow) -> str:
    """Which baselines it beats in return, which not, and from which it cannot be told apart."""
    groups: dict[str, list[str]] = {}
    for baseline, difference in row.paired.items():
        groups.setdefault(verdict_word(difference.return_), []).append(f"`{baseline}`")
    if not groups:
        return ""
    phrases = {
        "higher": "higher than that of {names}",
        "not distinguishable": "not distinguishable from that of {names}",
        "lower": "lower than that of {names}",
    }
    parts = [phrases[word].format(names=_enumerate(groups[word])) for word in phrases if word in groups]
    return f"By paired 95% intervals, its return (utility minus weighted cost) is {'; '.join(parts)}."


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _blocks(results: Results, *, title: str, plots: Path) -> list[Block]:
    splits = [split for split in _SPLIT_ORDER if split in results.splits]
    splits += [split for split in results.splits if split not in _SPLIT_ORDER]
    blocks: list[Block] = [Heading(text=title, level=1)]
    blocks += [Paragraph(text=verdict(results, split)) for split in splits]
    if results.is_simulated:
        blocks.append(Paragraph(text=_SIMULATED_NOTE, is_note=True))
    blocks += [Paragraph(text=text, is_note=True) for text in _warnings(results)]
    for split in splits:
        blocks.append(Heading(text=f"Results: {_SPLIT_NAMES.get(split, split)}"))
        tables: list[Table | None] = [results_table(results, split), paired_table(results, split)]
        blocks += [table for table in tables if table is not None]
        blocks += _pictures(plots, split)
    return [*blocks, *_tensorboard_blocks(), *_provenance_blocks(results)]


_SIMULATED_NOTE = (
    "**The models are simulated.** The environment ran every action, but no LLM was called: each model's success, "
    "errors and output length are drawn from the numbers of the pool card. These results compare routing policies "
    "under that simulation; they say nothing new about the real models of the same names."
)


def _warnings(results: Results) -> list[str]:
    """What a reader must know before believing the tables."""
    n_failed = sum(row.n_failed for row in results.rows)
    n_over = sum(row.budget_violations for row in results.rows)
    notes = [] if results.estimator is None else [f"**Nothing was run:** the numbers are {results.estimator}."]
    notes += results.notes
    if n_failed:
        notes.append(f"{n_failed} episode(s) broke for outside reasons; they are counted here and not scored.")
    if n_over:
        notes.append(f"{n_over} episode(s) spent more than their budget, which should never happen.")
    return notes


def _pictures(plots: Path, split: str) -> list[Block]:
    """Figures of a split, each file once, in the order of `_FIGURE_TEXTS`."""
    found: dict[Path, Block] = {}
    for start, text in _FIGURE_TEXTS.items():
        for path in sorted(plots.glob(f"{start}_{split}*.png")):
            policy = path.stem.removeprefix(f"{start}_{split}").lstrip("_")
            found[path] = Picture(path=path, text=f"{text} ({f'{policy}, ' if policy else ''}{split} split)")
    return list(found.values())


def _tensorboard_blocks() -> list[Block]:
    return [
        Heading(text="Look closer in TensorBoard"),
        Paragraph(
            text="One run per policy: scalars, model share by turn and task, transcripts with action values, the "
            "HParams page to sort policies, and model embeddings in the projector. In the folder of this report:"
        ),
        Code(text="tensorboard --logdir ."),
    ]


def _provenance_blocks(results: Results) -> list[Block]:
    facts = (
        ("environment", results.env),
        ("pool", f"{results.pool} ({'simulated' if results.is_simulated else 'real'} models)"),
        ("models", ", ".join(results.model_names)),
        ("reward", f"utility - {results.cost_weight:g} x cost / {results.cost_unit_usd:g} USD"),
        ("training dataset", results.dataset_id or "none"),
        ("seed", str(results.seed)),
        ("seeds per variation", str(results.n_seeds)),
        ("mtrouter_rl", results.package_version),
    )
    return [
        Heading(text="Where the numbers come from"),
        Table(caption="Provenance of this run.", header=("field", "value"), rows=facts),
        Paragraph(text="Resolved configuration:"),
        Code(text=json.dumps(results.config, indent=2, sort_keys=True)),
    ]
