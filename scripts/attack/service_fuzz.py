"""Requests that break a rule, thousands of them, against the policy service: each must get a 4xx and nothing else.

The endpoints of the pool do not exist, so a request that slips through is a 502; and nothing may be written.

    python scripts/attack/service_fuzz.py --requests 10000
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import served_parts as parts

MESSAGES = [{"role": "user", "content": "Find the key."}]
GOOD = {
    "/v1/chat/completions": {"model": "router", "messages": MESSAGES},
    "/route": {"messages": MESSAGES},
    "/outcome": {"decision_id": "x", "error": "y"},
    "/feedback": {"session": "s", "score": 1},
}
ODD = (
    None,
    "",
    0,
    -1,
    1.5,
    True,
    [],
    {},
    [[]],
    {"a": 1},
    "x" * 300,
    "\0",
    1e300,
    [None],
    "router ",
    -(10**18),
    [1],
    {"role": 1},
)
BAD_MESSAGES = (
    [],
    [[]],
    [{}],
    [{"role": "wizard", "content": "x"}],
    [{"role": "system", "content": "x"}],
    [{"role": "user", "content": 1}],
    [{"role": "user", "content": [1]}],
    [{"role": 1, "content": "x"}],
    [{"role": "assistant", "content": "x"}],
    [{"role": "user", "content": "x", "tool_calls": 3}],
    [{"role": "user", "content": "x"}] * 10_001,
)
BAD_FIELDS = {
    "/v1/chat/completions": {
        "model": (1, "", "gpt", [], {}, "router\n"),
        "n": (0, 2, "1", [], -1),
        "stream": (1, "yes", []),
        "stream_options": (1, []),
        "tools": (1, {}, "x"),
        "max_tokens": (0, -1, 1.5, "x", []),
        "max_completion_tokens": (0, -5, 0.5, {}),
    },
    "/route": {
        "session": ("", "a b", "x" * 201, 1, [], "\u00e9"),
        "request_id": ("a b", 1, "\0"),
        "candidates": ([], ["x"], [1], {}, 3, [{"model": "small", "x": 1}], [{"model": "small", "cached_tokens": -1}]),
        "budget_usd": (0, -1, "x", []),
        "max_output_tokens": (0, 1.5, -1),
        "unknown": ODD[2:],
    },
    "/outcome": {
        "decision_id": ("", "a b", 1, []),
        "usage": (1, [], {"prompt_tokens": -1}),
        "answer": (1, []),
        "error": (1, []),
    },
    "/feedback": {
        "score": (2, -2, "x", [], 1e300),
        "status": ("good", 1),
        "session": ("", "a b", 1),
        "detail": (1, []),
    },
}


def _bad_json(rng, body):
    text = json.dumps(body)
    return rng.choice(
        (
            text[: rng.randrange(len(text))].encode(),
            rng.randbytes(rng.randrange(1, 200)) + b"{",
            b"[" * rng.choice((70, 2000, 100_000)),
            b"[" * 70 + b"]" * 70,
            text.encode("utf-16"),
            text.encode()[:-1] + b',"x":NaN}',
            text.encode()[:-1] + b',"x":"\\ud800"}',
            text.encode()[:-1] + b',"x":' + b"9" * 5000 + b"}",
            text.encode() + text.encode(),
            b"\xff\xfe" + text.encode(),
            b"",
            json.dumps(rng.choice((1, "x", [body], None, True))).encode(),
            b'{"a":' * 80 + b"1" + b"}" * 80,
        )
    )


def fuzzed(rng):
    """(method, path, headers, body) of a request that no service may take."""
    path = rng.choice(tuple(GOOD))
    body, headers = dict(GOOD[path]), {"content-type": "application/json"}
    kind = rng.randrange(7)
    if kind == 0:
        return "POST", path, headers, _bad_json(rng, body)
    if kind == 1 and "messages" in body:
        return "POST", path, headers, json.dumps({**body, "messages": rng.choice((*BAD_MESSAGES, *ODD[:-1]))}).encode()
    if kind == 2:
        name = rng.choice(("x-mtrouter-session", "x-mtrouter-request", "x-mtrouter-task"))
        if "messages" in body:
            return "POST", path, {**headers, name: rng.choice(("a b", "x" * 201, "a\tb"))}, json.dumps(body).encode()
    if kind == 3:
        return rng.choice(("GET", "PUT", "DELETE", "PATCH")), path, headers, json.dumps(body).encode()
    if kind == 4:
        odd = rng.choice(
            ("/", "/v1", "/v1/chat", f"{path}/x", "/../etc/passwd", "/%00", "/reload", "//route", "/metrics.json")
        )
        return "POST", odd, headers, json.dumps(body).encode()
    if kind == 5:
        return "POST", path, headers, b'{"x":"' + b"y" * 70_000 + b'"}'
    name = rng.choice(tuple(BAD_FIELDS[path]))
    return "POST", path, headers, json.dumps({**body, name: rng.choice(BAD_FIELDS[path][name])}).encode()


def raw_requests(rng):
    """Bytes that are no request at all."""
    return rng.choice(
        (
            rng.randbytes(rng.randrange(1, 500)) + b"\r\n\r\n",
            b"POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
            b"POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 9\r\n\r\nhello",
            b"GET /healthz HTTP/9.9\r\n\r\n",
            b"POST /route HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"POST  /route\r\n\r\n",
            b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        )
    )


async def status_of(port, request):
    """Status of an answer; 0 if the connection was closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        if isinstance(request, bytes):
            writer.write(request)
            writer.write_eof()
        else:
            method, path, headers, body = request
            lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        head = await asyncio.wait_for(reader.readline(), 30)
        return int(head.split(b" ")[1]) if head else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


async def attack(port, n_requests, seed, *, at_once=16):
    """Statuses of requests that break a rule: whole ones, and bytes that are none."""
    rng = random.Random(seed)
    found = {"requests": collections.Counter(), "bytes": collections.Counter()}
    wrong = []
    places = asyncio.Semaphore(at_once)

    async def one(kind, request):
        async with places:
            status = await status_of(port, request)
        found[kind][status] += 1
        if not (400 <= status < 500 or (kind == "bytes" and status == 0)):
            wrong.append((status, str(request)[:300]))

    for start in range(0, n_requests, 500):
        some = [fuzzed(rng) for _ in range(min(500, n_requests - start))]
        await asyncio.gather(*(one("requests", request) for request in some))
    await asyncio.gather(*(one("bytes", raw_requests(rng)) for _ in range(max(n_requests // 20, 20))))
    return found, wrong


def n_rows(store):
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT COUNT(*) FROM served_decisions").fetchone()[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        pool = parts.write_pool(folder / "pool.yaml", "http://127.0.0.1:9")
        port = parts.free_port()
        store = folder / "served.sqlite"
        words = ("--max-body-bytes", "65536", "--max-turns", "50")
        service = parts.start_service("random", pool, store, port, *words, log=folder / "log")
        try:
            found, wrong = asyncio.run(attack(port, options.requests, options.seed))
            is_alive = service.poll() is None
            written = n_rows(store)
        finally:
            parts.stop(service)
        traces = (folder / "log").read_text(errors="replace").count("Traceback")
    for kind, statuses in found.items():
        print(
            f"{kind}: {sum(statuses.values())}; "
            + ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items()))
        )
    for status, request in wrong[:10]:
        print(f"WRONG {status}: {request}")
    print(f"no 4xx: {len(wrong)}; decisions written: {written}; tracebacks: {traces}; the service runs: {is_alive}")
    sys.exit(1 if wrong or written or traces or not is_alive else 0)


if __name__ == "__main__":
    main()
