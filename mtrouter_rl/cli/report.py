"""`mtrouter-rl report`: the page that people read, about one run or several."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="tables, plots and report of a run drawn anew; one page that compares several runs",
        description=(
            "One RUN without --out: writes report.md, report.html and plots/ into its folder. With several RUNs, or with\n"
            "--out: one self-contained page (no network, images inside), which puts side by side what may be compared and\n"
            "says what may not. See docs/read-the-report.md.\n\n"
            "example: mtrouter-rl report runs/seed0 runs/seed1 --out report.html"
        ),
    )
    parser.add_argument(
        "run_folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of an evaluation or a study (holds results.json)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page to write; needed for several runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.reporting.report import write_page, write_report
    from mtrouter_rl.reporting.reported_run import load_runs
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.reporting.verdict import short_verdict

    folders: list[Path] = args.run_folders
    if args.out is not None:
        page = write_page(folders, args.out)
    elif len(folders) == 1:
        page = write_report(folders[0])
    else:
        raise InvalidConfigError(
            f"{len(folders)} runs are given, but no file for the page that compares them; give --out report.html"
        )
    runs = load_runs(folders)
    for one in runs:
        for split in one.splits:
            text = (
                f"{one.name}: {short_verdict(one.results, split)}"
                if len(runs) > 1
                else format_table(one.results, split)
            )
            print(f"{text}\n")
    print(f"report: {page}")
