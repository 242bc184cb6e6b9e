"""Imports spans of OpenTelemetry about calls of models: OTLP JSON, or spans as objects with plain attributes.

`otel_messages` knows the names of the conventions. Files hold `resourceSpans` (and `resourceLogs`, whose records of GenAI
events are joined by span), or spans one by one. A span of a model is a call; a span of a model above another one of the same
call (a framework's around a client's) is passed over. A session is the conversation or session id, or the trace. The agent
of a call is the nearest span of an agent above it. `gen_ai.evaluation.result` events are scores.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from mtrouter_rl.datasets.importers.base import Amount, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import BAD_SHAPE, call_usage, read_message, read_messages
from mtrouter_rl.datasets.importers.formats.call_logs import (
    FAILED_CALL,
    CallLogImporter,
    CallLogOptions,
    Models,
    broken,
    candidates_of,
    facts_of,
    fingerprint,
    propensity_of,
)
from mtrouter_rl.datasets.importers.formats.otel_messages import (
    Span,
    answer_of,
    attributes_of,
    prompt_of,
    value_of,
)
from mtrouter_rl.datasets.importers.formats.rows import (
    Object,
    as_list,
    as_number,
    as_object,
    as_text,
    first_of,
    read_rows,
)
from mtrouter_rl.datasets.importers.query_table import read_score
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.datasets.importers.threads import seconds_of
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Frozen, JsonValue

OUTER = "span around another span of the same call, passed over"
OTHER_SCORE = "evaluation of another name than the one that counts, not taken"
BAD_EVALUATION = "evaluation without a number in [-1, 1], not taken"
DOUBLED = "span that is there twice, counted once"
NO_MESSAGES = "call whose messages were not recorded"
EVALUATION = "gen_ai.evaluation.result"
_SESSIONS = (
    "gen_ai.conversation.id",
    "session.id",
    "langfuse.session.id",
    "traceloop.association.properties.session_id",
    "traceloop.association.properties.chat_id",
)
_NANOSECONDS = 1e9


class OTelOptions(CallLogOptions):
    """Options of the format.

    Attributes:
        score_name: Which evaluation is the score of the session.
    """

    score_name: Annotated[
        str | None,
        Field(description="name of the evaluation that is the session's score; needed where there are several"),
    ] = None


class OTelImporter(CallLogImporter):
    """Reads all spans, because those of a trace may lie in several files."""

    options_model: ClassVar[type[Frozen]] = OTelOptions
    description: ClassVar[str] = (
        "spans of OpenTelemetry with GenAI or OpenInference attributes (OTLP JSON, or spans as JSON Lines)"
    )
    env = "otel"
    wanted = "OTLP JSON with 'resourceSpans', or spans with attributes, of which some are calls of models (gen_ai.* or llm.*)"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = sample.first
        if "resourceSpans" in row or "resource_spans" in row:
            return "'resourceSpans'"
        attributes = attributes_of(row.get("attributes"))
        names = [name for name in attributes if name.startswith(("gen_ai.", "llm.", "openinference."))]
        return f"span with attribute {names[0]}" if names else ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all spans that are calls of models, and of evaluations."""
        spans: dict[tuple[str, str], Span] = {}
        logs: list[tuple[str, str, str, Object]] = []
        for path in source.paths:
            for row in read_rows(path, source.report, suffixes=(".json", ".jsonl", ".ndjson")):
                for span in _spans(row.source, row.value):
                    key = (span.trace_id, span.span_id)
                    if key in spans:
                        source.report.pass_over(DOUBLED, source=span.source)
                    spans.setdefault(key, span)
                logs += _logs(row.value)
        for trace_id, span_id, name, value in logs:
            if (trace_id, span_id) in spans:
                spans[trace_id, span_id].events.append((name, value))
        options = self._options
        assert isinstance(options, OTelOptions)
        yield from _Reader(source, spans, options).records()


def _spans(source: str, row: Object) -> Iterator[Span]:
    groups = first_of(row, "resourceSpans", "resource_spans")
    if groups is None:
        if first_of(row, "spanId", "span_id", "context.span_id") is not None:
            yield _span(source, row)
        for index, one in enumerate(as_list(row.get("spans"))):
            yield _span(f"{source}#{index}", as_object(one))
        return
    n = 0
    for group in as_list(groups):
        scopes = first_of(as_object(group), "scopeSpans", "scope_spans", "instrumentationLibrarySpans")
        for scope in as_list(scopes):
            for one in as_list(as_object(scope).get("spans")):
                yield _span(f"{source}#{n}", as_object(one))
                n += 1


def _span(source: str, row: Object) -> Span:
    events = [
        (as_text(event.get("name")), attributes_of(event.get("attributes")))
        for event in map(as_object, as_list(row.get("events")))
    ]
    status = as_object(row.get("status"))
    code = as_text(status.get("code") or status.get("status_code") or row.get("status_code"))
    return Span(
        source=source,
        trace_id=as_text(first_of(row, "traceId", "trace_id", "context.trace_id")),
        span_id=as_text(first_of(row, "spanId", "span_id", "context.span_id")),
        parent_id=as_text(first_of(row, "parentSpanId", "parent_span_id", "parent_id")),
        name=as_text(row.get("name")),
        start_s=_seconds(row, "startTimeUnixNano", "start_time_unix_nano", "start_time"),
        end_s=_seconds(row, "endTimeUnixNano", "end_time_unix_nano", "end_time"),
        attributes=attributes_of(row.get("attributes")),
        events=events,
        is_error=code.upper() in ("2", "ERROR", "STATUS_CODE_ERROR"),
    )


def _seconds(row: Object, *names: str) -> float | None:
    for name in names:
        value = row.get(name)
        number = as_number(value)
        if number is not None and "nano" in name.lower():
            return number / _NANOSECONDS
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return seconds_of(value)
    return None


def _logs(row: Object) -> Iterator[tuple[str, str, str, Object]]:
    for group in as_list(first_of(row, "resourceLogs", "resource_logs")):
        for scope in as_list(first_of(as_object(group), "scopeLogs", "scope_logs")):
            for record in map(as_object, as_list(first_of(as_object(scope), "logRecords", "log_records"))):
                attributes = attributes_of(record.get("attributes"))
                name = as_text(first_of(record, "eventName", "event_name")) or as_text(attributes.get("event.name"))
                body: JsonValue = value_of(record.get("body"))
                value: dict[str, JsonValue] = {**attributes, **({"body": body} if isinstance(body, dict) else {})}
                ids = (first_of(record, "traceId", "trace_id"), first_of(record, "spanId", "span_id"))
                yield as_text(ids[0]), as_text(ids[1]), name, value


class _Reader:
    def __init__(self, source: ImportSource, spans: Mapping[tuple[str, str], Span], options: OTelOptions) -> None:
        self._report = source.report
        self._models = Models(source)
        self._spans = spans
        self._options = options
        self._sessions = self._trace_sessions()

    def records(self) -> Iterator[Record]:
        """Records of calls and evaluations."""
        calls = [span for span in self._spans.values() if span.is_call]
        outer = self._outer(calls)
        for span in sorted(calls, key=lambda span: (span.start_s or 0.0, span.source)):
            if (span.trace_id, span.span_id) in outer:
                self._report.pass_over(OUTER, source=span.source, detail=span.name, amount=Amount())
                continue
            record = self._call(span)
            if record is not None:
                yield record
        yield from self._evaluations({self._session(span) for span in calls})

    def _above(self, span: Span) -> Iterator[Span]:
        seen = {(span.trace_id, span.span_id)}
        while (key := (span.trace_id, span.parent_id)) in self._spans and key not in seen:
            seen.add(key)
            span = self._spans[key]
            yield span

    def _outer(self, calls: Sequence[Span]) -> set[tuple[str, str]]:
        return {(above.trace_id, above.span_id) for span in calls for above in self._above(span) if above.is_call}

    def _trace_sessions(self) -> dict[str, str]:
        """Session of a trace, where any of its spans names one and all that do agree."""
        named: dict[str, set[str]] = defaultdict(set)
        for span in self._spans.values():
            if found := span.text(*_SESSIONS):
                named[span.trace_id].add(found)
        return {trace: names.pop() for trace, names in named.items() if len(names) == 1}

    def _session(self, span: Span) -> str:
        own = span.text(*_SESSIONS)
        inherited = next((found for above in self._above(span) if (found := above.text(*_SESSIONS))), "")
        return own or inherited or self._sessions.get(span.trace_id, "") or span.trace_id

    def _agents(self, span: Span) -> tuple[str, str]:
        """Agent of a call and the one above it; empty for the outermost one."""
        agents = [above for above in self._above(span) if above.agent]
        if len(agents) < 2:
            return "", ""
        inner, outer = agents[0], agents[1]
        return f"{inner.agent}/{inner.span_id}", f"{outer.agent}/{outer.span_id}"

    def _call(self, span: Span) -> Record | None:
        session_id, usage = self._session(span), span.usage
        has_counts = {"prompt_tokens", "completion_tokens"} & usage.keys()
        if span.is_error and not has_counts:
            self._report.pass_over(FAILED_CALL, source=span.source, detail=cut(span.name), amount=Amount())
            return None
        own = as_object(span.attributes.get("metadata"))
        places = (
            own,
            {name.rpartition(".")[2]: value for name, value in span.attributes.items() if "mtrouter." in name},
        )
        try:
            prompt, answer = prompt_of(span), answer_of(span)
            if not prompt or answer is None:
                missing = "messages of the prompt" if not prompt else "answer"
                raise UnusableEpisodeError(
                    NO_MESSAGES,
                    f"the {missing} are not there; record contents (OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true)",
                )
            response = read_message(answer)
            agent_id, parent_id = self._agents(span)
            model, served = self._models.pair(
                [span.text("gen_ai.request.model", "llm.request.model_name", "llm.model_name")],
                [span.text("gen_ai.response.model", "llm.response.model_name", "llm.model_name")],
            )
            facts = facts_of(*places)
            return CallRecord(
                source=span.source,
                session_id=session_id,
                model=model,
                served_model=served,
                messages=tuple(read_messages(prompt)),
                response=response,
                usage=call_usage(usage if has_counts else None, answer_is_empty=not response.action_text),
                request_id=span.text("gen_ai.response.id") or span.span_id,
                timestamp=span.start_s,
                agent_id=agent_id,
                parent_id=parent_id,
                logged_cost_usd=span.cost_usd,
                latency_s=None if span.start_s is None or span.end_s is None else span.end_s - span.start_s,
                propensity=propensity_of(*places),
                candidates=candidates_of(*places),
                facts=SessionFacts(**{**vars(facts), "extra": {**facts.extra, "trace_id": span.trace_id}}),
                fingerprint=fingerprint([span.trace_id, span.span_id]),
            )
        except UnusableEpisodeError as error:
            return broken(span.source, session_id, error, usage)

    def _evaluations(self, sessions: set[str]) -> Iterator[Record]:
        found = [(span, row) for span in self._spans.values() for name, row in span.events if name == EVALUATION]
        names = {as_text(row.get("gen_ai.evaluation.name")) for _, row in found}
        chosen = self._options.score_name or (next(iter(names)) if len(names) == 1 else None)
        if chosen is None and names:
            raise InvalidConfigError(
                f"there are evaluations of several names; say which is the session's score: --option score_name=... "
                f"({', '.join(sorted(names))})"
            )
        for span, row in found:
            session_id = self._session(span)
            if as_text(row.get("gen_ai.evaluation.name")) != chosen or session_id not in sessions:
                self._report.note(OTHER_SCORE, source=span.source, detail=as_text(row.get("gen_ai.evaluation.name")))
                continue
            try:
                score = read_score(row.get("gen_ai.evaluation.score.value"))
            except UnusableEpisodeError as error:
                self._report.note(BAD_EVALUATION, source=span.source, detail=f"{BAD_SHAPE}: {error.detail}")
                continue
            yield ScoreRecord(source=span.source, session_id=session_id, facts=SessionFacts(score=score))
