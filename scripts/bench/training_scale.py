"""Memory and speed of a training by the size of the log: both should stay the same from ten thousand turns to ten million.

Every size runs in a process of its own, on a made-up log with the columns that ScienceWorld's has (hashing encoder). Forms:

    dataset   a log on disk, as `mtrouter-rl train` reads it: loaded and checked, features written beside it or, up to
              `streamed.RESIDENT_TURNS`, held in memory; then gradient steps
    mapped    the files of the features made straight, so that ten million turns do not have to be encoded first
    memory    the array that a log of up to `streamed.RESIDENT_TURNS` turns is laid out as

Blocks of steps of all sizes take turns. Printed are the peak of the resident size (mapped pages are in it), samples a second of
the training's own loop by processor time, and the ratio to the first size, round by round: median and quartiles, by processor
time and by the clock. Where the disk's cache does not hold the files, it is the disk that is measured.

    OMP_NUM_THREADS=1 python scripts/bench/training_scale.py mapped --turns 10000 100000 1000000
    OMP_NUM_THREADS=1 python scripts/bench/training_scale.py dataset --turns 10000 1000000 --folder /data
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from large_log import ENV, write_log
from learner_overhead import ThroughD3rlpy, random_transitions
from ope_speed import peak_gib

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.transitions.arrays import Transitions, make_transitions
from mtrouter_rl.transitions.mapped import FeatureFiles, MappedObservations

N_TURNS_OF_EPISODE = 25
_ROWS_AT_ONCE = 50_000


def make_features():
    return HistoryFeatures(encoder=make_encoder("hashing", None), pool=resolve_env(ENV).pool)


def write_features(folder, features, n_rows, *, n_texts, rng):
    """Files as `FeatureWriter` leaves them, of random numbers."""
    size = features.encoder.dim
    n_own = features.dim - 3 * size
    folder.mkdir(parents=True)
    with (folder / "own.f32").open("wb") as file:
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            rows = rng.standard_normal((min(_ROWS_AT_ONCE, n_rows - start), n_own), dtype=np.float32)
            file.write(rows.data)
    with (folder / "texts.f32").open("wb") as file:
        for start in range(0, n_texts, _ROWS_AT_ONCE):
            file.write(rng.standard_normal((min(_ROWS_AT_ONCE, n_texts - start), size), dtype=np.float32).data)
    (folder / "index.i32").write_bytes(rng.integers(n_texts, size=(n_rows, 3), dtype=np.int32).data)
    told = {"n_rows": n_rows, "n_texts": n_texts, "text_dim": size, "n_own": n_own, "checksum": ""}
    (folder / "features.json").write_text(json.dumps(told))


def mapped_transitions(n_turns, features, folder):
    """Transitions over features on disk, with the turns' own numbers made up."""
    rng = np.random.default_rng(0)
    n_episodes = n_turns // N_TURNS_OF_EPISODE
    n, n_models = n_episodes * N_TURNS_OF_EPISODE, len(features.pool.models)
    write_features(folder, features, n + n_episodes, n_texts=max(1000, min(n_turns // 2, 1_000_000)), rng=rng)
    episodes, turns = np.divmod(np.arange(n), N_TURNS_OF_EPISODE)
    rows = np.arange(n) + episodes
    allowed = np.zeros((n + n_episodes, n_models), dtype=np.uint8)
    allowed[rows] = 1
    rewards = rng.standard_normal(n, dtype=np.float32)
    return Transitions(
        observations=MappedObservations([FeatureFiles(folder)], allowed, np.zeros(0, dtype=np.float32)),
        rows=rows,
        actions=rng.integers(n_models, size=n),
        rewards=rewards,
        terminals=(turns == N_TURNS_OF_EPISODE - 1).astype(np.float32),
        utility_gains=rewards,
        costs_usd=rewards,
        episodes=episodes,
        turns=turns,
        returns=rewards,
        n_models=n_models,
    )


def serve(transitions, features, args, *, prepared_s):
    """Take blocks of steps, one for every line that comes in, and say what each took."""
    from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory

    layout = HistoryLayout.of_features(features)
    models = features.model_features.tolist()
    factory = JointQFunctionFactory.of(layout, JointParameters(), model_features=models)
    side = ThroughD3rlpy(factory, LoopParameters(batch_size=args.batch_size), transitions)
    for _ in range(args.warm_up):
        side.step()
    columns = int(transitions.observations.shape[1])
    print(json.dumps({"turns": len(transitions), "columns": columns, "prepared_s": prepared_s}), flush=True)
    for _ in sys.stdin:
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in range(args.steps):
            side.step()
        took = (time.process_time() - cpu, time.perf_counter() - clock)
        print(json.dumps({"took": took, "peak_gib": peak_gib()}), flush=True)


def run_one(n_turns, args):
    """One size in this process."""
    torch.set_num_threads(1)
    silence_gym_notice()
    features = make_features()
    folder = Path(tempfile.mkdtemp(prefix="training-scale-", dir=args.folder))
    try:
        start = time.process_time()
        if args.form == "memory":
            transitions = random_transitions(
                features.dim,
                len(features.pool.models),
                n_episodes=n_turns // N_TURNS_OF_EPISODE,
                n_turns=N_TURNS_OF_EPISODE,
            )
        elif args.form == "mapped":
            transitions = mapped_transitions(n_turns, features, folder / "features")
        else:
            transitions = from_dataset(args.log, features)
        serve(transitions, features, args, prepared_s=time.process_time() - start)
    finally:
        shutil.rmtree(folder)


def from_dataset(folder, features):
    config = resolve_env(ENV)
    dataset = Dataset.load(folder)
    return make_transitions(dataset, features, reward=config.reward, gamma=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["dataset", "mapped", "memory"])
    parser.add_argument("--turns", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=60, help="gradient steps of a block (default: 60)")
    parser.add_argument("--rounds", type=int, default=12, help="blocks of every size (default: 12)")
    parser.add_argument("--warm-up", type=int, default=200, help="steps before, that are not measured (default: 200)")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where made-up files lie meanwhile (default: temporary)"
    )
    parser.add_argument("--log", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        run_one(args.one, args)
        return
    with ExitStack() as stack:
        sizes = [Size(n_turns, args, stack) for n_turns in args.turns]
        rounds = np.array([[size.block() for size in sizes] for _ in range(args.rounds)])
        peaks = [size.peak_gib for size in sizes]
    samples = args.steps * args.batch_size / rounds
    ratios = np.quantile(samples / samples[:, :1], [0.25, 0.5, 0.75], axis=0)
    print("| form | turns | columns | peak GiB | prepared, CPU s | samples a CPU second | ratio | by the clock |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for number, (size, peak) in enumerate(zip(sizes, peaks, strict=True)):
        by_cpu, by_clock = (f"{m:.2f} [{a:.2f}, {b:.2f}]" for a, m, b in ratios[:, number].T)
        told = size.told
        print(
            f"| {args.form} | {told['turns']:,} | {told['columns']} | {peak:.2f} | {told['prepared_s']:.0f} "
            f"| {np.median(samples[:, number, 0]):,.0f} | {by_cpu} | {by_clock} |"
        )


class Size:
    """One size in a process of its own, so that its peak is its own; it works when it is told to, as the others wait."""

    def __init__(self, n_turns, args, stack):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="training-scale-", dir=args.folder))
        command = [sys.executable, __file__, args.form, "--one", str(n_turns), "--steps", str(args.steps)]
        command += ["--batch-size", str(args.batch_size), "--warm-up", str(args.warm_up), "--folder", folder]
        if args.form == "dataset":
            write_log(Path(folder) / "log", n_turns)
            command += ["--log", str(Path(folder) / "log")]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.stdin.close)
        self.told, self.peak_gib = self._answer(), 0.0

    def block(self):
        """(Processor time, time by the clock) of a block of steps, s."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found = self._answer()
        self.peak_gib = found["peak_gib"]
        return found["took"]

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a process ended with status {self._process.wait()}")


if __name__ == "__main__":
    main()
