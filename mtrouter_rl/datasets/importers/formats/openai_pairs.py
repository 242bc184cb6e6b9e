"""Imports whole requests and responses: pairs as a proxy logs them, stored completions, and OpenAI's batch files.

Sources: the published API references of OpenAI (chat completions, responses, batch), Anthropic (messages) and Google
(`generateContent`). A row is an object with `request` and `response`; or a response that holds its own `messages` or
`input`; or a line of a batch's input (`custom_id`, `body`) or output (`custom_id`, `response`), which are joined by
`custom_id`. A session id is looked for in the row, in the request's `metadata`, and in headers; a call without one is put
to the session whose conversation it goes on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from mtrouter_rl.datasets.importers.base import Amount, ImportReport, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import BrokenRecord, CallRecord, Record
from mtrouter_rl.datasets.importers.chat import BAD_SHAPE, ChatMessage, call_usage, read_message, read_messages
from mtrouter_rl.datasets.importers.formats.call_logs import (
    BY_PREFIX,
    FAILED_CALL,
    OTHER_CALL,
    CallLogImporter,
    Models,
    PrefixSessions,
    broken,
    candidates_of,
    facts_of,
    fingerprint,
    propensity_of,
    session_of,
)
from mtrouter_rl.datasets.importers.formats.rows import (
    Object,
    Row,
    as_list,
    as_number,
    as_object,
    as_text,
    first_of,
    read_rows,
)
from mtrouter_rl.datasets.importers.messages import merge
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.records import JsonValue

NO_REQUEST = "answer of a batch whose request is not in the log"
NO_ANSWER = "request of a batch whose answer is not in the log"
TWO_REQUESTS = "requests of several batches under one custom_id"
SEVERAL_CHOICES = "call that asked for several answers (n), of which the first counts and all were billed"
NOT_A_PAIR = "object that is no request with its response"
STREAM = "response that is a list of chunks of a stream"
_RESPONSE_OBJECTS = ("chat.completion", "response")
_HEADERS = (
    "x-session-id",
    "session-id",
    "session_id",
    "x-conversation-id",
    "helicone-session-id",
    "x-litellm-session-id",
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A request and what came back.

    Attributes:
        source: Where the answer is.
        row: The row that holds it.
        request: Body of the request.
        response: Body of the response.
        headers: Headers of the request, in lower case.
        fresh_id: Session id where nothing else says one; empty to go by the conversation.
    """

    source: str
    row: Object
    request: Object
    response: Object
    headers: Object = field(default_factory=dict)
    fresh_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a response says, whoever's form it has.

    Attributes:
        message: The answer.
        usage: Its tokens as logged.
        model: Model that answered.
        response_id: Its id.
        created: When, seconds since 1970.
        n_choices: How many answers there are.
    """

    message: ChatMessage
    usage: object
    model: str
    response_id: str
    created: float | None
    n_choices: int = 1


class OpenAIPairsImporter(CallLogImporter):
    """Reads pairs one by one; of batches it holds the requests."""

    description: ClassVar[str] = (
        "whole requests and responses (OpenAI chat completions and responses, Anthropic, Gemini): pairs, stored completions, "
        "batch input with batch output"
    )
    env = "openai-pairs"
    wanted = "JSON or JSON Lines of objects with 'request' and 'response', or a batch's input and output files together"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = sample.first
        if "custom_id" in row and ("body" in row or "response" in row):
            return "custom_id of a batch"
        if {"request", "response"} <= row.keys() and isinstance(as_object(row["response"]), Mapping):
            return "'request' and 'response'"
        is_stored = row.get("object") in _RESPONSE_OBJECTS and ("messages" in row or "input" in row)
        return f"object '{row.get('object')}' with its messages" if is_stored else ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all pairs, in the order of time where the log gives it."""
        read = _Reader(source)
        pairs = list(read.pairs(source))
        pairs.sort(key=lambda pair: _created(pair.response) or 0.0)
        for pair in pairs:
            record = read.record(pair)
            if record is not None:
                yield record
        yield from read.lost


class _Reader:
    """Makes records of pairs, or counts why it cannot."""

    def __init__(self, source: ImportSource) -> None:
        self._report: ImportReport = source.report
        self._models = Models(source)
        self._prefixes = PrefixSessions()
        self._sessions: dict[str, str] = {}
        self.lost: list[BrokenRecord] = []
        """Answers of batches whose requests are not there, once `pairs` is through."""

    def pairs(self, source: ImportSource) -> Iterator[Pair]:
        """Every request with its response."""
        asked: dict[str, list[Row]] = {}
        answered: list[Row] = []
        for path in source.paths:
            for row in read_rows(path, source.report):
                if "custom_id" in row.value:
                    custom_id = as_text(row.value["custom_id"])
                    if "body" in row.value:
                        asked.setdefault(custom_id, []).append(row)
                    else:
                        answered.append(row)
                    continue
                pair = _pair(row)
                if pair is None:
                    detail = f"has {', '.join(list(row.value)[:8])}; needs 'request' and 'response'"
                    self._report.reject(NOT_A_PAIR, source=row.source, detail=cut(detail, 200))
                else:
                    yield pair
        yield from self._joined(asked, answered)

    def _joined(self, asked: Mapping[str, list[Row]], answered: Sequence[Row]) -> Iterator[Pair]:
        waiting = dict(asked)
        for row in answered:
            custom_id = as_text(row.value["custom_id"])
            response = as_object(row.value.get("response"))
            body = as_object(response.get("body"))
            requests = asked.get(custom_id, [])
            waiting.pop(custom_id, None)
            if not body or as_object(body.get("error")) or row.value.get("error"):
                detail = f"custom_id '{custom_id}': {cut(str(row.value.get('error') or body.get('error')))}"
                self._report.pass_over(FAILED_CALL, source=row.source, detail=detail)
                continue
            bodies = {fingerprint(request.value.get("body")) for request in requests}
            if len(bodies) != 1:
                reason = TWO_REQUESTS if bodies else NO_REQUEST
                detail = f"custom_id '{custom_id}'; give the batch's input file as a further PATH"
                self.lost.append(broken(row.source, custom_id, UnusableEpisodeError(reason, detail), body.get("usage")))
                continue
            request = as_object(requests[0].value["body"])
            yield Pair(source=row.source, row=row.value, request=request, response=body, fresh_id=custom_id)
        for custom_id, rows in waiting.items():
            self._report.pass_over(NO_ANSWER, source=rows[0].source, detail=f"custom_id '{custom_id}'")

    def record(self, pair: Pair) -> Record | None:
        """Record of a pair; None if it is no call of a chat, or was not billed."""
        metadata = as_object(pair.request.get("metadata"))
        own = as_object(pair.row.get("metadata"))
        places = (pair.row, own, metadata)
        named = session_of(*places) or next((as_text(pair.headers[key]) for key in _HEADERS if key in pair.headers), "")
        usage = first_of(pair.response, "usage", "usageMetadata")
        if usage is None and (pair.response.get("error") or not pair.response):
            detail = cut(str(pair.response.get("error") or "no response"))
            self._report.pass_over(FAILED_CALL, source=pair.source, detail=detail)
            return None
        if pair.response.get("object") in ("list", "moderation") or (
            "input" in pair.request and "data" in pair.response
        ):
            self._report.pass_over(OTHER_CALL, source=pair.source, amount=Amount.of_call(None, None))
            return None
        try:
            prompt, reply = read_prompt(pair.request), read_reply(pair.response)
            if not prompt:
                raise UnusableEpisodeError(
                    BAD_SHAPE, "request has no messages, input or contents; log the whole request"
                )
            reading = call_usage(usage, answer_is_empty=not reply.message.action_text, where="response.usage")
            session_id = self._session(pair, named, prompt, reply)
            if reply.n_choices > 1:
                self._report.note(SEVERAL_CHOICES, source=pair.source, detail=f"{reply.n_choices} answers")
            model, served = self._models.pair([as_text(pair.request.get("model"))], [reply.model])
            return CallRecord(
                source=pair.source,
                session_id=session_id,
                model=model,
                served_model=served,
                messages=tuple(prompt),
                response=reply.message,
                usage=reading,
                request_id=reply.response_id,
                timestamp=_time(pair.row, reply.created),
                latency_s=as_number(first_of(pair.row, "latency_s", "duration_s")),
                propensity=propensity_of(*places),
                candidates=candidates_of(*places),
                facts=facts_of(own, metadata, *([pair.row] if "response" in pair.row else [])),
                fingerprint=fingerprint(pair.row),
            )
        except UnusableEpisodeError as error:
            return broken(pair.source, named or pair.fresh_id, error, usage)

    def _session(self, pair: Pair, named: str, prompt: Sequence[ChatMessage], reply: Reply) -> str:
        earlier = as_text(pair.request.get("previous_response_id"))
        conversation = pair.request.get("conversation")
        conversation_id = as_text(as_object(conversation).get("id")) or as_text(conversation)
        session_id = named or conversation_id or self._sessions.get(earlier, "")
        if not session_id:
            fresh = pair.fresh_id or reply.response_id or pair.source
            session_id, is_known = self._prefixes.session(prompt, reply.message, fresh=fresh)
            if is_known:
                self._report.note(BY_PREFIX, source=pair.source)
        if reply.response_id:
            self._sessions[reply.response_id] = session_id
        return session_id


def _pair(row: Row) -> Pair | None:
    value = row.value
    if "request" in value and "response" in value:
        request, response = as_object(value["request"]), as_object(value["response"])
        body = as_object(request.get("body")) or as_object(request.get("json")) or request
        answer = as_object(response.get("body")) or as_object(response.get("json")) or response
        headers = {key.lower(): one for key, one in as_object(request.get("headers")).items()}
        return Pair(source=row.source, row=value, request=body, response=answer, headers=headers)
    if value.get("object") in _RESPONSE_OBJECTS and ("messages" in value or "input" in value):
        return Pair(source=row.source, row=value, request=value, response=value)
    return None


def read_prompt(request: Object) -> list[ChatMessage]:
    """Messages of a request in OpenAI's, Anthropic's or Google's form.

    Raises:
        UnusableEpisodeError: If a message is none of a form that is known.
    """
    messages: list[object] = []
    system = first_of(request, "system", "instructions", "systemInstruction", "system_instruction")
    if system is not None:
        parts = as_object(system).get("parts")
        messages.append({"role": "system", "content": parts if parts is not None else system})
    given = first_of(request, "messages", "input", "contents")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    else:
        messages += as_list(given)
    return read_messages(messages)


def read_reply(response: Object) -> Reply:
    """Answer of a response in OpenAI's, Anthropic's or Google's form.

    Raises:
        UnusableEpisodeError: If it has none.
    """
    model = as_text(first_of(response, "model", "modelVersion"))
    response_id = as_text(first_of(response, "id", "responseId"))
    usage = first_of(response, "usage", "usageMetadata")
    message, n_choices = _answer(response)
    return Reply(
        message=message,
        usage=usage,
        model=model,
        response_id=response_id,
        created=_created(response),
        n_choices=n_choices,
    )


def _answer(response: Object) -> tuple[ChatMessage, int]:
    choices = response.get("choices")
    if isinstance(choices, list):
        if not choices:
            return read_message({"role": "assistant", "content": None}), 0
        first = as_object(choices[0])
        if "message" not in first:
            raise UnusableEpisodeError(
                BAD_SHAPE, "choices.0.message is missing; log the whole response, not its chunks"
            )
        return read_message({"role": "assistant", **as_object(first["message"])}), len(choices)
    output = response.get("output")
    if isinstance(output, list):
        items = [message for message in read_messages(output) if message.role == "assistant"]
        return (merge(items) if items else read_message({"role": "assistant", "content": None})), 1
    if isinstance(response.get("candidates"), list):
        candidates = [as_object(one) for one in cast("list[JsonValue]", response["candidates"])]
        content = as_object(candidates[0].get("content")) if candidates else {}
        return read_message({"role": "assistant", "parts": content.get("parts") or []}), len(candidates)
    if response.get("role") == "assistant" and "content" in response:
        return read_message({"role": "assistant", "content": response["content"]}), 1
    raise UnusableEpisodeError(
        BAD_SHAPE, f"response has no choices, output, content or candidates (has {cut(', '.join(response), 100)})"
    )


def _created(response: Object) -> float | None:
    return as_number(first_of(response, "created", "created_at"))


def _time(row: Object, created: float | None) -> str | float | None:
    given = first_of(row, "timestamp", "time", "start_time", "startTime")
    return created if given is None or isinstance(given, bool | dict | list) else given
