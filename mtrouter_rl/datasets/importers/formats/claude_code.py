"""Imports sessions of Claude Code: the JSON Lines of `~/.claude/projects/`, and what `--output-format stream-json` prints.

No schema is published; read is what versions 1.0 to 2.1 write. A line is a message; an answer may be spread over several
lines of one `message.id`, each with the usage so far, of which the largest counts. Tokens are Anthropic's: what was read
from and written to the cache is not part of `input_tokens`. Sub-agents' lines carry `isSidechain` and `agentId` (in stream
form `parent_tool_use_id`). Lines that a resumed session copied from the one before (same `uuid`) count once. No line has a
score: give a table of scores by session id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from mtrouter_rl.datasets.importers.base import ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import ChatMessage, call_usage, read_message
from mtrouter_rl.datasets.importers.formats.call_logs import CallLogImporter, broken
from mtrouter_rl.datasets.importers.formats.rows import Object, Row, as_list, as_number, as_object, as_text, read_rows
from mtrouter_rl.datasets.importers.messages import merge
from mtrouter_rl.datasets.importers.sample import Sample

COPIED = "line that a resumed session copied from the one before, counted once"
SYNTHETIC = "answer that Claude Code made up itself (an error of the API), no call of a model"
NO_CALL_LINE = "line that is no message, not read"
NO_SESSION = "line without sessionId"
_SYNTHETIC_MODEL = "<synthetic>"
_LIMITS = ("error_max_turns", "error_max_budget_usd")
_MESSAGES = ("user", "assistant")


@dataclass
class _Answer:
    """Lines of one answer so far."""

    source: str
    session_id: str
    agent_id: str
    prompt: tuple[ChatMessage, ...]
    message_id: str
    model: str
    request_id: str
    timestamp: str
    parts: list[ChatMessage] = field(default_factory=list)
    usage: Object = field(default_factory=dict)
    cost_usd: float | None = None


class ClaudeCodeImporter(CallLogImporter):
    """Reads sessions line by line; holds the sessions, because their lines may stand in several files."""

    description: ClassVar[str] = "sessions of Claude Code (JSON Lines of ~/.claude/projects, or stream-json output)"
    env = "claude-code"
    wanted = "the .jsonl files of Claude Code, or the folder of a project, whose lines have type, sessionId and message"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        for row in sample.rows:
            if row.get("type") in _MESSAGES and "message" in row and ("sessionId" in row or "session_id" in row):
                return "lines with type, message and sessionId"
        return ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all answers, once all lines of each are there."""
        reader = _Reader(source)
        for path in source.paths:
            for row in read_rows(path, source.report, suffixes=(".jsonl", ".json")):
                yield from reader.take(row)
        yield from reader.finish()


class _Reader:
    """Puts lines together to answers, each with what came in since the answer before."""

    def __init__(self, source: ImportSource) -> None:
        self._report = source.report
        self._seen: set[str] = set()
        self._incoming: dict[tuple[str, str], list[ChatMessage]] = {}
        self._open: dict[tuple[str, str], _Answer] = {}
        self._closed: set[str] = set()

    def take(self, row: Row) -> Iterator[Record]:
        """Take a line; gives what it completes."""
        value = row.value
        session_id = as_text(value.get("sessionId")) or as_text(value.get("session_id"))
        if value.get("type") == "result" and session_id:
            yield from _result(row.source, session_id, value)
            return
        kind = _kind(value)
        if kind not in _MESSAGES:
            self._report.note(NO_CALL_LINE, source=row.source, detail=f"type is {value.get('type')!r:.40}")
            return
        if not session_id:
            self._report.reject(NO_SESSION, source=row.source, n_turns=int(kind == "assistant"))
            return
        uuid = as_text(value.get("uuid"))
        if uuid and uuid in self._seen:
            self._report.pass_over(COPIED, source=row.source)
            return
        self._seen.add(uuid)
        agent_id = as_text(value.get("agentId")) or as_text(value.get("parent_tool_use_id"))
        if not agent_id and value.get("isSidechain") is True:
            agent_id = "sidechain"
        try:
            yield from self._message(row, session_id, agent_id)
        except UnusableEpisodeError as error:
            yield broken(row.source, session_id, error, as_object(value["message"]).get("usage"))

    def _message(self, row: Row, session_id: str, agent_id: str) -> Iterator[Record]:
        raw = as_object(row.value["message"])
        key = (session_id, agent_id)
        if _kind(row.value) == "user":
            message = read_message({"role": "user", "content": raw.get("content")})
            self._incoming.setdefault(key, []).append(message)
            return
        if raw.get("model") == _SYNTHETIC_MODEL or row.value.get("isApiErrorMessage") is True:
            self._report.note(SYNTHETIC, source=row.source)
            return
        part = read_message({"role": "assistant", "content": raw.get("content")})
        message_id = as_text(raw.get("id")) or row.source
        answer = self._open.get(key)
        if answer is None or answer.message_id != message_id:
            if answer is not None:
                yield self._record(answer)
                del self._open[key]
            if message_id in self._closed:
                self._report.pass_over(COPIED, source=row.source, detail=f"message.id '{message_id}'")
                return
            answer = self._begin(row, raw, key, message_id)
        answer.parts.append(part)
        usage = as_object(raw.get("usage"))
        if (as_number(usage.get("output_tokens")) or 0) >= (as_number(answer.usage.get("output_tokens")) or 0):
            answer.usage = usage
        answer.cost_usd = as_number(row.value.get("costUSD")) or answer.cost_usd

    def _begin(self, row: Row, raw: Object, key: tuple[str, str], message_id: str) -> _Answer:
        answer = _Answer(
            source=row.source,
            session_id=key[0],
            agent_id=key[1],
            prompt=tuple(self._incoming.pop(key, [])),
            message_id=message_id,
            model=as_text(raw.get("model")),
            request_id=message_id if raw.get("id") else as_text(row.value.get("requestId")),
            timestamp=as_text(row.value.get("timestamp")),
        )
        self._open[key] = answer
        return answer

    def finish(self) -> Iterator[Record]:
        """What is still open; what came back after the last answer of a session is its observation."""
        for answer in self._open.values():
            yield self._record(answer)

    def _record(self, answer: _Answer) -> Record:
        self._closed.add(answer.message_id)
        key = (answer.session_id, answer.agent_id)
        last = self._open.get(key) is answer and self._incoming.get(key)
        try:
            message = merge(answer.parts)
            usage = call_usage(answer.usage or None, answer_is_empty=not message.action_text, where="message.usage")
        except UnusableEpisodeError as error:
            return broken(answer.source, answer.session_id, error, answer.usage)
        return CallRecord(
            source=answer.source,
            session_id=answer.session_id,
            model=answer.model,
            messages=answer.prompt,
            response=message,
            usage=usage,
            request_id=answer.request_id,
            timestamp=answer.timestamp or None,
            agent_id=answer.agent_id,
            logged_cost_usd=answer.cost_usd,
            observation="\n\n".join(one.text for one in last) if last else "",
        )


def _kind(value: Object) -> str:
    """Type of a line; that of its message where the line's own is not known and its message was billed."""
    message = as_object(value.get("message"))
    if not message:
        return ""
    kind = as_text(value.get("type"))
    return as_text(message.get("role")) if kind not in _MESSAGES and message.get("usage") else kind


def _result(source: str, session_id: str, value: Object) -> Iterator[Record]:
    """What the last line of stream-json says of a session."""
    if value.get("subtype") in _LIMITS:
        yield ScoreRecord(source=source, session_id=session_id, facts=SessionFacts(status="truncated"))
    elif value.get("is_error") is True:
        detail = as_text(value.get("result")) or as_text(value.get("subtype")) or str(as_list(value.get("errors")))
        facts = SessionFacts(status="failed", status_detail=detail)
        yield ScoreRecord(source=source, session_id=session_id, facts=facts)
