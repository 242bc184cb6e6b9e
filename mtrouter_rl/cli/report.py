"""`mtrouter-rl report`: the page that people read, about one run or several."""

import argparse
from pathlib import Path

from mtrouter_rl.errors import InvalidConfigError, ResultsError
from mtrouter_rl.options import Command, Group, Output, shared


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.reporting.report import write_page, write_report
    from mtrouter_rl.reporting.reported_run import RESULTS_FILE, load_runs
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.reporting.verdict import short_verdict

    folders: list[Path] = args.run_folders
    if len(folders) == 1 and not (folders[0] / RESULTS_FILE).is_file():
        _report_log(folders[0], args.out, output)
        return
    if args.out is not None:
        page = write_page(folders, args.out)
    elif len(folders) == 1:
        page = write_report(folders[0])
    else:
        raise InvalidConfigError(
            f"{len(folders)} runs are given, but no file for the page that compares them; give --out report.html"
        )
    runs = load_runs(folders)
    verdicts = [{split: short_verdict(one.results, split) for split in one.splits} for one in runs]
    if len(runs) == 1:
        texts = [format_table(runs[0].results, split) for split in runs[0].splits]
    else:
        texts = [f"{run.name}: {text}" for run, told in zip(runs, verdicts, strict=True) for text in told.values()]
    shown = [
        {"name": run.name, "verdicts": told, "results": run.results} for run, told in zip(runs, verdicts, strict=True)
    ]
    output.show("".join(f"{text}\n\n" for text in texts) + f"report: {page}", {"report": page, "runs": shown})


def _report_log(folder: Path, out: Path | None, output: Output) -> None:
    """The page about a folder that is no run.

    Raises:
        ResultsError: If nothing that a page can be about lies there.
    """
    from mtrouter_rl.reporting.report import write_log_page

    page = write_log_page(folder, out)
    if page is None:
        raise ResultsError(
            f"{folder} holds no results.json, ope.json, router.json or info.json; give the folder of a study, an evaluation, "
            "estimates (ope --out), a router or a dataset"
        )
    output.show(f"report: {page}", {"report": page})


COMMAND = Command(
    name="report",
    group=Group.REPORT,
    summary="tables, plots and report of a run drawn anew; one page that compares several",
    description=(
        "One RUN without --out: writes report.md, report.html and plots/ into its folder. With several RUNs, or with --out: "
        "one self-contained page (no network, images inside), which puts side by side what may be compared and says what "
        "may not. A RUN may also be a folder of estimates (ope --out), a log or a router: its page says what it holds. "
        "See docs/read-the-report.md."
    ),
    examples=("runs/mine --out report.html", "runs/seed0 runs/seed1 --out report.html"),
    options=(
        shared.RUN_FOLDERS,
        shared.out("the page to write; needed for several runs", metavar="FILE", required=False),
    ),
    run=_run,
)
