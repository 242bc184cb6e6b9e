"""Speed and memory of `mtrouter-rl import balrog`.

Speed: all files are read and unpacked into memory first; timed is what is left, on one core: parsing, conversion, checking and
writing the dataset to a temporary folder. Printed in turns a second of the clock and of the processor (on a shared machine the
clock also counts what others do). Without --logs the script makes logs of its own in the benchmark's layout.

Memory: for every size a tar.gz of that many turns is made and imported by a process of its own, whose largest resident size is
printed; it should not grow with the number of turns.

    python scripts/bench/import_speed.py --logs ../shared/data/balrog --turns 50000 200000 1000000
"""

import argparse
import csv
import gzip
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath
from unittest import mock

import numpy as np

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.datasets.importers import balrog
from mtrouter_rl.datasets.importers.archives import LogFile, read_files
from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log

POOL = "balrog-assumed"
SUBMISSION = "20241103_Claude-3.5-Sonnet"
TURNS_PER_EPISODE = 72  # mean of the published logs, whose observations have about 250 characters
WORDS = ("wall", "door", "key", "ball", "box", "rule", "baba", "win", "stop", "left", "right", "step", "goal", "push")


def synthetic_files(n_turns, seed=0):
    """Names and bytes of made-up episodes, `n_turns` turns in all."""
    rng = np.random.default_rng(seed)
    n_left, run = n_turns, 0
    while n_left > 0:
        n = min(TURNS_PER_EPISODE, n_left)
        task = f"task_{run % 40}"
        name = f"{SUBMISSION}/babaisai/env/{task}/env/{task}_run_{run:06d}"
        words = rng.choice(WORDS, size=(n, 50))
        yield f"{name}.csv", _csv([" ".join(row) + ',\n"goal"' for row in words])
        yield f"{name}.json", json.dumps(_totals(task, n)).encode()
        n_left -= n
        run += 1


def _csv(observations):
    text = io.StringIO(newline="")
    rows = csv.writer(text, escapechar="\u02d8")
    rows.writerow(["Step", "Action", "Reasoning", "Observation", "Reward", "Done"])
    last = len(observations) - 1
    rows.writerows([i, "left", "", shown, 0.0, i == last] for i, shown in enumerate(observations))
    return text.getvalue().encode()


def _totals(task, n):
    return {
        "task": f"env/{task}",
        "action_frequency": {"left": n},
        "input_tokens": 3000 * n,
        "output_tokens": 9 * n,
        "done": True,
        "episode_return": 0.0,
        "num_steps": n,
        "failed_candidates": [],
        "progression": 0.5,
        "seed": 7,
        "agent": {"type": "naive", "max_history": 16},
        "client": {"model_id": "made-up"},
    }


def write_archive(path, n_turns):
    """Make a tar.gz of made-up episodes."""
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for name, data in synthetic_files(n_turns):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def load_files(logs, n_turns):
    """Every file of the logs, or of made-up ones, in memory."""
    if logs is None:
        return [LogFile(source=n, path=PurePosixPath(n), data=data) for n, data in synthetic_files(n_turns)]
    return list(read_files(logs, ImportReport(format="balrog"), suffixes=(".json", ".csv")))


def import_files(files, out):
    """Import files that are in memory; return the report, seconds of the clock and of the processor."""
    request = ImportRequest(format="balrog", paths=(out.parent,), pool=load_pool_card(POOL), out=out)
    with mock.patch.object(balrog, "read_files", return_value=iter(files)):
        start, start_cpu = time.perf_counter(), time.process_time()
        report = import_log(request, show_progress=False)
        return report, time.perf_counter() - start, time.process_time() - start_cpu


def print_speed(logs, repeats):
    """Time the import of files in memory."""
    files = load_files(logs, 100_000)
    n_bytes = sum(len(file.data) for file in files)
    print(f"speed: {len(files)} files, {n_bytes / 1e6:.0f} MB unpacked, from {logs or 'made-up logs'}")
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            report, clock_s, cpu_s = import_files(files, Path(folder) / "out")
        n = report.n_turns
        print(
            f"  {report.n_episodes} episodes, {n} turns, {report.n_rejected} left out: {clock_s:.2f} s, "
            f"{n / clock_s:.0f} turns/s of the clock, {n / cpu_s:.0f} turns/s of the processor"
        )


def print_memory(sizes):
    """Largest resident size of imports of growing logs, each in a process of its own."""
    print("memory: largest resident size of a whole import (tar.gz, read in place)")
    peaks = []
    for n_turns in sizes:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "logs.tar.gz"
            write_archive(archive, n_turns)
            command = [sys.executable, __file__, "--child", str(archive), str(Path(folder) / "out")]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before_mb, after_mb, n_imported = answer.split()[-3:]
        peaks.append(float(after_mb))
        print(f"  {n_imported} turns: {peaks[-1]:.0f} MiB ({float(before_mb):.0f} MiB before the import)", flush=True)
    print(f"  largest log against smallest: {sizes[-1] / sizes[0]:.0f} x turns, {peaks[-1] / peaks[0]:.2f} x memory")


def peak_mb():
    """Largest resident size of this process so far, MiB.

    Not `ru_maxrss` where Linux tells better: that is never below what the parent process had when it started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def child(archive, out):
    """Import one archive and print the peak before and after, MiB, and the number of turns."""
    request = ImportRequest(format="balrog", paths=(Path(archive),), pool=load_pool_card(POOL), out=Path(out))
    before_mb = peak_mb()
    report = import_log(request, show_progress=False)
    print(before_mb, peak_mb(), report.n_turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="folder of BALROG archives; made-up logs if it is left out")
    parser.add_argument("--repeats", type=int, default=3, help="how often the speed is measured")
    parser.add_argument(
        "--turns", type=int, nargs="*", default=[50_000, 200_000, 1_000_000], help="sizes for the memory"
    )
    parser.add_argument("--child", nargs=2, metavar=("ARCHIVE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    print_speed(args.logs, args.repeats)
    if args.turns:
        print_memory(sorted(args.turns))


if __name__ == "__main__":
    main()
