"""`mtrouter-rl ope` with all estimators on a made-up log, from its folder to the report: time and memory of every stage.

The log is that of `large_log.py`, with the columns of ScienceWorld's (hashing encoder). Seconds are by the clock and of the
processor; networks are fitted side by side, so the second may be the larger one. The first run on a log writes its
features beside it, a second one finds them there.

    python scripts/bench/ope_command.py --turns 100000 --folder logs/made-up
    python scripts/bench/ope_command.py --turns 1000000 --folder logs/million --threads 2
"""

import argparse
import os
import time
from pathlib import Path

from large_log import write_log
from ope_speed import peak_gib

from mtrouter_rl.ope import run
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.inputs import OpeRequest, log_setting

STAGES = ("prepare", "turn_away_switching", "find_behavior", "fit_values", "play_model", "estimate_policies")


def timed(name):
    """The stage of that name, which prints what it took."""
    stage = getattr(run, name)

    def work(*arguments, **options):
        clock, cpu = time.perf_counter(), time.process_time()
        found = stage(*arguments, **options)
        print_row(name, time.perf_counter() - clock, time.process_time() - cpu)
        return found

    return work


def print_row(name, clock_s, cpu_s):
    print(f"| {name} | {clock_s:.1f} | {cpu_s:.1f} | {peak_gib():.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True, help="the log; made if it is not there")
    parser.add_argument("--routers", nargs="+", default=["random", "cheapest"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--iterations", type=int, default=FqeParameters().n_iterations)
    args = parser.parse_args()
    if not args.folder.exists():
        write_log(args.folder, args.turns)
    for name in STAGES:
        setattr(run, name, timed(name))
    pool, reward = log_setting(args.folder)
    request = OpeRequest(
        routers=tuple(args.routers),
        dataset=args.folder,
        pool=pool,
        reward=reward,
        encoder="hashing",
        n_threads=args.threads,
        fqe=FqeParameters(n_iterations=args.iterations),
    )
    print("| stage | s | CPU s | peak GiB |\n|---|---:|---:|---:|", flush=True)
    clock, cpu = time.perf_counter(), time.process_time()
    report = run.run_ope(request, say=lambda text: print(f"  {text}", flush=True))
    print_row(f"all, {report.n_turns} turns", time.perf_counter() - clock, time.process_time() - cpu)


if __name__ == "__main__":
    main()
