"""From a table of runs to a verdict: does routing, or restarting with another model, pay on your own evaluation set?

It makes up a table of 5 models that each ran 60 tasks, with the columns task, model, score, cost and turns, and studies it.
With a table of your own: mtrouter-rl lab replay OUTCOMES.csv. Run it with: python examples/study_my_suite.py
With --write FILE it writes the table and stops, so that the commands can be tried on it.
"""

import argparse
import csv
import random
import tempfile
from pathlib import Path

from mtrouter_rl.datasets.importers.suites.build import SuiteRequest
from mtrouter_rl.studies.replay.report import write_report
from mtrouter_rl.studies.replay.run import ReplayRequest, run_replay

MODELS = {
    "tiny": (0.25, 0.001),
    "small": (0.45, 0.002),
    "middle": (0.55, 0.006),
    "large": (0.7, 0.015),
    "giant": (0.8, 0.03),
}
"""Share of the tasks that a model solves, and USD of one of its turns."""


def my_runs(n_tasks: int) -> list[dict[str, object]]:
    """One row a run: the part that your own evaluation has done already. Here runs are drawn by chance."""
    rng = random.Random(0)
    rows: list[dict[str, object]] = []
    for number in range(n_tasks):
        luck = rng.gauss(0, 0.15)  # a hard task is hard for all
        for model, (strength, usd_per_turn) in MODELS.items():
            is_solved = rng.random() < strength + luck
            turns = rng.randint(4, 14) if is_solved else rng.randint(8, 30)
            cost = turns * usd_per_turn * rng.uniform(0.8, 1.2)
            task = f"{('billing', 'search', 'mobile')[number % 3]}-{number}"
            rows.append({"turns": turns, "model": model, "cost": f"{cost:.6f}", "task": task, "score": int(is_solved)})
    return rows


def write_table(path: Path, n_tasks: int) -> None:
    """Write the runs as a CSV file; the order of the columns does not matter."""
    rows = my_runs(n_tasks)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Make up the table, study it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there and stop")
    parser.add_argument("--tasks", type=int, default=60, metavar="N", help="number of tasks (default: 60)")
    arguments = parser.parse_args()
    if arguments.write:
        write_table(arguments.write, arguments.tasks)
        print(f"table: {arguments.write}")
        return
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "outcomes.csv", Path(folder) / "run"
        write_table(table, arguments.tasks)
        results = run_replay(ReplayRequest(suite=SuiteRequest(outcomes=table, name="my-suite"), out=out), say=print)
        page = write_report(results, out)
        print(f"report: {page.name}, {page.stat().st_size // 1024} kB")
    for sentence in results.answers:
        print(f"- {sentence}")


if __name__ == "__main__":
    main()
