"""Imports exports of Langfuse: traces with their observations, or observations and scores in files of their own.

Source: the API reference of Langfuse (`TraceWithFullDetails`, `Observation`, `Score`) and its reference of exported fields
(blob storage: `traces`, `observations`, `observations_v2`, `scores`). A GENERATION is a call. A session is the trace's
`sessionId`, or the trace. Scores of a trace or session are those of its session; if they have several names, an option says
which one is the score.

Langfuse lists tokens as buckets that add up to the total (`input`, `input_cached_tokens`, `output`,
`output_reasoning_tokens`...), while callers may log OpenAI's counts, where the cached ones are part of the input. The
total decides.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from mtrouter_rl.datasets.importers.base import Amount, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import BAD_SHAPE, ChatMessage, call_usage, read_message, read_messages
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
from mtrouter_rl.datasets.importers.formats.openai_pairs import read_reply
from mtrouter_rl.datasets.importers.formats.rows import (
    Object,
    as_list,
    as_number,
    as_object,
    as_text,
    first_of,
    parsed,
    read_rows,
)
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT, BAD_SCORE, read_score
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.datasets.importers.threads import seconds_of
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Frozen, JsonValue

OTHER_SCORE = "score of another name than the one that counts, or of a single call, not taken"
BAD_SCORE_ROW = "score that is no number in [-1, 1], not taken"
LONELY_SCORES = "score of a trace that is not in the export"
NO_GENERATION = "trace without a call of a model"
_CACHED = ("cached", "cache_read")
_WRITTEN = ("cache_creation", "cache_write", "cache_creat")
_REASONING = ("reasoning", "thoughts", "thinking")
_CALLS = ("GENERATION",)


class LangfuseOptions(CallLogOptions):
    """Options of the format.

    Attributes:
        score_name: Which score is that of the session.
        max_score: Value of full success.
    """

    score_name: Annotated[
        str | None, Field(description="name of the score that is the session's; needed where there are several")
    ] = None
    max_score: Annotated[float, Field(gt=0, allow_inf_nan=False, description="value of full success")] = 1.0


@dataclass
class _Export:
    """What was read so far."""

    sessions: dict[str, str] = field(default_factory=dict)
    traces: dict[str, Object] = field(default_factory=dict)
    observations: list[tuple[str, Object]] = field(default_factory=list)
    scores: list[tuple[str, Object]] = field(default_factory=list)


class LangfuseImporter(CallLogImporter):
    """Reads whole exports, because traces, observations and scores may lie in files of their own."""

    options_model: ClassVar[type[Frozen]] = LangfuseOptions
    description: ClassVar[str] = "exports of Langfuse: traces, observations and scores (JSON, JSON Lines or CSV)"
    env = "langfuse"
    wanted = "traces with 'observations', or exported observations and scores together, as JSON, JSON Lines or CSV"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        for row in (sample.first, *map(as_object, as_list(sample.first.get("data"))[:1])):
            if isinstance(row.get("observations"), list) and (
                "projectId" in row or "scores" in row or "htmlPath" in row
            ):
                return "trace with 'observations'"
            if as_text(row.get("type")) in ("GENERATION", "SPAN", "EVENT") and _get(row, "traceId") is not None:
                return "observation with type and traceId"
            if _get(row, "dataType") is not None and _get(row, "traceId") is not None and "value" in row:
                return "score with traceId and value"
        return ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all generations, and of the scores of their traces."""
        export = _Export()
        for path in source.paths:
            for row in read_rows(path, source.report):
                inner = as_list(row.value.get("data"))
                for value in map(as_object, inner) if inner else (row.value,):
                    _sort(export, row.source, value)
        options = self._options
        assert isinstance(options, LangfuseOptions)
        yield from _Reader(source, export, options).records()


def _get(row: Object, name: str) -> JsonValue | None:
    """A field, in the form of the API or of the export (`traceId`, `trace_id`)."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return first_of(row, name, snake)


def _sort(export: _Export, source: str, row: Object) -> None:
    if as_text(row.get("type")) and _get(row, "traceId") is not None:
        export.observations.append((source, row))
    elif ("value" in row and _get(row, "dataType") is not None) or "stringValue" in row or "string_value" in row:
        export.scores.append((source, row))
    elif "id" in row:
        trace_id = as_text(row["id"])
        export.traces[trace_id] = row
        for index, inner in enumerate(as_list(row.get("observations"))):
            value = as_object(inner)
            if value:
                export.observations.append((f"{source}#{index}", {"traceId": trace_id, **value}))
        for inner in as_list(row.get("scores")):
            if as_object(inner):
                export.scores.append((source, {"traceId": trace_id, **as_object(inner)}))


class _Reader:
    def __init__(self, source: ImportSource, export: _Export, options: LangfuseOptions) -> None:
        self._report = source.report
        self._models = Models(source)
        self._export = export
        self._options = options

    def records(self) -> Iterator[Record]:
        """Records of the export."""
        agents = _agents(row for _, row in self._export.observations)
        called: set[str] = set()
        sessions: set[str] = set()
        for source, row in self._export.observations:
            if as_text(row.get("type")) not in _CALLS:
                continue
            trace_id = as_text(_get(row, "traceId"))
            session_id = self._session(row, trace_id)
            called.add(trace_id)
            sessions.add(session_id)
            record = self._call(source, row, trace_id, session_id, agents)
            if record is not None:
                yield record
        yield from self._scores(called, sessions)
        for trace_id in self._export.traces.keys() - called:
            self._report.note(NO_GENERATION, source=f"trace '{trace_id}'")

    def _session(self, row: Object, trace_id: str) -> str:
        trace = self._export.traces.get(trace_id, {})
        return as_text(_get(row, "sessionId")) or as_text(_get(trace, "sessionId")) or trace_id

    def _scores(self, called: set[str], sessions: set[str]) -> Iterator[Record]:
        names = {as_text(row.get("name")) for _, row in self._export.scores if not _get(row, "observationId")}
        chosen = self._options.score_name or (names.pop() if len(names) == 1 else None)
        if chosen is None and names:
            raise InvalidConfigError(
                f"the export has scores of several names; say which is the session's: --option score_name=... "
                f"({', '.join(sorted(names))})"
            )
        for source, row in self._export.scores:
            trace_id, session_id = as_text(_get(row, "traceId")), as_text(_get(row, "sessionId"))
            if as_text(row.get("name")) != chosen or _get(row, "observationId"):
                self._report.note(OTHER_SCORE, source=source, detail=f"'{as_text(row.get('name'))}'")
            elif session_id in sessions or trace_id in called:
                if session_id not in sessions:
                    session_id = self._session(row, trace_id)
                yield from self._score(source, row, session_id)
            else:
                self._report.note(LONELY_SCORES, source=source, detail=f"trace '{trace_id}', session '{session_id}'")

    def _score(self, source: str, row: Object, session_id: str) -> Iterator[Record]:
        value = row.get("value")
        if value is None or as_number(value) is None:
            value = first_of(row, "stringValue", "string_value", "value")
        number = as_number(value)
        try:
            score = read_score(value if number is None else number / self._options.max_score)
        except UnusableEpisodeError as error:
            self._report.note(BAD_SCORE_ROW, source=source, detail=f"{BAD_SCORE}: {error.detail}")
            return
        yield ScoreRecord(source=source, session_id=session_id, facts=SessionFacts(score=score))

    def _call(
        self, source: str, row: Object, trace_id: str, session_id: str, agents: Mapping[str, tuple[str, str]]
    ) -> Record | None:
        trace = self._export.traces.get(trace_id, {})
        own = [as_object(one.get("metadata")) for one in (row, trace)]
        details = as_object(_get(row, "usageDetails")) or as_object(row.get("usage"))
        cost = as_number(first_of(row, "calculatedTotalCost", "costDetails.total", "cost_details.total", "total_cost"))
        usage: object = None
        try:
            if as_text(row.get("level")) == "ERROR" and not any(as_number(one) for one in details.values()):
                detail = as_text(_get(row, "statusMessage"))
                self._report.pass_over(FAILED_CALL, source=source, detail=cut(detail), amount=Amount())
                return None
            usage = usage_of(details)
            response = _output(parsed(row.get("output")))
            model, served = self._models.pair([as_text(_get(row, "providedModelName")), as_text(row.get("model"))], [])
            start, end = (seconds_of(as_text(_get(row, name)) or None) for name in ("startTime", "endTime"))
            facts = facts_of(*own)
            agent_id, parent_id = agents.get(as_text(row.get("id")), ("", ""))
            return CallRecord(
                source=source,
                session_id=session_id,
                model=model,
                served_model=served,
                messages=tuple(_input(parsed(row.get("input")))),
                response=response,
                usage=call_usage(usage, answer_is_empty=not response.action_text, where="usageDetails"),
                request_id=as_text(row.get("id")),
                timestamp=start,
                agent_id=agent_id,
                parent_id=parent_id,
                logged_cost_usd=cost,
                latency_s=None if start is None or end is None else end - start,
                propensity=propensity_of(*own),
                candidates=candidates_of(*own),
                facts=SessionFacts(**{**vars(facts), "extra": {**facts.extra, "trace_id": trace_id}}),
                fingerprint=fingerprint(row),
            )
        except UnusableEpisodeError as error:
            return broken(source, session_id, error, usage)


def _agents(observations: Iterable[Object]) -> dict[str, tuple[str, str]]:
    """Of every observation that lies below one of type AGENT inside another one of that type: this agent, and that one."""
    rows = {as_text(row.get("id")): row for row in observations}
    found: dict[str, tuple[str, str]] = {}
    for name in rows:
        above: list[str] = []
        place, seen = name, set()
        while place in rows and place not in seen:
            seen.add(place)
            if as_text(rows[place].get("type")) == "AGENT":
                above.append(place)
            place = as_text(_get(rows[place], "parentObservationId"))
        if len(above) > 1:
            found[name] = (above[0], above[1])
    return found


def usage_of(details: Object) -> dict[str, object]:
    """Buckets of Langfuse, or counts as OpenAI gives them, as usage.

    Raises:
        UnusableEpisodeError: If it cannot be told which of the two they are.

    Example:
        >>> usage = usage_of({"input": 100, "input_cached_tokens": 900, "output": 10, "total": 1010})
        >>> usage["prompt_tokens"], usage["prompt_tokens_details"]
        (1000.0, {'cached_tokens': 900.0, 'cache_write_tokens': 0.0})
    """
    if "input" not in details and "output" not in details:
        return dict(details)
    parts = dict.fromkeys(("cached", "written", "reasoning", "input", "output"), 0.0)
    unread: dict[str, object] = {}
    for name, value in details.items():
        bucket = _bucket(name)
        if bucket:
            parts[bucket] += as_number(value) or 0.0
        elif name not in ("input", "output", "total") and value is not None:
            unread[name] = value
    given, made = as_number(details.get("input")) or 0.0, as_number(details.get("output")) or 0.0
    total, beside = as_number(details.get("total")), sum(parts.values())
    if beside and total is None:
        raise UnusableEpisodeError(
            BAD_COUNT,
            f"usageDetails has parts and no total, so it is not known whether input ({given:g}) holds them; log it",
        )
    if beside and total == given + made + beside:
        given += parts["cached"] + parts["written"] + parts["input"]
        made += parts["reasoning"] + parts["output"]
    usage: dict[str, object] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "prompt_tokens_details": {"cached_tokens": parts["cached"], "cache_write_tokens": parts["written"]},
        "completion_tokens_details": {"reasoning_tokens": parts["reasoning"]},
    }
    return unread | usage | ({} if total is None else {"total_tokens": total})


def _bucket(name: str) -> str:
    """Which kind of tokens a bucket beside input and output holds; empty if it is not known."""
    if name in ("input", "output", "total"):
        return ""
    kinds = (("written", _WRITTEN), ("cached", _CACHED), ("reasoning", _REASONING))
    found = next((kind for kind, words in kinds if any(word in name for word in words)), "")
    return found or next((side for side in ("input", "output") if name.startswith(side)), "")


def _input(given: JsonValue | None) -> list[ChatMessage]:
    if isinstance(given, dict):
        inner = first_of(given, "messages", "input", "contents", "prompt")
        if inner is None and "role" in given:
            inner = [given]
        given = inner
    if isinstance(given, str) and given:
        return read_messages(given)
    if isinstance(given, list) and given:
        return read_messages(given)
    raise UnusableEpisodeError(BAD_SHAPE, f"input is {cut(repr(given), 60)}; log the messages of the prompt")


def _output(given: JsonValue | None) -> ChatMessage:
    if isinstance(given, list):
        given = given[0] if given else None
    if isinstance(given, dict) and "choices" in given:
        return read_reply(given).message
    if isinstance(given, dict) and (given.get("role") or "content" in given or "tool_calls" in given):
        return read_message({**given, "role": "assistant"})
    if isinstance(given, dict):
        inner = first_of(given, "message", "completion", "text", "output", "response")
        return _output(inner) if inner is not None else read_message({"role": "assistant", "content": str(given)})
    return read_message({"role": "assistant", "content": None if given is None else str(given)})
