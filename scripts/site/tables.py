"""Fills tables of README and docs from results files, so that no number of theirs is typed.

A table stands between two comments, `<!-- table: FILE SPLIT -->` and `<!-- end of table -->`; FILE is named from the root.
`<!-- differences: FILE SPLIT POLICY -->` gives the paired differences of one policy. `<!-- replay: FILE TABLE -->` gives
a table of a replay study, or its `answers`.
"""

import argparse
import re
import sys
from pathlib import Path

from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.reporting.tables import paired_table, results_table, to_markdown
from mtrouter_rl.studies.replay import report as replay
from mtrouter_rl.studies.replay.record import ReplayResults

ROOT = Path(__file__).resolve().parents[2]
_TABLE = re.compile(
    r"(<!-- (table|differences|replay): (\S+) (\w+)(?: (\S+))? -->\n).*?(<!-- end of table -->)", re.DOTALL
)


def pages() -> list[Path]:
    """Every page that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


REPLAY_TABLES = {
    "models": replay.models_table,
    "overlap": replay.overlap_table,
    "references": replay.references_table,
    "comparisons": replay.comparisons_table,
    "moves": replay.moves_table,
    "layouts": replay.layouts_table,
    "transfer": replay.transfer_table,
}


def replay_part(results: ReplayResults, name: str) -> str:
    """A table of a replay study in Markdown, or its answers as a list."""
    if name == "answers":
        return "\n" + "\n".join(f"- {answer}" for answer in results.answers) + "\n"
    return "\n".join(line for line in to_markdown(REPLAY_TABLES[name](results)).splitlines() if line.startswith("|"))


def filled(text: str) -> str:
    """The text with its tables drawn anew."""

    def draw(found: re.Match[str]) -> str:
        if found[2] == "replay":
            return found[1] + replay_part(ReplayResults.load(ROOT / found[3]), found[4]) + "\n" + found[6]
        results = Results.load(ROOT / found[3])
        drawn = results_table(results, found[4])
        if found[2] == "differences":
            drawn = paired_table(results, found[4]) or drawn
        rows = [line for line in to_markdown(drawn).splitlines() if line.startswith("|")]
        if found[5]:
            rows = [*rows[:2], *(row for row in rows[2:] if row.startswith(f"| {found[5]} - "))]
        return found[1] + "\n".join(rows) + "\n" + found[6]

    return _TABLE.sub(draw, text)


def main() -> int:
    """Fill, or with --check say which pages are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is stale")
    check = parser.parse_args().check
    stale = [page for page in pages() if filled(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'stale; run ./scripts/fill-tables' if check else 'filled'}")
        if not check:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
