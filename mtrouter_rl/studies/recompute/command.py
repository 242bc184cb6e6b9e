"""`mtrouter-rl lab recompute`: are the numbers of a file those of its episodes?"""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, switch


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.errors import ResultsError
    from mtrouter_rl.studies.recompute.run import RecomputeRequest, recompute, report

    request = RecomputeRequest(files=tuple(args.files), episodes=args.episodes, keep=args.keep, is_written=args.write)
    found = recompute(request)
    output.show("\n".join(map(report, found)), found)
    wrong = [str(one.file) for one in found if not one.is_equal]
    if args.write:
        renewed = [one for one in found if one.changes]
        output.say(f"written anew: {', '.join(str(one.file) for one in renewed) or 'nothing'}")
        wrong = [str(one.file) for one in found if not one.n_numbers]
    if wrong:
        raise ResultsError(f"{', '.join(wrong)}: not the numbers that the episodes give; see above")


COMMAND = Command(
    name="recompute",
    summary="are the numbers of a results file those of its episodes?",
    description=(
        "Works out every mean, interval, paired difference and p-value of a results.json, an ablations.json or a claims.json "
        "again from the episodes that the run kept beside it (episodes.csv.gz, one line an episode), and says of every file "
        "whether it is equal to the last digit, which number differs by how much, and what cannot be recomputed and why. "
        "Without that file the whole episodes in the folder of the run are read. The exit code is 0 only if all is equal; "
        "differences of rounding, which come from another processor, count as equal and are said. --write renews the "
        "intervals of a file after a change of how they are made; it refuses where a mean differs."
    ),
    examples=("runs/mine/results.json",),
    options=(
        Option("files", "files of results", Path, "FILE", nargs="+"),
        Option(
            "--episodes", "their episodes: a file, or the folder of a run (default: beside each file)", Path, "PATH"
        ),
        Option("--keep", "write the episodes of the folder of a run to this file", Path, "FILE"),
        switch("--write", "write files anew whose intervals differ"),
    ),
    run=_run,
)
