"""What the policy service adds to a call: MiniLM encoding of a 150-token turn, decision, log and hand-over.

Sessions of an agent run at once against the service, which is a process of its own, in front of endpoints that answer at once.
The same requests go straight to the endpoints, and through LiteLLM's proxy with a fixed choice if it is given. Printed are
median and 99th percentile above the endpoints' own median, by turn, and whether a decision was lost or mixed.

    python scripts/bench/service_latency.py --sessions 200 --turns 50 --at-once 2
    python scripts/bench/service_latency.py --litellm /path/to/venv/bin/litellm
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import served_parts as parts

WIDTHS = (6, 10, 9, 11, 11, 6, 8, 11)


def text_of(rng, n_words=130):
    return " ".join(rng.choice(parts.WORDS) for _ in range(n_words))


class Load:
    """Sessions of agents.

    Attributes:
        times: Turn -> durations, seconds.
        told: Session -> decisions, as the headers tell them.
    """

    def __init__(self, port, path, *, n_turns, think_s, seed, models):
        self.port, self.path, self.n_turns, self.think_s, self.models = port, path, n_turns, think_s, models
        self.seed = seed
        self.times = defaultdict(list)
        self.told = defaultdict(list)

    async def session(self, name):
        rng = random.Random(f"{self.seed}/{name}")
        connection = parts.Connection(self.port)
        messages = [{"role": "user", "content": f"{name}: {text_of(rng, 40)}"}]
        for turn in range(self.n_turns):
            body = {"model": rng.choice(self.models), "messages": messages}
            started = time.perf_counter()
            status, headers, raw = await connection.post(self.path, body, [("x-mtrouter-session", name)])
            self.times[turn].append(time.perf_counter() - started)
            assert status == 200, (status, raw[:300])
            message = json.loads(raw)["choices"][0]["message"]
            assert f"answers to {len(messages)}:" in message["content"], (name, turn, message)
            self.told[name].append(
                (headers.get("x-mtrouter-decision"), headers.get("x-mtrouter-model"), message["content"])
            )
            messages += [
                {"role": "assistant", "content": message["content"]},
                {"role": "user", "content": f"{name} {turn}: {text_of(rng)}"},
            ]
            await asyncio.sleep(self.think_s * (0.5 + rng.random()))
        connection.close()

    async def run(self, names, at_once):
        places = asyncio.Semaphore(at_once)

        async def one(name):
            async with places:
                await self.session(name)

        await asyncio.gather(*(one(name) for name in names))


def percentile(values, share):
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)]


def cpu_s(process):
    """Processor time of a program so far, seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(label, port, path, names, options, models, own_s=0.0, process=None):
    before = cpu_s(process) if process else 0.0
    load = Load(port, path, n_turns=options.turns, think_s=options.think, seed=options.seed, models=models)
    started = time.perf_counter()
    asyncio.run(load.run(names, options.at_once))
    took = time.perf_counter() - started
    every = [one for times in load.times.values() for one in times]
    early = [one for turn, times in load.times.items() if 1 <= turn < 6 for one in times]
    late = [one for turn, times in load.times.items() if turn >= options.turns - 5 for one in times]
    row = {
        "calls": len(every),
        "median_ms": 1e3 * (statistics.median(every) - own_s),
        "p99_ms": 1e3 * (percentile(every, 0.99) - own_s),
        "early_ms": 1e3 * (statistics.median(early) - own_s),
        "late_ms": 1e3 * (statistics.median(late) - own_s),
        "per_s": len(every) / took,
    }
    row["cpu_ms"] = 1e3 * (cpu_s(process) - before) / len(every) if process else float("nan")
    row["ratio"] = row["late_ms"] / row["early_ms"] if own_s else float("nan")
    print(
        f"{label:<26} {row['calls']:>6} {row['median_ms']:>10.1f} {row['p99_ms']:>9.1f} {row['early_ms']:>11.1f} "
        f"{row['late_ms']:>11.1f} {row['ratio']:>6.2f} {row['per_s']:>8.1f} "
        f"{row['cpu_ms']:>11.1f}",
        flush=True,
    )
    return load, row, statistics.median(every)


def lost_or_mixed(store, load, n_turns):
    """Decisions that the log lacks, or has otherwise than the clients were told."""
    wrong = []
    with contextlib.closing(sqlite3.connect(store)) as connection:
        for name, told in load.told.items():
            query = (
                "SELECT d.id, d.model, d.answer, d.state, d.turn FROM served_decisions d JOIN served_sessions s "
                "ON d.session_id = s.id WHERE s.name = ? ORDER BY d.turn, d.draw"
            )
            found = connection.execute(query, (name,)).fetchall()
            written = [(row[0], row[1], json.loads(row[2])["content"]) for row in found]
            if (
                written != told
                or [row[4] for row in found] != list(range(n_turns))
                or {row[3] for row in found} != {"done"}
            ):
                wrong.append(name)
    return wrong


def start_litellm(program, folder, address, port):
    config = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}", "api_base": f"{address}/{name}/v1", "api_key": "x"},
            }
            for name in parts.MODELS
        ]
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    env = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    env["NO_PROXY"] = "127.0.0.1"
    words = [program, "--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    log = (folder / "litellm.log").open("ab")
    process = subprocess.Popen(words, env=env, stdout=log, stderr=log)
    parts.wait_for(f"http://127.0.0.1:{port}/health/liveliness", process, within_s=180)
    return process


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=2, help="sessions at the same time")
    parser.add_argument("--think", type=float, default=0.05, help="mean pause of an agent between two calls, seconds")
    parser.add_argument("--encoder", default="minilm-bf16")
    parser.add_argument("--encoder-threads", default="1")
    parser.add_argument("--torch-threads", default="1")
    parser.add_argument("--threads-per-text", default="2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--litellm", help="program of LiteLLM's proxy")
    parser.add_argument("--max-median-ms", type=float, default=15.0)
    parser.add_argument("--max-p99-ms", type=float, default=40.0)
    options = parser.parse_args()
    names = [f"s{number}" for number in range(options.sessions)]
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        port, service_port, proxy_port = (parts.free_port() for _ in range(3))
        stack.callback(parts.stop, parts.start_endpoints(port, folder / "ledger.jsonl"))
        pool = parts.write_pool(folder / "pool.yaml", f"http://127.0.0.1:{port}")
        router = parts.train(folder, pool, options.encoder)
        store = folder / "served.sqlite"
        service = parts.start_service(
            router,
            pool,
            store,
            service_port,
            "--explore",
            "0.2",
            "--encoder-threads",
            options.encoder_threads,
            "--torch-threads",
            options.torch_threads,
            "--threads-per-text",
            options.threads_per_text,
            log=folder / "serve.log",
        )
        stack.callback(parts.stop, service)
        print(
            f"encoder {options.encoder}, {options.at_once} sessions at once, load of the machine {os.getloadavg()[0]:.1f}"
        )
        heads = ("calls", "median ms", "p99 ms", "turns 2-6", "last five", "ratio", "calls/s", "cpu ms/call")
        print(f"{'':<26} " + " ".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
        few = names[: max(options.sessions // 10, 4)]
        _, _, own = measured("endpoints alone", port, "/small/v1/chat/completions", few, options, ["small"])
        load, row, _ = measured(
            "added by the service", service_port, "/v1/chat/completions", names, options, ["router"], own, service
        )
        if options.litellm:
            proxy = start_litellm(options.litellm, folder, f"http://127.0.0.1:{port}", proxy_port)
            stack.callback(parts.stop, proxy)
            measured(
                "added by LiteLLM's proxy", proxy_port, "/v1/chat/completions", few, options, ["small"], own, proxy
            )
        wrong = lost_or_mixed(store, load, options.turns)
        print(f"sessions with a decision that was lost or mixed: {len(wrong)} of {len(names)}")
    is_fine = not wrong and row["median_ms"] <= options.max_median_ms and row["p99_ms"] <= options.max_p99_ms
    sys.exit(0 if is_fine and row["ratio"] <= 1.3 else 1)


if __name__ == "__main__":
    main()
