"""What the endpoints do, without HTTP: an answer is a status, headers and a body, or the events of a stream."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from mtrouter_rl.cards.pool import ModelCard
from mtrouter_rl.errors import InvalidConfigError, MTRouterError, UsageError
from mtrouter_rl.pools.usage import read_usage
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.desk import Desk
from mtrouter_rl.serving.service.metrics import Metrics
from mtrouter_rl.serving.service.problems import RequestError
from mtrouter_rl.serving.service.requests import Asked, Feedback, Reported
from mtrouter_rl.serving.service.rows import DecisionRow, Outcome, SessionRow, State
from mtrouter_rl.serving.service.store import booked_usd
from mtrouter_rl.serving.service.streams import DONE, events_of
from mtrouter_rl.serving.service.turns import Decided, action_of
from mtrouter_rl.serving.service.upstream import Result, Upstream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client is sent.

    Attributes:
        status: HTTP status.
        body: JSON; None for a stream.
        headers: Further headers.
        events: Events of a stream.
    """

    status: int = 200
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    events: AsyncIterator[bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A call that has ended and is booked."""

    result: Result
    outcome: Outcome


class Service:
    """The endpoints. Its methods run in one event loop.

    Attributes:
        desk: Decides and books.
        upstream: Calls the models; None for a service that only decides.
        metrics: What is counted.
    """

    def __init__(self, desk: Desk, upstream: Upstream | None, metrics: Metrics) -> None:
        """Take the parts."""
        self.desk, self.upstream, self.metrics = desk, upstream, metrics
        self._calls: set[asyncio.Task[_Ended]] = set()

    async def chat(self, asked: Asked) -> Answer:
        """Choose a model, call it, and give its answer.

        Raises:
            RequestError: If no model may be called, or the endpoint fails.
            StoreError: If the store cannot be written.
        """
        if self.upstream is None:
            raise RequestError(
                404, "this service only decides; use /route, or give it the endpoints", code="no_upstream"
            )
        started = time.perf_counter()
        decided = await self.desk.decide(asked, source="chat")
        self.metrics.decide_s.observe(time.perf_counter() - started)
        headers = headers_of(decided)
        is_stream = asked.body.get("stream") is True
        if decided.is_replay:
            return _replayed(decided.decision, headers, asked)
        self.metrics.count_decision(decided.decision)
        chunks: asyncio.Queue[bytes] | None = asyncio.Queue() if is_stream else None
        task = asyncio.create_task(self._call(self.upstream, decided, asked, chunks))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        if chunks is None:
            return _whole_answer(await asyncio.shield(task), headers)
        return await self._streamed(task, chunks, headers, asked)

    async def route(self, asked: Asked) -> Answer:
        """Choose a model and say why.

        Raises:
            RequestError: If no model may be called.
            StoreError: If the store cannot be written.
        """
        started = time.perf_counter()
        decided = await self.desk.decide(asked, source="route")
        self.metrics.decide_s.observe(time.perf_counter() - started)
        if not decided.is_replay:
            self.metrics.count_decision(decided.decision)
        decision, session = decided.decision, decided.session
        facts = decision.facts
        names = ("q_values", "expected_cost_usd", "not_allowed", "probabilities", "candidates", "reason", "router")
        body: dict[str, object] = {
            "decision_id": decision.id,
            "session": session.name,
            "turn": decision.turn,
            "model": decision.model,
            "propensity": decision.propensity,
            "kind": decision.kind,
            "max_cost_usd": decision.held_usd,
            "budget_left_usd": None if session.budget_usd is None else session.budget_usd - session.spent_usd,
        }
        return Answer(body=body | {name: facts.get(name) for name in names}, headers=headers_of(decided))

    async def outcome(self, key_id: str, reported: Reported) -> Answer:
        """Book a call that the client made.

        Raises:
            RequestError: If there is no such decision, or it is booked.
            StoreError: If the store cannot be written.
        """
        found = await self.desk.in_store(self.desk.store.decision, key_id, reported.decision_id)
        if found is None:
            raise RequestError(404, f"no decision '{reported.decision_id}'", code="decision_not_found")
        decision, session = found
        if decision.source != "route":
            raise RequestError(409, "the service called this model itself, and has booked it", code="already_booked")
        if decision.state == "done":
            return Answer(body=_booked(decision, session))
        if decision.state != "open" or session.open_id != decision.id:
            raise RequestError(409, "the session has gone on without this outcome", code="outcome_too_late")
        outcome = self._outcome_of_report(decision, reported)
        session = await self.desk.settle_reported(decision, outcome, session)
        self.metrics.count_outcome(decision, outcome, booked_usd(decision, outcome))
        return Answer(body=_booked(decision, session) | {"cost_usd": outcome.cost_usd})

    async def feedback(self, key_id: str, told: Feedback) -> Answer:
        """Keep a score or a status.

        Raises:
            RequestError: If there is no such session.
            StoreError: If the store cannot be written.
        """
        session = await self.desk.in_store(self.desk.store.session, key_id, told.session)
        if session is None:
            raise RequestError(404, f"no session '{told.session}'", code="session_not_found")
        await self.desk.in_store(
            self.desk.store.add_feedback, session.id, score=told.score, status=told.status, detail=told.detail
        )
        return Answer(body={"session": session.name, "n_turns": session.n_turns, "spent_usd": session.spent_usd})

    async def end(self, within_s: float) -> None:
        """Wait for the calls that are under way; those that take longer are booked as lost."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self.upstream is not None:
            await self.upstream.close()

    async def _call(
        self, upstream: Upstream, decided: Decided, asked: Asked, chunks: "asyncio.Queue[bytes] | None"
    ) -> _Ended:
        """Call a model and book it, whoever still waits for the answer."""
        started = time.perf_counter()
        body: dict[str, JsonValue] = {**asked.body, "messages": cast("list[JsonValue]", list(decided.messages))}
        try:
            result = await upstream.call(decided.decision.model, body, chunks)
        except asyncio.CancelledError:
            outcome = Outcome(
                state="unknown", error="lost", latency_s=time.perf_counter() - started, ended_at=time.time()
            )
            await asyncio.shield(self.desk.settle(decided, outcome))
            raise
        outcome = self._outcome_of(decided, result, time.perf_counter() - started)
        await self.desk.settle(decided, outcome)
        self.metrics.count_outcome(decided.decision, outcome, booked_usd(decided.decision, outcome))
        return _Ended(result=result, outcome=outcome)

    async def _streamed(
        self, task: "asyncio.Task[_Ended]", chunks: "asyncio.Queue[bytes]", headers: Mapping[str, str], asked: Asked
    ) -> Answer:
        """A stream, or the error before its first event."""
        first = asyncio.ensure_future(chunks.get())
        await asyncio.wait({first, task}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            ended = await asyncio.shield(task)
            if ended.result.told is not None:
                return _whole_answer(ended, headers)
        begun = first.result() if first.done() and not first.cancelled() else None
        return Answer(headers=headers, events=_events(begun, task, chunks, asked, model=headers["x-mtrouter-model"]))

    def _outcome_of(self, decided: Decided, result: Result, latency_s: float) -> Outcome:
        """What is written of a call."""
        decision = decided.decision
        card = self.desk.pool.model(decision.model)
        error = "" if result.told is None else result.told.code
        answer, action, head = result.message, None, None
        if answer is not None:
            try:
                action, head = action_of(answer), self.desk.head_of(decided, answer)
            except InvalidConfigError:
                answer, error = None, "upstream_unusable"
        usage = result.usage
        if usage is None and action is not None and self.upstream is not None:
            usage = self.upstream.estimated_usage(decision.model, decided.messages, action)
        cost, reported = _costs(decision, card, usage)
        is_known = result.is_billed is False or cost is not None
        state: State = "done" if answer is not None else "failed" if is_known else "unknown"
        return Outcome(
            state=state,
            head=head,
            served_model=result.served_model,
            usage=usage,
            cost_usd=cost,
            reported_usd=reported,
            answer=answer,
            action=action,
            error=error if state != "done" else "",
            status=None if result.told is None else result.told.status,
            latency_s=latency_s,
            ended_at=time.time(),
        )

    def _outcome_of_report(self, decision: DecisionRow, reported: Reported) -> Outcome:
        card = self.desk.pool.model(decision.model)
        cost = cost_told = None
        if reported.usage is not None:
            reading = read_usage(reported.usage, context_tokens=card.context_tokens)
            cost, cost_told = card.prices.cost_usd(reading.tokens), reading.cost_usd
        answer = reported.answer
        action = None
        if answer is not None:
            try:
                action = action_of(answer)
            except InvalidConfigError as error:
                raise RequestError(400, f"answer: {error}", code="invalid_request", param="answer") from error
        return Outcome(
            state="done" if answer is not None and cost is not None else "failed",
            usage=reported.usage,
            cost_usd=cost,
            reported_usd=reported.cost_usd if reported.cost_usd is not None else cost_told,
            answer=answer,
            action=action,
            error=reported.error,
            latency_s=reported.latency_s,
            ended_at=time.time(),
        )


def _costs(
    decision: DecisionRow, card: ModelCard, usage: Mapping[str, JsonValue] | None
) -> tuple[float | None, float | None]:
    """(cost by the pool's prices, cost as the endpoint says), USD; None where nobody says."""
    if usage is None:
        return None, None
    try:
        reading = read_usage(usage, context_tokens=card.context_tokens)
    except UsageError as problem:
        logger.warning("decision %s: usage of model '%s' cannot be read: %s", decision.id, card.name, problem)
        return None, None
    return card.prices.cost_usd(reading.tokens), reading.cost_usd


def headers_of(decided: Decided) -> dict[str, str]:
    """What the headers of an answer tell of its decision."""
    decision = decided.decision
    return {
        "x-mtrouter-session": decided.session.name,
        "x-mtrouter-decision": decision.id,
        "x-mtrouter-turn": str(decision.turn),
        "x-mtrouter-model": decision.model.encode("ascii", "backslashreplace").decode(),
        "x-mtrouter-propensity": repr(decision.propensity),
        "x-mtrouter-kind": decision.kind,
    }


def _whole_answer(ended: _Ended, headers: Mapping[str, str]) -> Answer:
    told = ended.result.told
    if told is None and ended.outcome.state != "done":
        raise RequestError(
            502, "the reply of the model has no usable message", code="upstream_unusable", headers=headers
        )
    if told is not None:
        error = RequestError(
            told.status, told.message, code=told.code, param=told.param, headers={**headers, **told.headers}
        )
        raise error
    assert ended.result.body is not None
    model = headers["x-mtrouter-model"]
    return Answer(body=dict(ended.result.body) | {"model": model}, headers=headers)


async def _events(
    first: bytes | None,
    task: "asyncio.Task[_Ended]",
    chunks: "asyncio.Queue[bytes]",
    asked: Asked,
    *,
    model: str,
) -> AsyncIterator[bytes]:
    """The events of an answer; the last ones once it is booked."""
    if first is not None:
        yield first
    while not task.done() or not chunks.empty():
        coming = asyncio.ensure_future(chunks.get())
        await asyncio.wait({coming, task}, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            yield coming.result()
        else:
            coming.cancel()
            if chunks.empty():
                break
    try:
        ended = await asyncio.shield(task)
    except MTRouterError as error:
        logger.error("a stream could not be booked: %s", error)
        yield _error_event(
            {"message": "the answer could not be booked", "type": "api_error", "code": "store", "param": None}
        )
        return
    if ended.result.told is not None:
        yield _error_event(cast("Mapping[str, object]", ended.result.told.body["error"]))
        return
    if ended.result.body is not None:  # the endpoint did not stream
        for event in events_of({**ended.result.body, "model": model}, asked.body.get("stream_options")):
            yield event
    for event in ended.result.last:
        yield event
    yield DONE


def _error_event(error: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def _replayed(decision: DecisionRow, headers: Mapping[str, str], asked: Asked) -> Answer:
    """The answer of a request that was answered before."""
    calls = (decision.answer or {}).get("tool_calls")
    choice = {"index": 0, "message": decision.answer, "finish_reason": "tool_calls" if calls else "stop"}
    body = {
        "id": f"chatcmpl-{decision.id}",
        "object": "chat.completion",
        "created": int(decision.created_at),
        "model": decision.model,
        "choices": [choice],
        "usage": decision.usage,
    }
    headers = {**headers, "x-mtrouter-replay": "true"}
    if asked.body.get("stream") is not True:
        return Answer(body=body, headers=headers)

    async def events() -> AsyncIterator[bytes]:
        for event in events_of(cast("Mapping[str, JsonValue]", body), asked.body.get("stream_options")):
            yield event
        yield DONE

    return Answer(headers=headers, events=events())


def _booked(decision: DecisionRow, session: SessionRow) -> dict[str, object]:
    left = None if session.budget_usd is None else session.budget_usd - session.spent_usd
    return {
        "decision_id": decision.id,
        "session": session.name,
        "cost_usd": decision.cost_usd,
        "spent_usd": session.spent_usd,
        "budget_left_usd": left,
    }
