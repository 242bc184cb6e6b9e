"""The double's server: OpenAI's chat completions on loopback, whole and streamed, with faults and a ledger."""

import asyncio
import email.utils
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mtrouter_rl.cards.pool import PoolCard, TokenCounter
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.testing.fake_llm import completions, wire
from mtrouter_rl.testing.fake_llm.answers import Answer, Answerer, ScriptedAnswers
from mtrouter_rl.testing.fake_llm.conversation import ChatRequest, RefusedError, text_of
from mtrouter_rl.testing.fake_llm.faults import UNBILLED, FaultPlan
from mtrouter_rl.testing.fake_llm.ledger import Ledger, LedgerEntry
from mtrouter_rl.testing.fake_llm.simulated import SimulatedAnswers, is_episode

logger = logging.getLogger(__name__)

SESSION_HEADER = "x-mtrouter-session"
REQUEST_HEADER = "x-client-request-id"
HOST = "127.0.0.1"
_NOTHING = TokenUsage(n_fresh=0, n_output=0)
_KEPT_TRIES = 200_000
_PLAIN_COUNTER = TokenCounter(kind="characters")

Form = Literal["plain", "padded"]


@dataclass(frozen=True, kw_only=True)
class FakeSettings:
    """What the double serves.

    Attributes:
        env: Environment and simulated pool; None for scripted answers alone.
        pool: Models and prices of scripted answers; None takes those of `env`, else any model at no price.
        script: Answers without a session, by turn; empty for an echo.
        n_tokens: Length of every answer without a session; 0 for script or echo.
        form: Whether a simulated answer is the bare action ("plain"), or words as long as its billed tokens and the action in a
            fenced block ("padded").
        latency_s: How long every answer waits, seconds.
        faults: What goes wrong.
        cost_factor: What the double tells of a call's cost, as a multiple of the true one; None tells nothing.
        n_copies: Copies of the text task.
        ledger: File of the ledger; None keeps it in memory.
        port: Port; 0 takes a free one.
    """

    env: EnvConfig | None = None
    pool: PoolCard | None = None
    script: tuple[str, ...] = ()
    n_tokens: int = 0
    form: Form = "plain"
    latency_s: float = 0.0
    faults: FaultPlan = field(default_factory=FaultPlan)
    cost_factor: float | None = None
    n_copies: int = 4
    ledger: Path | None = None
    port: int = 0


@dataclass(kw_only=True)
class _Call:
    """One request on its way: what was asked, by whom, the how-manieth try, and its fault."""

    request: ChatRequest
    session: str
    request_id: str
    n_try: int
    fault: str


class FakeLLM:
    """The double, in a thread of this process. Use as a context manager.

    Example:
        >>> import urllib.request
        >>> with FakeLLM(FakeSettings(script=("hello",))) as fake:
        ...     urllib.request.urlopen(fake.base_url + "/models").status
        200
    """

    def __init__(self, settings: FakeSettings) -> None:
        """Create it; nothing listens before the block is entered.

        Raises:
            InvalidConfigError: If the pool is not simulated, or the ledger cannot be written.
        """
        self.settings = settings
        self.pool = settings.pool or (settings.env.pool if settings.env else None)
        self._counter = self.pool.token_counter if self.pool else _PLAIN_COUNTER
        self._scripted = ScriptedAnswers(self.pool, script=settings.script, n_tokens=settings.n_tokens)
        self._simulated = SimulatedAnswers(settings.env, n_copies=settings.n_copies) if settings.env else None
        self.ledger = Ledger(settings.ledger)
        self._tries: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._loop = asyncio.new_event_loop()
        self._workers = ThreadPoolExecutor(max_workers=settings.n_copies, thread_name_prefix="fake-llm")
        self._thread = threading.Thread(target=self._run, name="fake-llm", daemon=True)
        self._is_up = threading.Event()
        self._failure: OSError | None = None
        self._stop: asyncio.Event | None = None
        self.port = settings.port

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait()
        if self._failure is not None:
            self._thread.join()
            raise InvalidConfigError(
                f"port {self.settings.port} cannot be listened on: {self._failure.strerror}; give another --port"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._workers.shutdown(wait=True, cancel_futures=True)
        if self._simulated is not None:
            self._simulated.close()
        self.ledger.close()

    @property
    def base_url(self) -> str:
        """Address for clients."""
        return f"http://{HOST}:{self.port}/v1"

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._is_up.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        try:
            server = await asyncio.start_server(
                self._converse, HOST, self.settings.port, limit=wire.MAX_HEAD_BYTES, backlog=1024
            )
        except OSError as error:
            self._failure = error
            return
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        await self._stop.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection."""
        try:
            stays_open = True
            while stays_open:
                request = await wire.read_request(reader)
                if request is None:
                    return
                stays_open = await self._respond(request, writer) and request.stays_open
                await writer.drain()
        except wire.BadRequestError as error:
            writer.write(_error(error.status, str(error), "invalid_request_error"))
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _respond(self, request: wire.Request, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; says whether the connection can go on."""
        if request.method == "POST" and request.path == "/v1/chat/completions":
            return await self._chat(request, writer)
        if request.method != "GET":
            status = 405 if request.path in ("/health", "/v1/models") else 404
            writer.write(_error(status, f"no {request.method[:20]} {request.path[:80]} here", "invalid_request_error"))
        elif request.path == "/health":
            writer.write(wire.whole(200, b'{"status":"ok"}'))
        elif request.path == "/v1/models":
            names = self.pool.model_names if self.pool else ("fake",)
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "fake-llm"} for name in names]
            writer.write(wire.whole(200, json.dumps({"object": "list", "data": data}).encode()))
        else:
            writer.write(_error(404, f"nothing is at {request.path[:80]}", "invalid_request_error"))
        return True

    async def _chat(self, request: wire.Request, writer: asyncio.StreamWriter) -> bool:
        try:
            call = self._call_of(request)
        except RefusedError as error:
            writer.write(_error(error.status, str(error), error.kind))
            return True
        if call.fault in UNBILLED:
            return await self._fail(call, writer)
        try:
            answer = await self._answered(call)
        except RefusedError as error:
            self._book(call, _NOTHING, error.status, fault=call.fault if error.kind != "signature" else "refused")
            writer.write(_error(error.status, str(error), "invalid_request_error"))
            return True
        if self.settings.latency_s:
            await asyncio.sleep(self.settings.latency_s)
        return await self._deliver(call, answer, writer)

    def _call_of(self, request: wire.Request) -> _Call:
        asked = ChatRequest.read(request.body)
        # A service between client and double passes on the body and not the headers.
        session = request.headers.get(SESSION_HEADER, "") or (asked.user if is_episode(asked.user) else "")
        shares = self.settings.faults
        if not shares.shares:
            n_try, fault = 0, ""
        else:
            n_try = self._count_try(session or _key_without_session(asked), asked.turn)
            named = "|".join(session.split("|")[:3]) if session else _key_without_session(asked)
            fault = shares.draw(named, asked.turn, n_try)
        ident = request.headers.get(REQUEST_HEADER, "")
        return _Call(request=asked, session=session, request_id=ident, n_try=n_try, fault=fault)

    def _count_try(self, session: str, turn: int) -> int:
        key = (session, turn)
        n_try = self._tries.get(key, 0)
        self._tries[key] = n_try + 1
        if len(self._tries) > _KEPT_TRIES:
            self._tries.popitem(last=False)
        return n_try

    async def _answered(self, call: _Call) -> Answer:
        """What a model says; thinking that another model has signed is refused."""
        request = call.request
        foreign = [name for name in request.signers() if name != request.model]
        if foreign:
            raise RefusedError(400, "messages: invalid `signature` in `thinking` block", kind="signature")
        if not call.session or self._simulated is None:
            return self._scripted.answer(request, call.session)
        answerer: Answerer = self._simulated
        return await self._loop.run_in_executor(self._workers, answerer.answer, request, call.session)

    async def _fail(self, call: _Call, writer: asyncio.StreamWriter) -> bool:
        """A fault without an answer."""
        faults = self.settings.faults
        status = {"500": 500, "timeout": 0, "redirect": 302}.get(call.fault, 429)
        self._book(call, _NOTHING, status)
        if call.fault == "timeout":
            await asyncio.sleep(faults.timeout_s)
            return False
        headers = {}
        if call.fault == "redirect":
            headers["Location"] = f"http://{HOST}:9/elsewhere"
        elif call.fault == "429_retry_after":
            wait_s = faults.retry_after_s
            at = email.utils.formatdate(time.time() + wait_s, usegmt=True)
            headers["Retry-After"] = at if call.request.turn % 2 else f"{wait_s:g}"
        kind = {500: "server_error", 429: "rate_limit_error"}.get(status, "redirect")
        writer.write(_error(status, f"fault on demand: {call.fault}", kind, headers))
        return True

    async def _deliver(self, call: _Call, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        """Send an answer, with its fault; it is booked before its first byte."""
        text = answer.text
        if self.settings.form == "padded" and not answer.is_exact_text and call.request.tool is None:
            text = completions.content_of(answer, self._counter)
        is_signed = call.fault == "foreign_thinking"
        message = completions.message_of(call.request, text, answer.text, is_signed=is_signed)
        if call.fault == "cut_stream":
            return await self._cut(call, answer, message, writer)
        cost_usd = self._book(call, answer.usage, 200)
        told = self._told_usage(call.fault, answer.usage, cost_usd)
        model = "another-model" if call.fault == "wrong_model" else call.request.model
        data = self._body(call, model, message, told)
        if call.fault == "drip":
            await self._drip(data, writer)
        else:
            writer.write(data)
        return True

    def _told_usage(self, fault: str, usage: TokenUsage, cost_usd: float) -> dict[str, Any] | None:
        if fault == "missing_usage":
            return None
        factor = self.settings.cost_factor
        told = None if factor is None else cost_usd * factor
        return completions.usage_of(_NOTHING if fault == "zero_usage" else usage, told)

    def _body(self, call: _Call, model: str, message: dict[str, Any], usage: dict[str, Any] | None) -> bytes:
        """Bytes of an answer, its head included."""
        ident = f"chatcmpl-{self.ledger.n_requests}"
        if not call.request.is_stream:
            body = json.dumps(completions.completion(ident, model, message, usage), separators=(",", ":")).encode()
            return wire.whole(200, body[:-1] if call.fault == "broken_json" else body)
        told = usage if call.request.has_stream_usage else None
        parts = [wire.event(one) for one in completions.events(ident, model, message, told)]
        if call.fault == "broken_json":
            broken = parts[len(parts) // 2]
            parts[len(parts) // 2] = broken[:-5] + b"\n\n"
        parts.append(wire.event("[DONE]"))
        headers = wire.head(200, {"Cache-Control": "no-cache"}, length=None, content="text/event-stream")
        return headers + b"".join(wire.chunk(part) for part in parts) + wire.chunk(b"")

    async def _cut(self, call: _Call, answer: Answer, message: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Break off after the answer's text, before its usage; a stream breaks off half way and is billed that far."""
        usage = answer.usage
        text = message.get("content")
        if call.request.is_stream and isinstance(text, str) and text:
            message = message | {"content": text[: max(len(text) // 2, 1)]}
            n_output = min(usage.n_output, self._counter.count(message["content"]))
            usage = TokenUsage(
                n_fresh=usage.n_fresh, n_cached=usage.n_cached, n_written=usage.n_written, n_output=n_output
            )
        self._book(call, usage, 200)
        if call.request.is_stream:
            parts = [wire.event(one) for one in completions.events("chatcmpl-cut", call.request.model, message, None)]
            writer.write(wire.head(200, length=None, content="text/event-stream"))
            writer.write(b"".join(wire.chunk(part) for part in parts[:-1]))
        else:
            whole = completions.completion(
                "chatcmpl-cut", call.request.model, message, completions.usage_of(usage, None)
            )
            body = json.dumps(whole, separators=(",", ":")).encode()
            writer.write(wire.head(200, length=len(body)) + body[: body.rindex(b',"usage"')])
        await writer.drain()
        return False

    async def _drip(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        n_pieces = 20
        size = max(len(data) // n_pieces, 1)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(self.settings.faults.drip_s / n_pieces)

    def _book(self, call: _Call, usage: TokenUsage, status: int, *, fault: str | None = None) -> float:
        """Write a request to the ledger; gives what it costs, USD."""
        is_billed = usage is not _NOTHING
        model = call.request.model
        has_price = is_billed and self.pool is not None and model in self.pool.model_names
        cost_usd = self.pool.model(model).prices.cost_usd(usage) if has_price and self.pool is not None else 0.0
        self.ledger.add(
            LedgerEntry(
                request_id=call.request_id,
                session=call.session,
                turn=call.request.turn,
                n_try=call.n_try,
                model=model,
                fault=call.fault if fault is None else fault,
                status=status,
                is_billed=is_billed,
                usage=usage,
                cost_usd=cost_usd,
            )
        )
        return cost_usd


def _key_without_session(request: ChatRequest) -> str:
    """What tells conversations apart that name no session: how they begin."""
    opening: Sequence[Any] = request.messages[:2]
    return "\x1f".join(text_of(one) for one in opening)


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> bytes:
    """An error in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return wire.whole(status, json.dumps(body).encode(), headers)
