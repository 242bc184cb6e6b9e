"""Imports what LiteLLM logs: rows of its spend logs, and standard logging payloads.

Source: github.com/BerriAI/litellm, `litellm/types/utils.py` (`StandardLoggingPayload`), `schema.prisma`
(`LiteLLM_SpendLogs`) and docs/proxy/logging_spec. Files are JSON, JSON Lines, or CSV whose cells hold JSON. A session is
`session_id`, or one in the caller's metadata, or `trace_id`. Tokens are the usage object where the row has one, because the
three counts beside it say nothing of the cache; if they differ that is noted. `spend` or `response_cost` is compared.

Spend logs hold messages only if `store_prompts_in_spend_logs` is set.
"""

from collections.abc import Iterator
from typing import ClassVar

from mtrouter_rl.datasets.importers.base import Amount, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import CallRecord, Record, SessionFacts
from mtrouter_rl.datasets.importers.chat import BAD_SHAPE, ChatMessage, call_usage, read_message, read_messages
from mtrouter_rl.datasets.importers.formats.call_logs import (
    FAILED_CALL,
    OTHER_CALL,
    CallLogImporter,
    Models,
    broken,
    candidates_of,
    facts_of,
    fingerprint,
    propensity_of,
    session_of,
)
from mtrouter_rl.datasets.importers.formats.openai_pairs import read_prompt, read_reply
from mtrouter_rl.datasets.importers.formats.rows import (
    Object,
    Row,
    as_list,
    as_number,
    as_object,
    as_text,
    first_of,
    parsed,
    read_rows,
)
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.datasets.importers.threads import seconds_of
from mtrouter_rl.pools.usage import UsageReading, known_tokens
from mtrouter_rl.records import JsonValue, TokenUsage

CACHE_HIT = "answer of the gateway's own cache, which cost nothing"
OTHER_COUNT = "tokens that the row counts otherwise than its usage object, which counts"
NOT_A_ROW = "object that is no row of a spend log and no logging payload"
NO_PROMPT = "call whose messages were not stored"
_CHATS = ("completion", "acompletion", "responses", "aresponses", "anthropic_messages", "generate_content", "")
_WRAPPERS = ("standard_logging_object", "payload")


class LiteLLMImporter(CallLogImporter):
    """Reads rows one by one."""

    description: ClassVar[str] = "spend logs and standard logging payloads of LiteLLM (JSON, JSON Lines or CSV)"
    env = "litellm"
    wanted = "rows of LiteLLM_SpendLogs or StandardLoggingPayload objects, with model, messages, response and spend"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = _inner(sample.first)
        if {"call_type", "spend", "request_id"} <= row.keys():
            return "call_type, spend and request_id of a spend log"
        is_payload = {"call_type", "response_cost", "model"} <= row.keys() or "standard_logging_object" in sample.first
        return "call_type and response_cost of a standard logging payload" if is_payload else ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all rows that are calls of a chat."""
        read = _Reader(source)
        for path in source.paths:
            for row in read_rows(path, source.report):
                for index, value in enumerate(_rows(row)):
                    record = read.record(row.source if index == 0 else f"{row.source}#{index}", _inner(value))
                    if record is not None:
                        yield record


def _rows(row: Row) -> list[Object]:
    """The row itself, or those of an answer of the API (`data`)."""
    inner = row.value.get("data")
    if isinstance(inner, list) and "call_type" not in row.value:
        return [as_object(one) for one in inner]
    return [row.value]


def _inner(value: Object) -> Object:
    return next((as_object(value[name]) for name in _WRAPPERS if as_object(value.get(name))), value)


class _Reader:
    def __init__(self, source: ImportSource) -> None:
        self._report = source.report
        self._models = Models(source)

    def record(self, source: str, row: Object) -> Record | None:
        """Record of a row; None if it is no call of a chat, or failed."""
        if not {"model", "model_group", "call_type"} & row.keys():
            self._report.reject(NOT_A_ROW, source=source, detail=f"has {cut(', '.join(row), 120)}")
            return None
        metadata = as_object(row.get("metadata"))
        own = [as_object(metadata.get(key)) for key in ("requester_metadata", "spend_logs_metadata")]
        session_id = session_of({"session_id": row.get("session_id")}, *own, metadata, row)
        usage = self._raw_usage(source, row, metadata)
        cost = as_number(first_of(row, "spend", "response_cost"))
        if as_text(row.get("call_type")).removeprefix("a") not in [name.removeprefix("a") for name in _CHATS]:
            amount = broken(source, "", UnusableEpisodeError(OTHER_CALL), usage).amount
            self._report.pass_over(OTHER_CALL, source=source, detail=as_text(row.get("call_type")), amount=amount)
            return None
        if "failure" in (row.get("status"), metadata.get("status")):
            detail = as_text(first_of(row, "error_str", "metadata.error_information.error_message"))
            self._report.pass_over(FAILED_CALL, source=source, detail=cut(detail), amount=Amount())
            return None
        try:
            return self._call(source, row, [*own, metadata], session_id, usage, cost)
        except UnusableEpisodeError as error:
            return broken(source, session_id, error, usage)

    def _raw_usage(self, source: str, row: Object, metadata: Object) -> dict[str, JsonValue]:
        counts = {
            name: number
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            if (number := as_number(row.get(name))) is not None
        }
        whole = as_object(first_of(row, "response.usage")) or as_object(metadata.get("usage_object"))
        if not whole:
            return dict(counts)
        for name, number in counts.items():
            said = as_number(whole.get(name))
            if said is not None and said != number:
                self._report.note(OTHER_COUNT, source=source, detail=f"{name}: {number:g} and {said:g}")
        return dict(whole)

    def _call(
        self,
        source: str,
        row: Object,
        own: list[Object],
        session_id: str,
        usage: dict[str, JsonValue],
        cost: float | None,
    ) -> CallRecord:
        if not session_id:
            raise UnusableEpisodeError(BAD_SHAPE, "session_id, metadata.session_id and trace_id are missing; log one")
        messages = _prompt(row)
        response = _response(row)
        is_hit = as_text(row.get("cache_hit")).lower() == "true" or row.get("cache_hit") is True
        reading: UsageReading
        if is_hit and not cost:
            self._report.note(CACHE_HIT, source=source)
            reading = known_tokens(TokenUsage(n_fresh=0, n_output=0), cost_usd=0.0)
        else:
            reading = call_usage(usage or None, answer_is_empty=not response.action_text)
        provider = as_text(row.get("custom_llm_provider"))
        name = as_text(row.get("model"))
        served = [name, f"{provider}/{name}" if provider else "", as_text(first_of(row, "response.model"))]
        model, other = self._models.pair([as_text(row.get("model_group"))], served)
        start, end = (seconds_of(_moment(row.get(key))) for key in ("startTime", "endTime"))
        trace_id = as_text(row.get("trace_id"))
        facts = facts_of(*own)
        return CallRecord(
            source=source,
            session_id=session_id,
            model=model,
            served_model=other,
            messages=tuple(messages),
            response=response,
            usage=reading,
            request_id=as_text(first_of(row, "request_id", "id")),
            timestamp=start,
            logged_cost_usd=cost,
            latency_s=None if start is None or end is None else end - start,
            propensity=propensity_of(*own),
            candidates=candidates_of(*own),
            agent_id=as_text(first_of(row, "agent_id", "metadata.agent_id")),
            facts=_with_extra(facts, {"trace_id": trace_id} if trace_id else {}),
            fingerprint=fingerprint(row),
        )


def _with_extra(facts: SessionFacts, extra: dict[str, JsonValue]) -> SessionFacts:
    return SessionFacts(**{**vars(facts), "extra": {**facts.extra, **extra}})


def _moment(value: JsonValue | None) -> str | float | None:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _prompt(row: Object) -> list[ChatMessage]:
    given = parsed(row.get("messages"))
    if isinstance(given, list) and given:
        return read_messages(given)
    request = as_object(row.get("proxy_server_request"))
    body = as_object(request.get("body")) or request
    if as_list(body.get("messages")) or body.get("input"):
        return read_prompt(body)
    if isinstance(given, str) and given.strip() and "redacted" not in given:
        return read_messages(given)
    raise UnusableEpisodeError(
        NO_PROMPT,
        f"messages is {cut(repr(given), 40)}; set store_prompts_in_spend_logs, and turn_off_message_logging to false",
    )


def _response(row: Object) -> ChatMessage:
    given = parsed(row.get("response"))
    if isinstance(given, dict) and given:
        return read_reply(given).message
    if isinstance(given, list) and given:
        return read_message({"role": "assistant", **as_object(as_object(given[0]).get("message") or given[0])})
    if isinstance(given, str) and "redacted" not in given:
        return read_message({"role": "assistant", "content": given})
    raise UnusableEpisodeError(NO_PROMPT, f"response is {cut(repr(given), 40)}; the answer was not stored")
