"""Requests of clients, read and checked: nothing that is wrong in one goes further than this."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import UsageError
from mtrouter_rl.files import parse_json
from mtrouter_rl.pools.usage import read_usage
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.problems import RequestError, bad_request
from mtrouter_rl.serving.service.talk import Prompt

MAX_DEPTH = 60
MAX_MESSAGES = 10_000
_NAME = re.compile(r"[\x21-\x7e]{1,200}")
_STATUSES = ("completed", "truncated", "failed")
_LIMITS = ("max_completion_tokens", "max_tokens")
SESSION_HEADER, REQUEST_HEADER, TASK_HEADER = "x-mtrouter-session", "x-mtrouter-request", "x-mtrouter-task"

Body = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that a gateway offers.

    Attributes:
        model: Its name in the pool.
        n_cached: Tokens of the conversation in its prompt cache; None if nobody knows.
        most_usd: What the call can cost at most, as the gateway reckons; None takes the pool's prices.
    """

    model: str
    n_cached: int | None = None
    most_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A turn that is asked for.

    Attributes:
        key_id: Who asks.
        prompt: The conversation.
        session_name: Its session, if the client names it.
        request_id: Name of the request, if it has one: asked again, it is answered alike.
        task: Kind of task.
        model: Model of the pool that the client wants; None leaves it to the router.
        n_output: Output limit of the call.
        candidates: Models that may be called; None for all.
        budget_usd: Budget of the session, if the client sets one.
        body: The whole request.
    """

    key_id: str
    prompt: Prompt
    session_name: str | None = None
    request_id: str | None = None
    task: str | None = None
    model: str | None = None
    n_output: int | None = None
    candidates: tuple[Candidate, ...] | None = None
    budget_usd: float | None = None
    body: Body = field(default_factory=dict)


def read_body(raw: bytes) -> dict[str, JsonValue]:
    """JSON object of a request.

    Raises:
        RequestError: If it is none.
    """
    try:
        text = raw.decode()
        value = parse_json(text, max_depth=MAX_DEPTH, is_unique=False)
        if "\\u" in text or "NaN" in text or "Infinity" in text or "1e" in text or "1E" in text:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise bad_request(f"the body is no usable JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body is a JSON {type(value).__name__}, must be an object", code="invalid_json")
    return value


def chat_request(
    body: dict[str, JsonValue], headers: Mapping[str, str], *, key_id: str, pool: PoolCard, routed_name: str
) -> Asked:
    """A request of `/v1/chat/completions`.

    Raises:
        RequestError: If a field breaks its rule.
    """
    model = _text(body, "model", required=True)
    if model != routed_name and model not in pool.model_names:
        names = ", ".join((routed_name, *pool.model_names))
        raise RequestError(
            404, f"the model '{str(model)[:100]}' does not exist; valid: {names}", code="model_not_found", param="model"
        )
    if body.get("n") not in (None, 1):
        raise bad_request(f"n is {str(body['n'])[:40]}, must be 1: a session goes on from one answer", param="n")
    if not isinstance(body.get("stream"), bool | None):
        raise bad_request("stream must be true or false", param="stream")
    if not isinstance(body.get("stream_options"), dict | None):
        raise bad_request("stream_options must be an object", param="stream_options")
    if not isinstance(body.get("tools"), list | None):
        raise bad_request("tools must be a list", param="tools")
    return Asked(
        key_id=key_id,
        prompt=read_prompt(body),
        session_name=header_name(headers, SESSION_HEADER),
        request_id=header_name(headers, REQUEST_HEADER),
        task=header_name(headers, TASK_HEADER),
        model=None if model == routed_name else model,
        n_output=_output_limit(body),
        body=body,
    )


def route_request(body: dict[str, JsonValue], headers: Mapping[str, str], *, key_id: str, pool: PoolCard) -> Asked:
    """A request of `/route`.

    Raises:
        RequestError: If a field breaks its rule.
    """
    known = {"messages", "session", "request_id", "task", "candidates", "max_output_tokens", "budget_usd", "tools"}
    unknown = sorted(set(body) - known)
    if unknown:
        raise bad_request(
            f"unknown field '{unknown[0][:60]}'; known: {', '.join(sorted(known))}", param=unknown[0][:60]
        )
    budget = number(body, "budget_usd", least=0.0)
    if budget == 0:
        raise bad_request("budget_usd is 0, must be above 0; leave it out for no limit", param="budget_usd")
    return Asked(
        key_id=key_id,
        prompt=read_prompt(body),
        session_name=_name(body, "session") or header_name(headers, SESSION_HEADER),
        request_id=_name(body, "request_id") or header_name(headers, REQUEST_HEADER),
        task=_name(body, "task") or header_name(headers, TASK_HEADER),
        n_output=_count(body, "max_output_tokens", least=1),
        candidates=_candidates(body, pool),
        budget_usd=budget,
        body=body,
    )


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a client says of a call that it was told to make.

    Attributes:
        decision_id: Which.
        usage: Tokens; None if nothing was billed.
        cost_usd: What it cost, as the client reckons.
        answer: The assistant's message; None if none came.
        error: Kind of error.
        latency_s: Duration.
    """

    decision_id: str
    usage: Mapping[str, JsonValue] | None
    cost_usd: float | None
    answer: Mapping[str, JsonValue] | None
    error: str
    latency_s: float | None


def outcome_request(body: dict[str, JsonValue]) -> Reported:
    """A request of `/outcome`.

    Raises:
        RequestError: If a field breaks its rule.
    """
    decision_id = _name(body, "decision_id")
    if decision_id is None:
        raise bad_request("decision_id is missing; give the one that /route answered with", param="decision_id")
    usage, answer = body.get("usage"), body.get("answer")
    if isinstance(answer, str):
        answer = {"role": "assistant", "content": answer}
    if not isinstance(answer, dict | None):
        raise bad_request("answer must be a text or a message", param="answer")
    if not isinstance(usage, dict | None):
        raise bad_request("usage must be an object", param="usage")
    if usage is not None:
        try:
            read_usage(usage)
        except UsageError as error:
            raise bad_request(str(error), param="usage") from None
    error_kind = _text(body, "error") or ""
    if usage is None and not error_kind:
        raise bad_request(
            "usage is missing; give the usage of the call, or say by 'error' why there is none", param="usage"
        )
    if answer is None and not error_kind:
        raise bad_request(
            "answer is missing; give the message of the model, or say by 'error' why there is none", param="answer"
        )
    return Reported(
        decision_id=decision_id,
        usage=usage,
        cost_usd=number(body, "cost_usd", least=0.0),
        answer=None if answer is None else {"role": "assistant"} | answer,
        error=error_kind[:200],
        latency_s=number(body, "latency_s", least=0.0),
    )


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What a client says of a session.

    Attributes:
        session: Its name or id.
        score: Score divided by its maximum.
        status: How it ended.
        detail: Why it failed, or anything else.
    """

    session: str
    score: float | None
    status: str | None
    detail: str | None


def feedback_request(body: dict[str, JsonValue], headers: Mapping[str, str]) -> Feedback:
    """A request of `/feedback`.

    Raises:
        RequestError: If a field breaks its rule.
    """
    session = _name(body, "session") or header_name(headers, SESSION_HEADER)
    if session is None:
        raise bad_request("session is missing; give the one of the answer's headers", param="session")
    score = number(body, "score", least=-1.0, most=1.0)
    status, detail = _text(body, "status"), _text(body, "detail")
    if status not in (None, *_STATUSES):
        raise bad_request(f"status must be one of {', '.join(_STATUSES)}", param="status")
    if score is None and status is None:
        raise bad_request("score and status are missing; give at least one of them", param="score")
    return Feedback(session=session, score=score, status=status, detail=None if detail is None else detail[:2000])


def read_prompt(body: Body) -> Prompt:
    """The messages of a request.

    Raises:
        RequestError: If they are no list of messages.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list with at least one message", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise bad_request(f"messages has {len(messages)} entries, must have at most {MAX_MESSAGES}", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request(f"messages.{place} must be an object with a role", param=f"messages.{place}")
    return Prompt(tuple(cast("list[dict[str, object]]", messages)))


def header_name(headers: Mapping[str, str], name: str) -> str | None:
    """A name in a header.

    Raises:
        RequestError: If it holds what no name has.
    """
    value = headers.get(name)
    if value is not None and not _NAME.fullmatch(value):
        raise bad_request(f"header {name} must have 1 to 200 visible ASCII characters and no blank", param=name)
    return value


def number(body: Body, name: str, *, least: float, most: float = math.inf) -> float | None:
    """A number of a request.

    Raises:
        RequestError: If it is none, or outside its range.
    """
    value = body.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    if not is_number or not least <= cast("float", value) <= most:
        raise bad_request(f"{name} is {str(value)[:40]}, must be a number from {least:g} to {most:g}", param=name)
    return float(cast("float", value))


def _count(body: Body, name: str, *, least: int) -> int | None:
    value = number(body, name, least=least)
    if value is not None and not value.is_integer():
        raise bad_request(f"{name} is {value}, must be a whole number", param=name)
    return None if value is None else int(value)


def _output_limit(body: Body) -> int | None:
    given = [_count(body, name, least=1) for name in _LIMITS]
    return next((limit for limit in given if limit is not None), None)


def _text(body: Body, name: str, *, required: bool = False) -> str | None:
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value):
        raise bad_request(f"{name} must be a text", param=name)
    return value


def _name(body: Body, name: str) -> str | None:
    value = _text(body, name)
    if value is not None and not _NAME.fullmatch(value):
        raise bad_request(f"{name} must have 1 to 200 visible ASCII characters and no blank", param=name)
    return value


def _candidates(body: Body, pool: PoolCard) -> tuple[Candidate, ...] | None:
    given = body.get("candidates")
    if given is None:
        return None
    if not isinstance(given, list) or not given:
        raise bad_request("candidates must be a list with at least one model", param="candidates")
    found = []
    for place, one in enumerate(given):
        where = f"candidates.{place}"
        entry: Body = {"model": one} if isinstance(one, str) else one if isinstance(one, dict) else {}
        unknown = sorted(set(entry) - {"model", "cached_tokens", "max_cost_usd"})
        if entry.get("model") not in pool.model_names or unknown:
            names = ", ".join(pool.model_names)
            raise bad_request(
                f"{where} must be a model of the pool ({names}), or an object with model, cached_tokens and max_cost_usd",
                param=where,
            )
        found.append(
            Candidate(
                model=str(entry["model"]),
                n_cached=_count(entry, "cached_tokens", least=0),
                most_usd=number(entry, "max_cost_usd", least=0.0),
            )
        )
    return tuple(found)
