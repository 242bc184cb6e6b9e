"""Imports sessions of the Codex command line: `rollout-*.jsonl` files of `~/.codex/sessions/`.

Source: github.com/openai/codex, `codex-rs/protocol/src/protocol.rs` (`RolloutItem`, `SessionMeta`, `TokenUsageInfo`). Lines
are `session_meta`, `turn_context` (which model), `response_item` (items of the Responses API) and `event_msg`. A call ends
with the `token_count` that follows its items; `last_token_usage` has its tokens, or the difference of two totals has. A
`token_count` that repeats the totals before is no call. Reasoning tokens are part of the output, cached ones of the input.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import ClassVar

from mtrouter_rl.datasets.importers.base import ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import CallRecord, Record
from mtrouter_rl.datasets.importers.chat import ChatMessage, call_usage, read_messages
from mtrouter_rl.datasets.importers.formats.call_logs import CallLogImporter, broken
from mtrouter_rl.datasets.importers.formats.rows import Object, Row, as_number, as_object, as_text, read_rows
from mtrouter_rl.datasets.importers.messages import merge
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.records import JsonValue

CUT_OFF = "answer that was cut off before its tokens were logged, left out"
NO_ITEMS = "call whose answer is not in the log; its tokens are billed and its action is empty"
COMPACTED = "history that was compacted by the agent"
_COUNTS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "total_tokens",
)
_LINE_TYPES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")


@dataclass
class _Session:
    """A file so far."""

    session_id: str = ""
    parent_id: str = ""
    model: str = ""
    incoming: list[ChatMessage] = field(default_factory=list)
    after: list[ChatMessage] = field(default_factory=list)
    answer: list[ChatMessage] = field(default_factory=list)
    answer_source: str = ""
    totals: Object | None = None


class CodexImporter(CallLogImporter):
    """Reads rollout files one by one."""

    description: ClassVar[str] = "sessions of the Codex command line (rollout-*.jsonl)"
    env = "codex"
    wanted = "rollout-*.jsonl files of Codex, or the folder ~/.codex/sessions"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = sample.with_keys("type", "payload")
        return f"line of type '{row['type']}' with a payload" if row and row.get("type") in _LINE_TYPES else ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all calls, file by file."""
        for path in source.paths:
            rows = read_rows(path, source.report, suffixes=(".jsonl",))
            for file, inner in groupby(rows, key=lambda row: row.file):
                yield from _Reader(source).records(file, inner)


class _Reader:
    """Reads one file."""

    def __init__(self, source: ImportSource) -> None:
        self._report = source.report
        self._session = _Session()

    def records(self, file: PurePosixPath, rows: Iterable[Row]) -> Iterator[Record]:
        """Records of the file's calls."""
        self._session.session_id = file.stem
        held: CallRecord | None = None
        for row in rows:
            payload = as_object(row.value.get("payload"))
            try:
                record = self._line(row.source, as_text(row.value.get("type")), payload, row.value)
            except UnusableEpisodeError as error:
                yield broken(row.source, self._session.session_id, error)
                continue
            if isinstance(record, CallRecord):
                if held is not None:
                    yield held
                held = record
            elif record is not None:
                yield record
        if held is not None:
            came = [*self._session.incoming, *self._session.after]
            yield _with_observation(held, "\n\n".join(message.text for message in came))
        self._drop_answer()

    def _line(self, source: str, kind: str, payload: Object, row: Object) -> Record | None:
        session = self._session
        if kind == "session_meta":
            session.session_id = as_text(payload.get("id")) or session.session_id
        elif kind == "turn_context":
            session.model = as_text(payload.get("model")) or session.model
        elif kind == "response_item":
            self._item(source, payload)
        elif kind == "compacted":
            self._report.note(COMPACTED, source=source)
        elif kind == "event_msg" and payload.get("type") == "token_count":
            return self._count(source, as_object(payload.get("info")), row)
        return None

    def _item(self, source: str, payload: Object) -> None:
        session = self._session
        (message,) = read_messages([payload]) or (None,)
        if message is None:
            return
        if message.role == "assistant":
            session.answer.append(message)
            session.answer_source = session.answer_source or source
        elif session.answer:
            if message.role == "user":  # the turn was stopped, or the tokens of the answer are not logged
                self._drop_answer()
                session.incoming += [*session.after, message]
                session.after = []
            else:
                session.after.append(message)
        else:
            session.incoming.append(message)

    def _drop_answer(self) -> None:
        session = self._session
        if session.answer:
            self._report.note(CUT_OFF, source=session.answer_source)
        session.answer, session.answer_source = [], ""

    def _count(self, source: str, info: Object, row: Object) -> Record | None:
        session = self._session
        totals = as_object(info.get("total_token_usage"))
        last = as_object(info.get("last_token_usage"))
        if not totals and not last:
            return None
        if totals and session.totals is not None and _counts(totals) == _counts(session.totals):
            return None
        usage = last or _difference(totals, session.totals or {})
        session.totals = totals or session.totals
        answer, messages = session.answer, session.incoming
        if not answer:
            self._report.note(NO_ITEMS, source=source)
        place = session.answer_source or source
        session.answer, session.answer_source = [], ""
        session.incoming, session.after = session.after, []
        response = merge(answer) if answer else ChatMessage(role="assistant", content=None)
        try:
            reading = call_usage(_usage(usage), answer_is_empty=not response.action_text, where="last_token_usage")
        except UnusableEpisodeError as error:
            return broken(source, session.session_id, error)
        return CallRecord(
            source=place,
            session_id=session.session_id,
            model=session.model,
            messages=tuple(messages),
            response=response,
            usage=reading,
            timestamp=as_text(row.get("timestamp")) or None,
        )


def _counts(usage: Object) -> tuple[float | None, ...]:
    return tuple(as_number(usage.get(name)) for name in _COUNTS)


def _difference(totals: Object, before: Object) -> dict[str, JsonValue]:
    return {
        name: number - (as_number(before.get(name)) or 0)
        for name in _COUNTS
        if (number := as_number(totals.get(name))) is not None
    }


def _usage(usage: Mapping[str, JsonValue]) -> dict[str, object]:
    """Usage in the form of the Responses API."""
    written = usage.get("cache_write_input_tokens")
    known: dict[str, object] = {
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
        "total_tokens": usage.get("total_tokens"),
        "input_tokens_details": {"cached_tokens": usage.get("cached_input_tokens") or 0}
        | ({"cache_write_tokens": written} if written else {}),
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_output_tokens") or 0},
    }
    return {name: value for name, value in usage.items() if name not in _COUNTS} | known


def _with_observation(record: CallRecord, observation: str) -> CallRecord:
    return replace(record, observation=observation)
