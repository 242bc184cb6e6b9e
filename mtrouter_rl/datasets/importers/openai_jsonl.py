"""Imports the plain format that this project documents for everybody: JSON Lines of OpenAI-style chat messages.

A line is one call (`CallLine`) or one whole episode (`EpisodeLine`); both may stand in one file. The calls of a session may
be mixed with those of others and go on in the next file; a session is closed by the line that holds its `score` or
`status`. The field-by-field description for users is docs/import-my-logs.md; `openai_jsonl.schema.json` beside this file
is the JSON Schema of a line, generated from the models here.
"""

import difflib
import gzip
import hashlib
import importlib.resources
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, ClassVar, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, read_files
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import (
    BAD_PROPENSITY,
    BAD_SHAPE,
    OTHER_PARTS,
    SYSTEM_ROLES,
    ChatMessage,
    Conversation,
    Count,
    Ending,
    LoggedCall,
    LogModel,
    Probability,
    Score,
    Seconds,
    TurnBuilder,
    Usage,
    Usd,
    check_roles,
    join_texts,
    last_turn_gains,
    parse_object,
    split_conversation,
    split_opening,
    validated,
)
from mtrouter_rl.datasets.importers.chat_importer import ChatImporter, ChatOptions
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, stable_variation
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, Frozen, JsonValue

SCHEMA_FILE = "openai_jsonl.schema.json"
SUFFIXES = (".jsonl", ".ndjson")

LOST_CALL = "session with a call that no line logs"
NO_END = "session without the line that ends it"
CROWDED = "session that was left open while too many others were"
BAD_CANDIDATES = "candidates without the chosen model"
BAD_GAINS = "utility gains that are incomplete or do not add up to the score"
EMPTY_FILE = "file without a line"
BROKEN_FILE = "file that is cut off or broken"
UNKNOWN_KEY = "key that the format does not have, kept in Episode.extra"
NO_STATUS = "session whose status was not logged: it is taken as completed"
REWORDED = "answer that the next prompt shows in other words"
REPEATED = "prompt that was sent again, so that nothing came back to the answer before it"

_MAX_LINE_BYTES = 64 * 2**20
_GAIN_TOLERANCE = 1e-6
_DIGEST_BYTES = 16
_READ_ERRORS = (OSError, EOFError, zlib.error)


class _CallFields(LogModel):
    """What a log says of one call beside its texts; the same in a line of a call and at an assistant message."""

    model: Annotated[str, Field(min_length=1, description="model that was chosen: a name or alias of the pool card")]
    usage: Annotated[Usage, Field(description="tokens as billed, in the form of OpenAI's chat completions")]
    served_model: Annotated[
        str | None, Field(description="model that answered, if a fall-back took over; default: model")
    ] = None
    propensity: Annotated[Probability | None, Field(description="probability with which model was chosen")] = None
    candidates: Annotated[
        list[str] | None, Field(description="models that could have been chosen; default: all of the pool")
    ] = None
    latency_s: Annotated[Seconds | None, Field(description="duration of the call, seconds")] = None
    error: Annotated[
        str | None, Field(description="kind of error that the answer was, such as 'unknown_action'; default: none")
    ] = None
    utility_gain: Annotated[
        Score | None,
        Field(description="how much of the score this call earned; at every call of the session or at none"),
    ] = None


class _SessionFields(BaseModel):
    """What a log says of a session; in a line of a call, the last one that has a field counts."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    session_id: Annotated[str, Field(min_length=1, description="which conversation; becomes the episode's id")]
    score: Annotated[
        Score | None, Field(description="score of the session divided by its maximum; closes the session")
    ] = None
    status: Annotated[
        Literal["completed", "truncated", "failed"] | None,
        Field(
            description="completed: the task itself ended; truncated: a limit stopped it; failed: it broke for outside "
            "reasons and has no score. Closes the session"
        ),
    ] = None
    status_detail: Annotated[str | None, Field(description="why it failed")] = None
    task: Annotated[str | None, Field(min_length=1, description="name of the kind of task; default: unnamed")] = None
    instance: Annotated[
        str | None,
        Field(min_length=1, description="which instance of the task (ticket, question); default: session_id"),
    ] = None
    seed: Annotated[Count | None, Field(description="which run of the instance; default: 0")] = None
    behavior_policy: Annotated[
        str | None, Field(min_length=1, description="name of what chose the models; default: logged")
    ] = None
    max_turns: Annotated[
        Count | None, Field(ge=1, description="turn limit; default: number of calls of the session")
    ] = None
    budget_usd: Annotated[Usd | None, Field(gt=0, description="cost limit, USD; default: none")] = None
    timestamp: Annotated[str | float | None, Field(description="when; kept in Episode.extra")] = None


class CallLine(_SessionFields, _CallFields):
    """One call: the prompt, the answer, tokens, and what is known of the session."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    messages: Annotated[
        list[ChatMessage],
        Field(
            min_length=1, description="the prompt: the whole conversation so far, or what is new since the last call"
        ),
    ]
    response: Annotated[
        str | ChatMessage | None,
        Field(description="the answer: its text or message; may be missing where error says why"),
    ] = None
    observation: Annotated[
        str | None,
        Field(description="what came back after the answer; needed for the last call only, others show it in the next"),
    ] = None

    @model_validator(mode="after")
    def _is_answered(self) -> Self:
        if self.response is None and not self.error:
            raise ValueError("must have a response, or an error that says why there is none")
        return self

    @property
    def action_text(self) -> str:
        """What the model wrote."""
        return self.response.action_text if isinstance(self.response, ChatMessage) else self.response or ""


class EpisodeMessage(ChatMessage):
    """Message of a whole episode; an answer says which call it was."""

    model: Annotated[str | None, Field(description="at every answer, see the line of a call")] = None
    usage: Annotated[Usage | None, Field(description="at every answer, see the line of a call")] = None
    served_model: str | None = None
    propensity: Probability | None = None
    candidates: list[str] | None = None
    latency_s: Seconds | None = None
    error: str | None = None
    utility_gain: Score | None = None

    def call(self, index: int) -> _CallFields:
        """The call behind an answer.

        Raises:
            UnusableEpisodeError: If model or tokens are missing.
        """
        fields = self.model_dump(exclude={"role", "content", "tool_calls"}, exclude_none=True)
        try:
            return validated(_CallFields, fields)
        except UnusableEpisodeError as error:
            raise UnusableEpisodeError(error.reason, f"messages.{index}: {error.detail}") from error


class EpisodeLine(_SessionFields):
    """One whole episode."""

    messages: Annotated[
        list[EpisodeMessage], Field(min_length=1, description="the whole conversation; answers with model and usage")
    ]


class OpenAIJsonlOptions(ChatOptions):
    """Options of the format.

    Attributes:
        propensities: Whether every call must have a propensity.
        earlier_answers: What answers in the first prompt of a session are taken for.
        max_open_sessions: How many sessions may wait for their last line at the same time.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="exact: a call without propensity is left out with its session; unknown: it may lack one"),
    ] = "unknown"
    earlier_answers: Annotated[
        Literal["reject", "keep"],
        Field(
            description="answers in the first prompt of a session; reject: calls that no line logs, so the session is "
            "left out; keep: examples in the prompt, part of the first observation"
        ),
    ] = "reject"
    max_open_sessions: Annotated[
        int,
        Field(gt=0, description="sessions that may wait for their last line; beyond it the quietest one is left out"),
    ] = 10_000


def schema_text() -> str:
    """JSON Schema of one line, from the models; what `openai_jsonl.schema.json` has to hold."""
    adapter: TypeAdapter[CallLine | EpisodeLine] = TypeAdapter(CallLine | EpisodeLine)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "One line of an openai-jsonl log"}
    return json.dumps(schema | adapter.json_schema(mode="validation"), indent=2, ensure_ascii=False) + "\n"


def published_schema() -> str:
    """Text of the JSON Schema file that comes with the package."""
    return importlib.resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


class OpenAIJsonlImporter(ChatImporter[OpenAIJsonlOptions]):
    """Reads JSON Lines of calls and episodes; holds the sessions that are open and one line."""

    options_model: ClassVar[type[Frozen]] = OpenAIJsonlOptions
    description: ClassVar[str] = (
        "JSON Lines of OpenAI chat messages, one line a call or an episode (docs/import-my-logs.md)"
    )
    env = "openai-jsonl"
    assumptions = (
        "a score is booked on the last turn where the log has no utility_gain at its calls",
        "every model of the pool could be chosen where the log has no candidates",
        "no prompt cache was warm before a turn, as far as a router could know; cached tokens are billed as logged",
        "a session without instance is an instance of its own; variation is a 48-bit hash of the instance",
        "max_turns is the number of calls where the log has none, and the budget is unlimited where the log has none",
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
        reader = _Reader(source, self._options)
        for path in source.paths:
            for where, line in read_lines(path, source.report):
                episode = reader.take(where, line)
                if episode is not None:
                    yield episode
        reader.finish()
        if not reader.n_lines:
            raise DatasetError(
                f"no line of the format in {', '.join(map(str, source.paths))}; give files that end in "
                f"{' or '.join(SUFFIXES)} (folders and archives are searched for them) whose lines are JSON objects with "
                "session_id and messages, see docs/import-my-logs.md"
            )


def read_lines(path: Path, report: ImportReport) -> Iterator[tuple[str, bytes]]:
    """Lines of JSONL files with their place (`file:line`), from 1; empty lines are passed over.

    Args:
        path: File of any name, or a folder or archive that is searched for files of the format; `.gz` is unpacked.
        report: Where files that cannot be read are counted.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    if path.is_file() and not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        yield from _file_lines(path, path.name, report)
    elif path.is_dir():
        wanted = (*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES))
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and inner.name.endswith(wanted):
                yield from _file_lines(inner, inner.relative_to(path).as_posix(), report)
            elif inner.is_file() and inner.name.lower().endswith(ARCHIVE_SUFFIXES):
                yield from _archive_lines(inner, report)
    else:
        yield from _archive_lines(path, report)


def _archive_lines(path: Path, report: ImportReport) -> Iterator[tuple[str, bytes]]:
    for file in read_files(path, report, suffixes=SUFFIXES):
        yield from _numbered(file.source, file.data.splitlines(), report)


def _file_lines(path: Path, shown: str, report: ImportReport) -> Iterator[tuple[str, bytes]]:
    try:
        with cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            report.n_files += 1
            yield from _numbered(shown, iter(lambda: file.readline(_MAX_LINE_BYTES), b""), report)
    except _READ_ERRORS as error:
        report.reject(BROKEN_FILE, source=shown, detail=f"{type(error).__name__}: {error}; what follows is lost")


def _numbered(shown: str, lines: Iterable[bytes], report: ImportReport) -> Iterator[tuple[str, bytes]]:
    n_filled = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            n_filled += 1
            yield f"{shown}:{number}", line
    if not n_filled:
        report.reject(EMPTY_FILE, source=shown)


@dataclass(kw_only=True)
class _Session:
    """A session that waits for its last line.

    Attributes:
        source: Place of its first line.
        opening: System text, task text and first observation; None if the first line was unusable.
        answers: [action, observation] of the calls so far; the last observation comes with the next prompt.
        calls: The calls so far.
        gains: Their utility gains.
        fields: What the lines said of the session.
        problem: Place, reason and detail of the first line that could not be used; the session is left out.
        n_lines: Lines so far.
        n_shown: Answers in the last prompt.
        digest: Hash of the last prompt's length and what it ended with.
        n_other_parts: Parts of messages that are no text.
    """

    source: str
    opening: tuple[str, str, str] | None = None
    answers: list[list[str]] = field(default_factory=list)
    calls: list[LoggedCall] = field(default_factory=list)
    gains: list[float | None] = field(default_factory=list)
    fields: dict[str, JsonValue] = field(default_factory=dict)
    problem: tuple[str, UnusableEpisodeError] | None = None
    n_lines: int = 0
    n_shown: int = 0
    digest: bytes = b""
    n_other_parts: int = 0


class _Reader:
    """Turns lines into episodes; sessions that cannot be used are counted when they end."""

    def __init__(self, source: ImportSource, options: OpenAIJsonlOptions) -> None:
        self.n_lines = 0
        self._report = source.report
        self._options = options
        self._builder = TurnBuilder(source)
        self._open: OrderedDict[str, _Session] = OrderedDict()

    def take(self, where: str, line: bytes) -> Episode | None:
        """Take one line; the episode that it completes, if it does."""
        try:
            row = parse_object(line)
            session_id = row.get("session_id")
            if not isinstance(session_id, str) or not session_id or not isinstance(row.get("messages"), list):
                detail = f"session_id is {session_id!r:.80}, messages is a {type(row.get('messages')).__name__}"
                raise UnusableEpisodeError(BAD_SHAPE, f"{detail}; must be a text and a list")
            self.n_lines += 1
            if not {"model", "usage", "response"} & row.keys():
                return self._whole_episode(where, row)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=where, detail=error.detail)
            return None
        return self._call(where, session_id, row)

    def finish(self) -> None:
        """Count the sessions that are still open."""
        for session_id, session in self._open.items():
            detail = f"session '{session_id}': no line with score or status, or only before this one"
            self._reject(session, session.problem or (session.source, UnusableEpisodeError(NO_END, detail)))
        self._open.clear()

    def _reject(self, session: _Session, problem: tuple[str, UnusableEpisodeError]) -> None:
        where, error = problem
        self._report.reject(error.reason, source=where, detail=error.detail, n_turns=session.n_lines)

    def _call(self, where: str, session_id: str, row: dict[str, JsonValue]) -> Episode | None:
        session = self._open.setdefault(session_id, _Session(source=where))
        self._open.move_to_end(session_id)
        session.n_lines += 1
        if session.problem is None:
            try:
                self._add_call(session, validated(CallLine, row), where)
            except UnusableEpisodeError as error:
                session.problem = (where, error)
        if row.get("score") is not None or row.get("status") is not None:
            return self._close(self._open.pop(session_id), session_id, where)
        if len(self._open) > self._options.max_open_sessions:
            _, quietest = self._open.popitem(last=False)
            detail = f"more than max_open_sessions={self._options.max_open_sessions} waited for their last line"
            self._reject(quietest, (quietest.source, UnusableEpisodeError(CROWDED, detail)))
        return None

    def _add_call(self, session: _Session, line: CallLine, where: str) -> None:
        call = self._logged_call(line)
        prompt = line.messages
        check_roles(prompt)
        places = [index for index, message in enumerate(prompt) if message.role == "assistant"]
        new = prompt[(places[-1] if places else -1) + 1 :]
        digest = _digest(len(prompt), new)
        if session.opening is None:
            if places and self._options.earlier_answers == "reject":
                detail = f"the first prompt shows {len(places)}; if those are examples, --option earlier_answers=keep"
                raise UnusableEpisodeError(LOST_CALL, detail)
            session.opening = split_opening(prompt)
        else:
            self._add_observation(session, prompt, places, digest, where)
        session.n_shown, session.digest = len(places), digest
        session.n_other_parts += sum(message.n_other_parts for message in new)
        session.answers.append([line.action_text, line.observation or ""])
        session.calls.append(call)
        session.gains.append(line.utility_gain)
        session.fields |= self._session_fields(line, where)

    def _add_observation(
        self, session: _Session, prompt: Sequence[ChatMessage], places: list[int], digest: bytes, where: str
    ) -> None:
        """What came back to the answer before, from the prompt that follows it."""
        # Prompts of what is new alone may say the same twice ("Go on."); the first one is never a repetition of them.
        if digest == session.digest and (places or len(session.calls) == 1):
            self._report.note(REPEATED, source=where)
            return
        if len(places) > session.n_shown + 1:
            detail = f"the prompt shows {len(places)} answers, the one before it {session.n_shown}; one call is between"
            raise UnusableEpisodeError(LOST_CALL, detail)
        new = (
            prompt[places[-1] + 1 :] if places else [message for message in prompt if message.role not in SYSTEM_ROLES]
        )
        last = session.answers[-1]
        if places and prompt[places[-1]].action_text.strip() != last[0].strip():
            self._report.note(REWORDED, source=where)
        last[1] = last[1] or join_texts(new)

    def _close(self, session: _Session, session_id: str, where: str) -> Episode | None:
        try:
            if session.problem is not None:
                self._reject(session, session.problem)
                return None
            assert session.opening is not None
            system_text, task_text, first_observation = session.opening
            conversation = Conversation(
                system_text=system_text,
                task_text=task_text,
                first_observation=first_observation,
                answers=(),
                n_other_parts=session.n_other_parts,
            )
            answers = [(action, observation) for action, observation in session.answers]
            fields = session.fields | {"session_id": session_id}
            return self._episode(where, fields, conversation, answers, session.calls, session.gains)
        except UnusableEpisodeError as error:
            self._reject(session, (where, error))
            return None

    def _whole_episode(self, where: str, row: dict[str, JsonValue]) -> Episode | None:
        n_answers = 0
        try:
            line = validated(EpisodeLine, row)
            conversation = split_conversation(line.messages)
            n_answers = len(conversation.answers)
            logged = [line.messages[answer.index].call(answer.index) for answer in conversation.answers]
            calls = [self._logged_call(call) for call in logged]
            answers = [(answer.action_text, answer.observation_text) for answer in conversation.answers]
            fields = self._session_fields(line, where) | {"session_id": line.session_id}
            return self._episode(where, fields, conversation, answers, calls, [call.utility_gain for call in logged])
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=where, detail=error.detail, n_turns=n_answers)
            return None

    def _logged_call(self, call: _CallFields) -> LoggedCall:
        if call.propensity is None and self._options.propensities == "exact":
            raise UnusableEpisodeError(
                BAD_PROPENSITY, "propensity is missing; log it, or import with --option propensities=unknown"
            )
        model = self._builder.model(call.model)
        candidates = tuple(self._builder.model(name) for name in call.candidates or ())
        if call.candidates is not None and model not in candidates:
            raise UnusableEpisodeError(BAD_CANDIDATES, f"'{model}' is not among {list(candidates)}")
        return LoggedCall(
            model=model,
            served_model=self._builder.model(call.served_model or call.model),
            usage=call.usage.tokens(),
            propensity=call.propensity,
            error=call.error or "",
            latency_s=call.latency_s,
            candidates=candidates,
            logged_cost_usd=call.usage.cost,
        )

    def _session_fields(self, line: _SessionFields, where: str) -> dict[str, JsonValue]:
        """What a line says of the session: known fields by name, and keys that the format does not have."""
        known = _SessionFields.model_fields
        said = {name: value for name in known if (value := getattr(line, name)) is not None}
        for name in line.model_extra or {}:
            near = difflib.get_close_matches(name, type(line).model_fields, n=1, cutoff=0.8)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self._report.note(UNKNOWN_KEY, source=where, detail=f"'{name}'{hint}")
        return said | {name: cast("JsonValue", value) for name, value in (line.model_extra or {}).items()}

    def _episode(
        self,
        where: str,
        fields: dict[str, JsonValue],
        conversation: Conversation,
        answers: Sequence[tuple[str, str]],
        calls: Sequence[LoggedCall],
        gains: Sequence[float | None],
    ) -> Episode:
        line = _SessionFields.model_validate(fields)
        ending = _ending(line)
        if line.status is None:
            self._report.note(NO_STATUS, source=where)
        turns = self._builder.turns(answers, calls, _gains(line, gains, ending), ending)
        if any(call.logged_cost_usd is not None for call in calls):
            self._builder.note_costs(turns, calls, source=where)
        if conversation.n_other_parts:
            self._report.note(OTHER_PARTS, source=where, n=conversation.n_other_parts)
        extra = {"system_prompt": conversation.system_text, "timestamp": line.timestamp, "instance": line.instance}
        return Episode(
            episode_id=line.session_id,
            task=line.task or "unnamed",
            variation=stable_variation(line.instance or line.session_id),
            seed=line.seed or 0,
            split="train",
            task_text=conversation.task_text,
            first_observation=conversation.first_observation,
            behavior_policy=line.behavior_policy or "logged",
            budget_usd=UNLIMITED_BUDGET_USD if line.budget_usd is None else line.budget_usd,
            max_turns=line.max_turns or len(turns),
            turns=turns,
            status="failed" if ending == "failed" else "completed",
            status_detail=(line.status_detail or "the log says so") if ending == "failed" else "",
            extra={name: value for name, value in extra.items() if value} | dict(line.model_extra or {}),
        )


def _ending(line: _SessionFields) -> Ending:
    if line.status is None or line.status == "completed":
        return "terminated"
    return line.status


def _gains(line: _SessionFields, gains: Sequence[float | None], ending: Ending) -> list[float]:
    """Utility gain of every turn.

    Raises:
        UnusableEpisodeError: If there is no score, or the gains at the calls do not fit it.
    """
    given = [gain for gain in gains if gain is not None]
    if ending == "failed" and len(given) < len(gains):
        return [0.0] * len(gains)
    if line.score is None and len(given) < len(gains):
        raise UnusableEpisodeError(BAD_SCORE, "score is missing; only a session of status 'failed' may lack one")
    if not given:
        assert line.score is not None
        return last_turn_gains(line.score, len(gains))
    if len(given) < len(gains):
        raise UnusableEpisodeError(
            BAD_GAINS, f"{len(given)} of {len(gains)} calls have a utility_gain; give all or none"
        )
    if line.score is not None and abs(sum(given) - line.score) > _GAIN_TOLERANCE:
        raise UnusableEpisodeError(BAD_GAINS, f"they add up to {sum(given):.6g}, score is {line.score:.6g}")
    return given


def _digest(n_messages: int, new: Sequence[ChatMessage]) -> bytes:
    digest = hashlib.blake2b(str(n_messages).encode(), digest_size=_DIGEST_BYTES)
    for message in new:
        digest.update(f"{message.role}\0{message.action_text}\0".encode("utf-8", errors="surrogatepass"))
    return digest.digest()
