"""Collects over the protocol against the double, and compares: episodes with those of one process, bills with the double's.

    .venv/bin/python scripts/attack/remote_pool.py --env corridor --episodes 40 [--faults 0.2] [--kills 20] [--workers 2]

Three parts: the same episodes without faults; with faults in a share of the calls; and with a collector that is killed
(kill -9) at random moments and started again. A part fails if an episode differs, if the log breaks a rule, or if a bill of
the double is not booked. Ends with 1 then.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mtrouter_rl.cli import main as cli
from mtrouter_rl.datasets.check_dataset import load_sound
from mtrouter_rl.envs.factory import EnvConfig, resolve_env
from mtrouter_rl.pools.spend import SpendPlan
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings, FaultPlan, write_twin
from mtrouter_rl.testing.fake_llm.reconcile import reconcile

PROGRAM = [sys.executable, "-c", "import sys; from mtrouter_rl.cli import main; sys.exit(main())"]


def words(args: argparse.Namespace, out: Path, *more: str) -> list[str]:
    given = ["--env", args.env, "--policy", "uniform", "--episodes", str(args.episodes), "--seed", str(args.seed)]
    return ["collect", *given, "--workers", str(args.workers), "--out", str(out), "--quiet", *more]


def collected(command: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        status = cli(command)
    if status:
        raise SystemExit(f"the collection ended with {status}")


def remote_words(args: argparse.Namespace, folder: Path, fake: FakeLLM, config: EnvConfig) -> list[str]:
    card = folder / "pool.yaml"
    write_twin(card, config.pool, fake.base_url)
    text = card.read_text(encoding="utf-8")
    extra = "usage_estimate: token_counter\n"
    card.write_text(text.replace("base_url:", f"{extra}        base_url:"), encoding="utf-8")
    ledger = str(folder / "spend.sqlite")
    return words(args, folder / "log", "--pool", str(card), "--yes", "--spend-ledger", ledger)


def plan_of(folder: Path) -> SpendPlan:
    return SpendPlan(file=str(folder / "spend.sqlite"), run=str((folder / "log").resolve()))


def played(folder: Path, *, with_costs: bool) -> list[list[tuple[object, ...]]]:
    def turn(one: object) -> tuple[object, ...]:
        told = (one.model, one.action_text, one.observation_text, one.utility_gain)
        return (*told, one.usage, one.cost_usd) if with_costs else told

    return [[turn(one) for one in episode.turns] for episode in load_sound(folder)[0].episodes]


def check(name: str, own: Path, folder: Path, fake: FakeLLM, *, with_costs: bool) -> bool:
    """Compare a collection with that of one process, and its ledger with the double's."""
    books = reconcile(fake.ledger.entries, plan_of(folder))
    theirs, mine = played(folder / "log", with_costs=with_costs), played(own, with_costs=with_costs)
    n_same = sum(one == other for one, other in zip(theirs, mine, strict=True))
    dataset, _ = load_sound(folder / "log")
    n_done = sum(one.status == "completed" for one in dataset.episodes)
    in_log = sum(one.cost_usd for one in dataset.episodes)
    n_faults = sum(bool(entry.fault) for entry in fake.ledger.entries)
    print(f"{name}: {n_same} of {len(mine)} episodes the same, {n_done} completed, {n_faults} faults")
    print(
        f"  {books}\n  in the log: {in_log:.6f} USD; booked beside it: {books.known_usd + books.estimated_usd - in_log:.6f}"
    )
    for problem in books.problems[:10]:
        print(f"  PROBLEM {problem}")
    return n_same == n_done == len(mine) and not books.problems


def with_kills(args: argparse.Namespace, folder: Path, fake: FakeLLM, config: EnvConfig) -> None:
    """Kill the collector at random moments after its first call, until it was killed often enough; then let it end."""
    rng, command = random.Random(args.seed), remote_words(args, folder, fake, config)
    for number in range(args.kills):
        before = fake.ledger.n_requests
        process = subprocess.Popen([*PROGRAM, *command], start_new_session=True)
        while fake.ledger.n_requests == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 1.0))
        is_late = process.poll() is not None
        if not is_late:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(
            f"  kill {number + 1}: after {fake.ledger.n_requests - before} calls{' (it had ended)' if is_late else ''}"
        )
    subprocess.run([*PROGRAM, *command], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="corridor")
    parser.add_argument("--pool")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--faults", type=float, default=0.2)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of every answer while the collector is killed")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = resolve_env(args.env, args.pool)
    parts = [("without faults", FaultPlan(), 0.0, True)]
    if args.faults:
        shares = FaultPlan.shares_of([f"all={args.faults}"])
        faults = FaultPlan(shares=shares, seed=args.seed, retry_after_s=0.1, timeout_s=0.5, drip_s=0.2)
        parts.append((f"faults in {args.faults:.0%} of the calls", faults, 0.0, False))
    if args.kills:
        parts.append((f"{args.kills} kills", FaultPlan(), args.latency_ms / 1000, True))
    is_clean = True
    with tempfile.TemporaryDirectory() as made:
        own = Path(made) / "own"
        collected(words(args, own, *(["--pool", args.pool] if args.pool else [])))
        for number, (name, faults, latency_s, with_costs) in enumerate(parts):
            folder = Path(made) / str(number)
            folder.mkdir()
            settings = FakeSettings(
                env=config, form="padded", faults=faults, latency_s=latency_s, n_copies=args.workers + 1
            )
            started_s = time.monotonic()
            with FakeLLM(settings) as fake:
                if name.endswith("kills"):
                    with_kills(args, folder, fake, config)
                else:
                    collected(remote_words(args, folder, fake, config))
                is_clean &= check(name, own, folder, fake, with_costs=with_costs)
            print(f"  {time.monotonic() - started_s:.0f} s")
    print("all is as it should be" if is_clean else "SOMETHING IS WRONG")
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
