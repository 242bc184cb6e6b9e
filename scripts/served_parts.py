"""Parts that the scripts about the policy service share: a router trained in seconds, and endpoints that answer at once.

Run as a program it is the endpoints: `python scripts/served_parts.py PORT LEDGER PAUSE_MS`. Every answered call becomes a line
of LEDGER before its answer goes out.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MODELS = {"small": (1.0, 2.0), "big": (5.0, 10.0)}
WORDS = tuple(
    "you see a table door apple lighter kitchen hallway open closed pick up move to focus on use the metal pot".split()  # noqa: SIM905
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def write_pool(path, address, *, try_s=30.0):
    """A pool card whose models answer at the endpoints."""
    card = {
        "name": "served",
        "models": [
            {
                "name": name,
                "prices": {"input": prompt, "cached_input": prompt / 2, "output": output},
                "context_tokens": 1_000_000,
                "max_output_tokens": 1000 + place,
            }
            for place, (name, (prompt, output)) in enumerate(MODELS.items())
        ],
        "backend": {
            "kind": "openai_compatible",
            "settings": {"models": {name: {"base_url": f"{address}/{name}/v1"} for name in MODELS}, "try_s": try_s},
        },
    }
    path.write_text(yaml.safe_dump(card))
    return path


def train(folder, pool_path, encoder):
    """A small router that reads texts with an encoder."""
    from mtrouter_rl.cards import load_agent_card, load_pool_card
    from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
    from mtrouter_rl.datasets.logged import logged_env
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.workflows import TrainRequest, train_router

    pool = load_pool_card(str(pool_path))
    lines = []
    for number in range(12):
        messages = [{"role": "user", "content": f"Find {number}."}]
        for turn in range(3):
            model = ("small", "big")[(number + turn) % 2]
            line = {"session_id": f"s{number}", "model": model, "messages": list(messages), "response": f"step {turn}"}
            line["usage"] = {"prompt_tokens": 100 + 10 * turn, "completion_tokens": 10}
            lines.append(line)
            messages += [
                {"role": "assistant", "content": f"step {turn}"},
                {"role": "user", "content": f"You see {turn}."},
            ]
        lines[-1]["score"] = number % 2
    log = folder / "calls.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = ImportRequest(format="openai-jsonl", paths=(log,), pool=pool, out=folder / "log", overwrite=True)
    import_log(request, show_progress=False)
    card = load_agent_card("fitted-q")
    tiny = {"n_iterations": 2, "n_warm_start": 1, "steps_per_iteration": 5, "batch_size": 16, "keep_last": 1}
    train_router(
        TrainRequest(
            agent=card.model_copy(update={"parameters": card.parameters | tiny}),
            config=logged_env(Dataset.load(folder / "log").info, cost_weight=0.5, cost_unit_usd=0.001),
            seed=0,
            out=folder / "router",
            dataset=folder / "log",
            encoder=encoder,
        ),
        show_progress=False,
    )
    return folder / "router"


def start(arguments, *, environment=None, log=None):
    """A program of its own; gives its process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
    output = subprocess.DEVNULL if log is None else log.open("ab")
    return subprocess.Popen([sys.executable, *arguments], env=env, stdout=output, stderr=output, cwd=ROOT)


def start_endpoints(port, ledger, pause_ms=0.0):
    process = start([str(Path(__file__)), str(port), str(ledger), str(pause_ms)])
    wait_for(f"http://127.0.0.1:{port}/healthz", process)
    return process


def start_service(router, pool, store, port, *options, log=None):
    program = "import sys; from mtrouter_rl.cli import main; sys.exit(main())"
    words = ["-c", program, "serve", str(router), "--pool", str(pool), "--store", str(store), "--port", str(port)]
    process = start([*words, *options], log=log)
    wait_for(f"http://127.0.0.1:{port}/readyz", process)
    return process


def wait_for(url, process, *, within_s=120):
    ends = time.monotonic() + within_s
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise SystemExit(f"a program ended with status {process.returncode} before {url} answered")
        try:
            with opener.open(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def stop(*processes, within_s=20):
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Connection:
    """One kept connection that sends JSON and reads answers with a length, or streams to their end."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    async def post(self, path, body, headers=()):
        """(status, headers, body)."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            found = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            text = await self.reader.readexactly(int(found["content-length"]))
        except (OSError, asyncio.IncompleteReadError, KeyError):
            self.close()
            raise ConnectionError("the connection was closed") from None
        return int(head[0].split(" ")[1]), found, text

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def endpoints(ledger, pause_s):
    """The endpoints as an ASGI application: the answer names the model, and how many messages it was shown."""
    lines = ledger.open("ab", buffering=0)

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        body = json.loads(raw)
        last = body["messages"][-1]["content"]
        if pause_s:
            await asyncio.sleep(pause_s)
        said = f"{body['model']} answers to {len(body['messages'])}: {last[:40]} and goes on to the next door"
        usage = {"prompt_tokens": 100 + len(raw) // 4, "completion_tokens": 20}
        lines.write(json.dumps({"model": body["model"], "last": last, "usage": usage}).encode() + b"\n")
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        data = json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return app


if __name__ == "__main__":
    import uvicorn

    app = endpoints(Path(sys.argv[2]), float(sys.argv[3]) / 1000)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off")
