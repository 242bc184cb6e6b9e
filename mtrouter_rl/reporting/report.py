"""The report of a run, or of several: verdict, tables, figures and provenance, as one page that needs nothing else."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.shown_episodes import Transcripts
from mtrouter_rl.reporting.compare import setting_table
from mtrouter_rl.reporting.comparison_report import comparison_blocks
from mtrouter_rl.reporting.document import (
    Block,
    Code,
    Contents,
    Heading,
    Interactive,
    Paragraph,
    render_html,
    render_markdown,
)
from mtrouter_rl.reporting.interactive import frontier_html, viewer_html
from mtrouter_rl.reporting.log_pages import log_page
from mtrouter_rl.reporting.ope_section import ope_blocks
from mtrouter_rl.reporting.plots import save_plots
from mtrouter_rl.reporting.report_sections import (
    SIMULATED_NOTE,
    SPLIT_NAMES,
    behavior_blocks,
    provenance_blocks,
    result_blocks,
    usage_blocks,
    warnings,
)
from mtrouter_rl.reporting.reported_run import PLOTS_FOLDER, ReportedRun, load_runs
from mtrouter_rl.reporting.verdict import verdict


def write_report(run_folder: Path, *, draws_plots: bool = True) -> Path:
    """Write `report.md` and `report.html` into the folder of a run.

    Everything is drawn from `results.json`, and from `behavior.json` and `ope/ope.json` where they are. Figures that need
    episodes (model share by turn) are taken from `plots/` if the evaluation left them there.

    Args:
        run_folder: Holds `results.json`; the figures are written into its `plots/`.
        draws_plots: Whether to draw the figures of the results; False takes those that lie there already.

    Returns:
        The HTML page, which needs no other file.

    Raises:
        ResultsError: If the results file is missing, or it or the behaviour file breaks its schema.
        InvalidConfigError: If `ope/ope.json` cannot be read.
    """
    (run,) = load_runs([run_folder])
    plots = run_folder / PLOTS_FOLDER
    if draws_plots:
        save_plots(run.results, {}, plots)
    title = _title(run)
    blocks = [*_blocks(run, plots=plots), *_tensorboard_blocks(), *_provenance(run)]
    (run_folder / "report.md").write_text(render_markdown(blocks, folder=run_folder), encoding="utf-8")
    page = run_folder / "report.html"
    page.write_text(render_html(blocks, title=title), encoding="utf-8")
    return page


def write_log_page(folder: Path, out: Path | None = None) -> Path | None:
    """Write the page about estimates from a log, a log, or a saved router.

    Args:
        folder: Holds `ope.json`, `info.json` or `router.json`.
        out: The page; None writes `report.html` into the folder.

    Returns:
        The page; None if the folder holds none of these.

    Raises:
        MTRouterError: If a file breaks its schema, or the page cannot be written where it is asked for.
    """
    found = log_page(folder)
    if found is None:
        return None
    title, blocks = found
    page = out or folder / "report.html"
    _check_page(page)
    page.write_text(render_html(blocks, title=title), encoding="utf-8")
    return page


def _check_page(out: Path) -> None:
    if out.is_dir():
        raise ResultsError(
            f"--out {out} is a folder, must be the file to write; give a name such as {out / 'report.html'}"
        )
    if not out.parent.is_dir():
        raise ResultsError(f"--out {out}: there is no folder {out.parent}; make it, or write the page elsewhere")


def write_page(run_folders: Sequence[Path], out: Path) -> Path:
    """Write one self-contained page about one run or several; the folders of the runs are left as they are.

    Args:
        run_folders: Each holds a `results.json`.
        out: The HTML file; replaced if it is there.

    Returns:
        The page.

    Raises:
        ResultsError: If the folder of `out` is missing or `out` is a folder, a run is given twice, a results file is missing
            or a file breaks its schema.
        InvalidConfigError: If an `ope/ope.json` cannot be read.
    """
    _check_page(out)
    runs = load_runs(run_folders)
    with tempfile.TemporaryDirectory() as scratch:
        plots = {run.name: _draw(run, Path(scratch) / str(number)) for number, run in enumerate(runs)}
        if len(runs) == 1:
            title = _title(runs[0])
            blocks = [*_blocks(runs[0], plots=plots[runs[0].name]), *_provenance(runs[0])]
        else:
            title = f"{len(runs)} runs compared"
            blocks = comparison_blocks(runs, title=title, plots=plots, scratch=Path(scratch))
        out.write_text(render_html(blocks, title=title), encoding="utf-8")
    return out


_FRONTIER = "Score against cost per episode: point at a policy for its numbers. The box filters the tables as well."


def viewer_blocks(transcripts: Transcripts | None) -> list[Block]:
    """The episode viewer, if episodes were kept for it."""
    if transcripts is None or not transcripts.episodes:
        return []
    text = "A few episodes, turn by turn: who was called, what it cost, what the router valued, what was said."
    return [Heading(text="Episodes, turn by turn"), Interactive(markup=viewer_html(transcripts), text=text)]


def _title(run: ReportedRun) -> str:
    return f"{run.results.env}: routing policies compared"


def _draw(run: ReportedRun, plots: Path) -> Path:
    """Figures of the results, and those by turn that the evaluation left; returns their folder."""
    save_plots(run.results, {}, plots)
    for path in (run.folder / PLOTS_FOLDER).glob("model_share_by_turn_*.png"):
        shutil.copy(path, plots / path.name)
    return plots


def _blocks(run: ReportedRun, *, plots: Path) -> list[Block]:
    """Everything about one run but its provenance."""
    results = run.results
    blocks: list[Block] = [Heading(text=_title(run), level=1)]
    blocks += [Paragraph(text=verdict(results, split)) for split in run.splits]
    if results.is_simulated:
        blocks.append(Paragraph(text=SIMULATED_NOTE, is_note=True))
    blocks += [Paragraph(text=text, is_note=True) for text in warnings(results)]
    blocks.append(Contents())
    for split in run.splits:
        blocks.append(Heading(text=f"Results: {SPLIT_NAMES.get(split, split)}"))
        blocks.append(Interactive(markup=frontier_html(results, split), text=_FRONTIER, needs_plotly=True))
        blocks += result_blocks(results, split, plots=plots)
    settings = [table for split in run.splits if (table := setting_table(run, split)) is not None]
    if settings:
        blocks += [Heading(text="By cost weight and budget"), *settings]
    blocks += _by_split("Which model is called", run, lambda split: usage_blocks(results, split, plots=plots))
    blocks += _by_split("Behaviour", run, lambda split: behavior_blocks(run, split, plots=plots))
    blocks += viewer_blocks(run.transcripts)
    if run.ope is not None:
        blocks += [Heading(text="Estimates from a log against runs"), *ope_blocks(run.ope, results, plots=plots)]
    return blocks


def _by_split(title: str, run: ReportedRun, of: Callable[[str], list[Block]]) -> list[Block]:
    """A section with a heading for every split, where there are several and it holds anything."""
    found = {split: blocks for split in run.splits if (blocks := of(split))}
    if not found:
        return []
    section: list[Block] = [Heading(text=title)]
    for split, blocks in found.items():
        section += [Heading(text=f"{title}: {split}", level=3), *blocks] if len(found) > 1 else blocks
    return section


def _tensorboard_blocks() -> list[Block]:
    return [
        Heading(text="Look closer in TensorBoard"),
        Paragraph(
            text="One run per policy: scalars, model share by turn and task, transcripts with action values, the "
            "HParams page to sort policies, and model embeddings in the projector. In the folder of this report:"
        ),
        Code(text="tensorboard --logdir ."),
    ]


def _provenance(run: ReportedRun) -> list[Block]:
    return [Heading(text="Where the numbers come from"), *provenance_blocks(run)]
