"""The page about several runs: what they found, what differs, and their numbers side by side where they may be compared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mtrouter_rl.files import slug
from mtrouter_rl.reporting.compare import (
    comparable_groups,
    difference_table,
    difference_words,
    field_table,
    setting_table,
    side_by_side,
)
from mtrouter_rl.reporting.document import Block, Bullets, Contents, Heading, Paragraph, Picture
from mtrouter_rl.reporting.ope_section import ope_blocks
from mtrouter_rl.reporting.plot_style import DPI
from mtrouter_rl.reporting.report_sections import (
    SIMULATED_NOTE,
    SPLIT_NAMES,
    behavior_blocks,
    difference_blocks,
    provenance_blocks,
    result_blocks,
    usage_blocks,
    warnings,
)
from mtrouter_rl.reporting.reported_run import ReportedRun
from mtrouter_rl.reporting.verdict import enumerate_words, short_verdict


def comparison_blocks(
    runs: Sequence[ReportedRun], *, title: str, plots: Mapping[str, Path], scratch: Path
) -> list[Block]:
    """The whole page.

    Args:
        runs: At least two, with different names.
        title: Title of the page.
        plots: Run -> folder of its figures.
        scratch: Folder for figures that show several runs.
    """
    blocks: list[Block] = [
        Heading(text=title, level=1),
        Bullets(items=tuple(_finding(run) for run in runs)),
        *(Paragraph(text=words) for words in difference_words(runs)),
    ]
    simulated = [run.name for run in runs if run.results.is_simulated]
    if simulated:
        whose = "" if len(simulated) == len(runs) else f" This concerns {enumerate_words(simulated)}."
        blocks.append(Paragraph(text=SIMULATED_NOTE + whose, is_note=True))
    for text, names in _warnings(runs).items():
        blocks.append(Paragraph(text=f"{enumerate_words(names)}: {text}", is_note=True))
    blocks.append(Contents())
    table = difference_table(runs)
    if table is not None:
        blocks += [Heading(text="What differs between the runs"), table]
    blocks += _results(runs, plots=plots, scratch=scratch)
    blocks += _by_field(runs)
    blocks += _per_run("Differences to baselines", runs, lambda run: _splits(run, _differences(plots)))
    blocks += _per_run("By cost weight and budget", runs, _settings)
    blocks += _per_run("Which model is called", runs, lambda run: _splits(run, _usage(plots)))
    blocks += _per_run("Behaviour", runs, lambda run: _splits(run, _behavior(plots)), missing="behavior.json")
    blocks += _per_run("Estimates from a log against runs", runs, _estimates(plots), missing="ope/ope.json")
    return blocks + _per_run("Where the numbers come from", runs, provenance_blocks)


def _warnings(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """What a reader must know, with the runs that it is about."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for words in warnings(run.results):
            found.setdefault(words, []).append(run.name)
    return found


def _finding(run: ReportedRun) -> str:
    return f"`{run.name}`: {' '.join(short_verdict(run.results, split) for split in run.splits)}"


def _results(runs: Sequence[ReportedRun], *, plots: Mapping[str, Path], scratch: Path) -> list[Block]:
    """Results by split: comparable runs side by side, others in tables of their own."""
    from mtrouter_rl.reporting.compare_plots import frontier_figure

    blocks: list[Block] = []
    groups = comparable_groups(runs)
    for split in dict.fromkeys(split for run in runs for split in run.splits):
        blocks.append(Heading(text=f"Results: {SPLIT_NAMES.get(split, split)}"))
        for number, group in enumerate(groups):
            members = [run for run in group if split in run.splits]
            if not members:
                continue
            names = enumerate_words([run.name for run in members])
            if len(groups) > 1:
                blocks.append(Heading(text=f"{names}, {split}", level=3))
            if len(members) == 1:
                blocks += result_blocks(members[0].results, split, plots=plots[members[0].name])[:2]
                continue
            path = scratch / f"frontier_{slug(split)}_{number}.png"
            frontier_figure({run.name: run.results for run in members}, split).savefig(path, dpi=DPI)
            text = (
                f"Score against cost per episode of {names}, {split} split, with 95% intervals; a marker shape per run"
            )
            blocks += [side_by_side(members, split), Picture(path=path, text=text)]
    return blocks


def _by_field(runs: Sequence[ReportedRun]) -> list[Block]:
    """Learned routers by the one field in which the runs differ."""
    splits = dict.fromkeys(split for run in runs for split in run.splits)
    found = [pair for split in splits if (pair := field_table(runs, split)) is not None]
    return [Heading(text=f"By {found[0][0]}"), *(table for _, table in found)] if found else []


def _per_run(
    title: str,
    runs: Sequence[ReportedRun],
    of: Callable[[ReportedRun], list[Block]],
    *,
    missing: str | None = None,
) -> list[Block]:
    """A section with a heading for every run that has anything of it; those that lack the file are named."""
    found = {run.name: blocks for run in runs if (blocks := of(run))}
    if not found:
        return []
    section: list[Block] = [Heading(text=title)]
    lacking = [run.name for run in runs if run.name not in found]
    if missing is not None and lacking:
        section.append(Paragraph(text=f"There is no `{missing}` in {enumerate_words(lacking)}."))
    for name, blocks in found.items():
        section += [Heading(text=f"{title}: {name}", level=3), *blocks]
    return section


def _splits(run: ReportedRun, of: Callable[[ReportedRun, str], list[Block]]) -> list[Block]:
    return [block for split in run.splits for block in of(run, split)]


def _settings(run: ReportedRun) -> list[Block]:
    return [table for split in run.splits if (table := setting_table(run, split)) is not None]


def _differences(plots: Mapping[str, Path]) -> Callable[[ReportedRun, str], list[Block]]:
    return lambda run, split: difference_blocks(run.results, split, plots=plots[run.name])


def _usage(plots: Mapping[str, Path]) -> Callable[[ReportedRun, str], list[Block]]:
    return lambda run, split: usage_blocks(run.results, split, plots=plots[run.name], is_short=True)


def _behavior(plots: Mapping[str, Path]) -> Callable[[ReportedRun, str], list[Block]]:
    return lambda run, split: behavior_blocks(run, split, plots=plots[run.name])


def _estimates(plots: Mapping[str, Path]) -> Callable[[ReportedRun], list[Block]]:
    return lambda run: [] if run.ope is None else ope_blocks(run.ope, run.results, plots=plots[run.name])
