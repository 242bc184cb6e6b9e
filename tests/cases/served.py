"""A policy service that runs in a thread, in front of endpoints that are scripted."""

import asyncio
import contextlib
import functools
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard, Prices
from mtrouter_rl.serving.service.run import ServeRequest, build

TASK = {"role": "user", "content": "Find the key."}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def said_step(model, body):
    """What a model says if nobody scripts anything else."""
    return {"role": "assistant", "content": f"{model}: step {len(body['messages'])}"}


@dataclass
class Double:
    """Endpoints of any number of models.

    Attributes:
        calls: (path of the model, body, headers) of every call.
        answer: From (model, body) to what is answered: a message, or (status, headers, raw bytes).
        usage: What is said of tokens; None says nothing.
        pause_s: Between the events of a stream.
        cut_after: Events after which a stream breaks off; None for never.
    """

    calls: list = field(default_factory=list)
    answer: Callable = said_step
    usage: dict | None = field(default_factory=lambda: dict(USAGE))
    pause_s: float = 0.0
    cut_after: int | None = None

    def app(self):
        from starlette.applications import Starlette
        from starlette.responses import Response, StreamingResponse
        from starlette.routing import Route

        async def complete(request):
            body = json.loads(await request.body())
            model = request.path_params["model"]
            self.calls.append((model, body, dict(request.headers)))
            said = self.answer(model, body)
            if asyncio.iscoroutine(said):
                said = await said
            if isinstance(said, tuple):
                status, headers, raw = said
                return Response(raw, status_code=status, headers=headers)
            if body.get("stream"):
                return StreamingResponse(self._events(model, body, said), media_type="text/event-stream")
            finish = "tool_calls" if said.get("tool_calls") else "stop"
            whole = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"]}
            whole["choices"] = [{"index": 0, "message": said, "finish_reason": finish}]
            if self.usage is not None:
                whole["usage"] = self.usage
            return Response(json.dumps(whole), media_type="application/json")

        return Starlette(routes=[Route("/{model}/v1/chat/completions", complete, methods=["POST"])])

    async def _events(self, model, body, said):
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        deltas = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in (said.get("content") or "").split(" ") if word]
        for index, call in enumerate(said.get("tool_calls") or ()):
            function = call["function"]
            deltas.append(
                {
                    "tool_calls": [
                        {
                            "index": index,
                            "id": call["id"],
                            "type": "function",
                            "function": {"name": function["name"], "arguments": ""},
                        }
                    ]
                }
            )
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in function["arguments"]
            ]
        for number, delta in enumerate(deltas):
            if number == self.cut_after:
                return
            yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            await asyncio.sleep(self.pause_s)
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event({**head, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


def _event(chunk):
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@contextlib.contextmanager
def serving(app, keep=None):
    """An application in a thread; gives its address."""
    import uvicorn

    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    async def run():
        if keep is None:
            await server.serve()
            return
        async with keep():
            await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    try:
        ends = time.monotonic() + 20
        while not (server.started and server.servers) and time.monotonic() < ends and thread.is_alive():
            time.sleep(0.005)
        assert server.started
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def remote_pool(address, *, models=("small", "big"), **settings):
    """A pool whose models answer at a double."""
    cards = tuple(
        ModelCard(
            name=name,
            prices=Prices(input=1.0 + 4 * place, cached_input=0.5, output=2.0 + 8 * place),
            context_tokens=100_000,
            max_output_tokens=1000 + place,
        )
        for place, name in enumerate(models)
    )
    places = {name: {"base_url": f"{address}/{name}/v1", **settings.get(name, {})} for name in models}
    backend = BackendCard(kind="openai_compatible", settings={"models": places, "try_s": settings.get("try_s", 10.0)})
    return PoolCard(name="two", models=cards, backend=backend)


@contextlib.contextmanager
def served(request: ServeRequest):
    """A service in a thread; gives its address and its parts."""
    running = build(request)
    with serving(running.app, running.keep) as address:
        yield address, running


def chat(address, messages, *, headers=None, **more):
    """One request of an agent."""
    return post(f"{address}/v1/chat/completions", {"model": "router", "messages": messages, **more}, headers=headers)


def post(url, body, *, headers=None):
    """One request; a client of one's own for each would load certificates each time."""
    return _client().post(url, json=body, headers=headers or {})


@functools.cache
def _client():
    import httpx

    return httpx.Client(verify=False, trust_env=False, timeout=20, limits=httpx.Limits(keepalive_expiry=0.0))


def rows(tmp_path, what="served_decisions"):
    """Rows of a table of the log, oldest first."""
    with contextlib.closing(sqlite3.connect(tmp_path / "served.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {what} ORDER BY rowid")]
