"""Imports the plain format that this project documents for everybody: JSON Lines of OpenAI-style chat messages.

A line is one call (`CallLine`), one whole episode (`EpisodeLine`) or a score that came later (`ScoreLine`); all may stand in
one file, in any order, and the lines of a session may be mixed with those of others and go on in another file. `sessions`
puts them together. The field-by-field description for users is docs/import-my-logs.md; `openai_jsonl_lines` has the
models of a line, and `openai_jsonl.schema.json` is its JSON Schema.
"""

import contextlib
import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from mtrouter_rl.datasets.importers.archives import plain_name
from mtrouter_rl.datasets.importers.base import (
    Amount,
    ChatImporter,
    ImportReport,
    ImportSource,
    UnusableEpisodeError,
    cut,
)
from mtrouter_rl.datasets.importers.call_records import BrokenRecord, CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import (
    BAD_SHAPE,
    TurnBuilder,
    call_usage,
    validated,
)
from mtrouter_rl.datasets.importers.json_rows import BROKEN_JSON, Row, read_rows
from mtrouter_rl.datasets.importers.messages import (
    ChatMessage,
    read_message,
    split_conversation,
)
from mtrouter_rl.datasets.importers.openai_jsonl_lines import (
    CallFields,
    CallLine,
    EpisodeLine,
    ScoreLine,
    SessionFields,
    whole_number,
)
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.datasets.importers.score_files import ID_NAMES, score_record
from mtrouter_rl.datasets.importers.sessions import BAD_LATENCY, SessionAssembler, SessionOptions
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, Frozen, JsonValue

SUFFIXES = (".jsonl", ".ndjson")

UNKNOWN_KEY = "key that the format does not have, kept in Episode.extra"
NO_RESPONSE = "call that was billed and whose answer is null, taken as an empty answer"
ANSWER_IN_PROMPT = "call without a response whose messages end with an answer, which is taken as the response"
NO_VALUE = "field that holds no value of its kind, taken as not logged"
NOT_BILLED = "attempt that failed, with neither an answer nor usage, taken as not billed"
NUMBER_ID = "session_id that is a number, taken as text"

_SESSION_NAMES = (
    *("trace_id", "conversation_id", "thread_id", "chat_id", "sessionId", "session", "sessionID", "traceId"),
    *("conversationId", "threadId", "episode_id", "run_id"),
)
_DIGEST_BYTES = 16
_END_FIELDS = ("score", "status", "status_detail")
_UNKNOWN_CALL = Amount(n_calls=1, n_unknown=1)


class OpenAIJsonlOptions(SessionOptions):
    """Options of the format: those of every importer of calls."""


class OpenAIJsonlImporter(ChatImporter[OpenAIJsonlOptions]):
    """Reads JSON Lines of calls, episodes and scores; holds the sessions that are open and one line.

    The files are read twice: first to see how many lines each session has, so that a session is closed with its last line
    wherever that stands.
    """

    options_model: ClassVar[type[Frozen]] = OpenAIJsonlOptions
    takes_scores: ClassVar[bool] = True
    description: ClassVar[str] = (
        "JSON Lines of OpenAI chat messages, one line a call or an episode (docs/import-my-logs.md)"
    )
    env = "openai-jsonl"
    assumptions = (
        "a score is booked on the last turn where the log has no utility_gain at its calls",
        "every model of the pool could be chosen where the log has no candidates",
        "no prompt cache was warm before a turn, as far as a router could know; cached tokens are billed as logged",
        "a session without instance is an instance of its own; variation is a 48-bit hash of the instance",
        "turns and budget are unlimited where the log has no max_turns or budget_usd",
        "a session without status was ended by the task itself",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = sample.with_keys("messages")
        if row is None or not isinstance(row["messages"], list):
            return ""
        if "session_id" in row:
            return "'messages' and 'session_id'"
        return "'messages' and 'usage'" if {"usage", "model"} <= row.keys() else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes in the order in which they end; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds a line of the format.
        """
        paths = tuple(path for path in source.paths if not _is_score_file(path))
        scores = (*source.scores, *(path for path in source.paths if _is_score_file(path)))
        source = ImportSource(paths=paths, pool=source.pool, report=source.report, scores=scores)
        expected, by_trace = _first_pass(source)
        assembler = SessionAssembler(source, self._options, expected=expected)
        for score in by_trace:
            assembler.give(score)
        reader = _Reader(source)
        for path in paths:
            for where, row in read_rows(path, source.report, suffixes=SUFFIXES):
                records = reader.records(where, row)
                if records:
                    yield from assembler.take(*records)
        yield from assembler.finish()
        if not reader.n_lines:
            raise DatasetError(
                f"no line of the format in {', '.join(map(str, source.paths))}; give files that end in "
                f"{' or '.join(SUFFIXES)} (folders and archives are searched for them) whose lines are JSON objects with "
                "session_id and messages, see docs/import-my-logs.md"
            )


def _is_score_file(path: Path) -> bool:
    return path.is_file() and plain_name(path.name).endswith((".csv", ".tsv"))


def _first_pass(source: ImportSource) -> tuple[Counter[str], list[ScoreRecord]]:
    """Number of lines of every session, and scores that name their session by its trace."""
    scratch = ImportReport(format=source.report.format)
    found: Counter[str] = Counter()
    scores: list[ScoreRecord] = []
    for path in source.paths:
        for where, row in read_rows(path, scratch, suffixes=SUFFIXES):
            if not isinstance(row, dict):
                continue
            if (session_id := _session_id(row)) is not None:
                found[session_id] += 1
            elif _is_score_by_trace(row):
                with contextlib.suppress(UnusableEpisodeError):  # the second pass counts it
                    scores.append(score_record(where, row))
    return found, scores


def _is_score_by_trace(row: Row) -> bool:
    return _is_score_row(row) and "session_id" not in row and any(name.lower() in ID_NAMES for name in row)


def _session_id(row: Row) -> str | None:
    value = whole_number(row.get("session_id"))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


@dataclass(kw_only=True)
class _Line:
    """A line that belongs to a session."""

    where: str
    session_id: str
    row: Row


class _Reader:
    """Turns lines into records."""

    def __init__(self, source: ImportSource) -> None:
        self.n_lines = 0
        self._report = source.report
        self._builder = TurnBuilder(source)

    def records(self, where: str, row: Row | UnusableEpisodeError) -> list[Record]:
        """Records of one line, all of one session; none if it cannot be used, which is counted."""
        if isinstance(row, UnusableEpisodeError):
            self._report.reject(row.reason, source=where, detail=row.detail)
            return []
        session_id = _session_id(row)
        if session_id is None and _is_score_by_trace(row):
            try:
                score_record(where, row)  # which was given to its session after the first pass
            except UnusableEpisodeError as error:
                self._report.note(error.reason, source=where, detail=error.detail)
            return []
        has_messages = isinstance(row.get("messages"), list | str)
        if session_id is None or not (has_messages or _is_score_row(row)):
            amount = self._line_amount(row)
            detail = _what_is_missing(row, session_id)
            self._report.reject(BAD_SHAPE, source=where, detail=detail, n_turns=amount.n_calls, amount=amount)
            return []
        self.n_lines += 1
        if not isinstance(row["session_id"], str):
            self._report.note(NUMBER_ID, source=where, detail=session_id)
            row = row | {"session_id": session_id}
        line = _Line(where=where, session_id=session_id, row=row)
        try:
            if not has_messages:
                return [self._score(line)]
            if not {"model", "usage", "response"} & row.keys():
                return list(self._episode(line))
            return [self._call(line)]
        except RecursionError:
            return [self._broken(line, UnusableEpisodeError(BROKEN_JSON, "it is nested too deeply"))]
        except UnusableEpisodeError as error:
            return [self._broken(line, error)]

    def _score(self, line: _Line) -> ScoreRecord:
        said = validated(ScoreLine, line.row)
        return ScoreRecord(source=line.where, session_id=line.session_id, facts=self._facts(said, line.where))

    def _call(self, line: _Line) -> CallRecord | ScoreRecord:
        row = self._with_response(_unwrapped(self._mended(line)), line.where)
        if row.get("error") and row.get("response") is None and row.get("usage") is None:
            self._report.pass_over(NOT_BILLED, source=line.where, detail=cut(str(row["error"])), amount=_UNKNOWN_CALL)
            said = {key: value for key, value in row.items() if key in SessionFields.model_fields}
            return ScoreRecord(
                source=line.where, session_id=line.session_id, facts=self._facts(validated(ScoreLine, said), line.where)
            )
        call = validated(CallLine, row)
        answer = call.answer
        if answer is None and not call.error:
            self._report.note(NO_RESPONSE, source=line.where)
        request_id = call.request_id or row.get("id")
        return CallRecord(
            source=line.where,
            session_id=line.session_id,
            messages=tuple(call.messages),
            response=answer,
            request_id=request_id if isinstance(request_id, str) else "",
            timestamp=call.timestamp,
            agent_id=call.agent_id or "",
            parent_id=call.parent_id or "",
            parents=None if call.parents is None else tuple(call.parents),
            observation=call.observation or "",
            facts=self._facts(call, line.where),
            fingerprint=_digest({key: value for key, value in line.row.items() if key not in _END_FIELDS}),
            **_of_call(call, answer),  # type: ignore[arg-type]
        )

    def _episode(self, line: _Line) -> Iterator[CallRecord]:
        """Calls of a line that holds a whole conversation, as if each were logged with the prompt that it had."""
        whole = validated(EpisodeLine, self._mended(line))
        talk = split_conversation(whole.messages, may_be_silent=True)
        facts = self._facts(whole, line.where)
        digest = _digest(line.row)
        for number, answer in enumerate(talk.answers):
            message = whole.messages[answer.index]
            call = message.call(answer.index)
            yield CallRecord(
                source=line.where,
                session_id=line.session_id,
                messages=tuple(whole.messages[: answer.index]),
                response=message,
                observation=answer.observation_text,
                timestamp=message.timestamp if message.timestamp is not None else whole.timestamp,
                facts=facts,
                is_opening=number == 0,
                fingerprint=digest + str(number).encode(),
                **_of_call(call, message),  # type: ignore[arg-type]
            )

    def _mended(self, line: _Line) -> Row:
        """A line in which what is neither money nor meaning is mended, and noted where it had to be dropped."""
        row = self._without_odd_values(line.row, line.where)
        messages = row.get("messages")
        if not isinstance(messages, list):
            return row
        if "usage" not in row:
            row["messages"] = messages = [
                self._without_odd_values(one, line.where) if isinstance(one, dict) and "usage" in one else one
                for one in messages
            ]
        if isinstance(row.get("system"), str | list):
            row["messages"] = [{"role": "system", "content": row.pop("system")}, *messages]
        return row

    def _without_odd_values(self, given: Row, where: str) -> Row:
        row = dict(given)
        if row.get("error") is not None and not isinstance(row["error"], str):
            row["error"] = json.dumps(row["error"], ensure_ascii=False) if row["error"] else None
        for name in _NAMES:
            if isinstance(row.get(name), int | float):
                row[name] = str(whole_number(row[name]))
        if isinstance(row.get("observation"), list | dict):
            row["observation"] = read_message({"role": "tool", "content": row["observation"]}).text
        for name, (is_right, kind) in _OPTIONAL.items():
            value = row.get(name)
            if value is not None and not is_right(value):
                self._report.note(kind, source=where, detail=f"{name} is {cut(repr(value), 40)}")
                row[name] = None
        return row

    def _with_response(self, row: Row, where: str) -> Row:
        """A line whose answer is the last of its messages, with that as its response."""
        messages = row.get("messages")
        if "response" in row or row.get("error") or not isinstance(messages, list) or len(messages) < 2:
            return row
        last = messages[-1]
        if not isinstance(last, dict) or last.get("role") not in ("assistant", "model"):
            return row
        self._report.note(ANSWER_IN_PROMPT, source=where)
        return row | {"messages": messages[:-1], "response": last}

    def _facts(self, line: SessionFields, where: str) -> SessionFacts:
        """What a line says of the session: known fields, and keys that the format does not have."""
        for name in line.model_extra or {}:
            if name == "id":
                continue
            near = difflib.get_close_matches(name, type(line).model_fields, n=1, cutoff=0.8)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self._report.note(UNKNOWN_KEY, source=where, detail=f"'{name}'{hint}")
        extra = {name: _finite(value) for name, value in (line.model_extra or {}).items() if name != "id"}
        return SessionFacts(
            score=line.score,
            status=line.status,
            status_detail=line.status_detail,
            task=line.task,
            instance=line.instance,
            seed=line.seed,
            behavior_policy=line.behavior_policy,
            max_turns=line.max_turns,
            budget_usd=line.budget_usd,
            extra=extra,
        )

    def _broken(self, line: _Line, error: UnusableEpisodeError) -> BrokenRecord:
        return BrokenRecord(
            source=line.where,
            session_id=line.session_id,
            reason=error.reason,
            detail=error.detail,
            amount=self._line_amount(line.row),
        )

    def _line_amount(self, row: Row) -> Amount:
        """Tokens and money of all calls of a line that cannot be used, as far as they can be read."""
        messages = row.get("messages")
        if {"model", "usage", "response"} & row.keys() or not isinstance(messages, list):
            return self._amount(row) if {"messages", "usage"} & row.keys() else Amount()
        answers = [one for one in messages if isinstance(one, dict) and one.get("role") == "assistant"]
        return sum((self._amount(one) for one in answers), Amount())

    def _amount(self, row: Row) -> Amount:
        try:
            reading = call_usage(row.get("usage"))
        except UnusableEpisodeError:
            return Amount(n_calls=1, n_unknown=1)
        names = [name for name in (row.get("served_model"), row.get("model")) if isinstance(name, str)]
        served = self._builder.find(names[0]) if names else None
        usd = reading.cost_usd if served is None else self._builder.price_usd(served, reading.tokens)
        paid = row.get("router_cost_usd")
        if usd is not None and _is_number(paid, low=0):
            usd += cast("float", paid)
        return Amount.of_call(reading.tokens, usd)


def _unwrapped(row: Row) -> Row:
    """A line whose response is the whole object that an endpoint returned, with its answer, and its usage if that is missing.

    Raises:
        UnusableEpisodeError: If it holds several answers.
    """
    whole = row.get("response")
    if not isinstance(whole, dict) or ("role" in whole and "content" in whole):
        return row
    choices = whole.get("choices", whole.get("candidates"))
    answer: JsonValue = whole.get("output") if isinstance(whole.get("output"), list) else None
    if isinstance(choices, list):
        if len(choices) != 1 or not isinstance(choices[0], dict):
            detail = f"response has {len(choices)} choices, must have one; log each answer as a call of its own"
            raise UnusableEpisodeError(BAD_SHAPE, detail)
        answer = choices[0].get("message", choices[0].get("content"))
    if answer is None:
        return row
    usage = row.get("usage") or whole.get("usage") or whole.get("usageMetadata")
    return row | {"response": answer, "usage": usage}


def _of_call(call: CallFields, answer: ChatMessage | None) -> dict[str, object]:
    """What a call line and an answer of an episode line say alike of a call."""
    return {
        "model": call.model,
        "usage": call_usage(call.usage, answer_is_empty=not (answer and answer.action_text)),
        "served_model": call.served_model or "",
        "propensity": call.propensity,
        "candidates": None if call.candidates is None else tuple(call.candidates),
        "latency_s": call.latency_s,
        "router_cost_usd": call.router_cost_usd or 0.0,
        "error": call.error or "",
        "utility_gain": call.utility_gain,
    }


def _is_score_row(row: Row) -> bool:
    return "messages" not in row and not {"response", "usage"} & row.keys() and bool({"score", "status"} & row.keys())


def _is_number(value: object, *, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= low


def _is_count(value: object, *, low: int) -> bool:
    return _is_number(value, low=low) and float(cast("float", value)).is_integer() and cast("float", value) < 2**63


_NAMES = ("task", "instance", "behavior_policy", "agent_id", "parent_id", "request_id")
_OPTIONAL: dict[str, tuple[Callable[[object], bool], str]] = {
    "latency_s": (lambda value: _is_number(value, low=0), BAD_LATENCY),
    "timestamp": (lambda value: isinstance(value, str) or _is_number(value, low=-math.inf), NO_VALUE),
    "seed": (lambda value: _is_count(value, low=0), NO_VALUE),
    "max_turns": (lambda value: _is_count(value, low=1), NO_VALUE),
    "budget_usd": (lambda value: _is_number(value, low=0) and value != 0, NO_VALUE),
    "status_detail": (lambda value: isinstance(value, str), NO_VALUE),
}
"""Fields of which a session can do without: what is right, and what is noted where a value is not and is dropped."""


def _what_is_missing(row: Row, session_id: str | None) -> str:
    if session_id is None:
        near = [name for name in _SESSION_NAMES if isinstance(row.get(name), str | int)]
        near = near or difflib.get_close_matches(
            "session_id", [key for key in row if key != "session_id"], n=1, cutoff=0.7
        )
        hint = f"; '{near[0]}' may be what is meant: rename it to session_id" if near else ""
        return f"session_id is {row.get('session_id')!r:.80}, must be the id of the conversation{hint}"
    keys = ", ".join(sorted(map(str, row)))
    return f"messages is a {type(row.get('messages')).__name__}, must be a list of messages (has {cut(keys)})"


def _finite(value: object) -> JsonValue:
    """A value without infinities, which no JSON takes; they are kept as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else cast("JsonValue", value)


def _digest(row: Row) -> bytes:
    text = json.dumps(row, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
