"""Imports logs of Inspect: `.eval` files (a zip of JSON) and `.json`.

Source: github.com/UKGovernmentBEIS/inspect_ai, `log/_log.py` (`EvalLog`, `EvalSample`), `event/_model.py` (`ModelEvent`) and
`model/_model_output.py` (`ModelUsage`). A sample in an epoch is a session, a model event is a call. The documented JSON is
read without the package, which brings some forty others along. `input_tokens` leaves out what was read from or written to
the cache. Calls of scorers and of other model roles (a grader) are no turns of the agent; they are counted as passed over.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, cast

import pyarrow as pa
from pydantic import Field

from mtrouter_rl.datasets.importers.archives import MAX_FILE_BYTES, LogFile
from mtrouter_rl.datasets.importers.base import Amount, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import BrokenRecord, CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import (
    BAD_SHAPE,
    ChatMessage,
    call_usage,
    parse_object,
    read_log_files,
    read_message,
    read_messages,
)
from mtrouter_rl.datasets.importers.formats.call_logs import (
    FAILED_CALL,
    CallLogImporter,
    CallLogOptions,
    Models,
    broken,
)
from mtrouter_rl.datasets.importers.formats.rows import Object, as_list, as_number, as_object, as_text
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, read_score
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.pools.usage import known_tokens
from mtrouter_rl.records import Frozen, JsonValue, TokenUsage

NOT_AN_EVAL = "file that is no log of Inspect"
BROKEN_ZIP = "archive that is cut off or broken"
OTHER_ROLE = "call of a scorer or of another role than the agent's model, no turn of the agent"
CACHED_ANSWER = "answer of the framework's own cache, which cost nothing"
NO_EVENTS = "sample without model events, so that the tokens of each call are not known"
INVALID = "sample that was marked invalid"
RETRIED = "attempt at a sample that broke and was made again; what it cost is in no episode"
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_ATTACHMENT = "attachment://"
_SCORER_SPANS = ("scorer", "scorers")
_ZSTANDARD = 93
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    NotImplementedError,
    pa.ArrowException,
)


class InspectOptions(CallLogOptions):
    """Options of the format.

    Attributes:
        scorer: Which scorer's value is the score.
        max_score: Value of full success.
    """

    scorer: Annotated[
        str | None,
        Field(
            description="scorer whose value is the score, or SCORER.KEY of several values; needed where there are several"
        ),
    ] = None
    max_score: Annotated[float, Field(gt=0, allow_inf_nan=False, description="value of full success")] = 1.0


class InspectImporter(CallLogImporter):
    """Reads logs one by one, and of a `.eval` file one sample after the other."""

    options_model: ClassVar[type[Frozen]] = InspectOptions
    description: ClassVar[str] = (
        "logs of Inspect (.eval or .json): a sample in an epoch is an episode, a model event a turn"
    )
    env = "inspect"
    wanted = ".eval or .json files of Inspect"

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        if sample.name.endswith(".eval"):
            return "its name ends in .eval"
        row = sample.first
        return "'eval', 'status' and 'version'" if {"eval", "status", "version"} <= row.keys() else ""

    def records(self, source: ImportSource) -> Iterator[Record]:
        """Records of all model events."""
        options = self._options
        assert isinstance(options, InspectOptions)
        reader = _Reader(source, options)
        for path in source.paths:
            for file in read_log_files(path, source.report, suffixes=(".eval", ".json")):
                yield from reader.records(file)


class _Reader:
    def __init__(self, source: ImportSource, options: InspectOptions) -> None:
        self._report = source.report
        self._models = Models(source)
        self._options = options

    def records(self, file: LogFile) -> Iterator[Record]:
        """Records of one log."""
        try:
            if file.data[:2] == b"PK":
                yield from self._of_zip(file)
                return
            log = parse_object(file.data)
            spec = as_object(log.get("eval"))
            if not spec:
                raise UnusableEpisodeError(NOT_AN_EVAL, f"has {cut(', '.join(log), 100)}; needs 'eval' and 'samples'")
            for index, sample in enumerate(as_list(log.get("samples"))):
                yield from self._sample(spec, as_object(sample), f"{file.source}:{index}")
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=file.source, detail=error.detail)

    def _of_zip(self, file: LogFile) -> Iterator[Record]:
        try:
            with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
                names = dict.fromkeys(archive.namelist())
                header = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
                if header is None:
                    raise UnusableEpisodeError(NOT_AN_EVAL, "a zip without header.json")
                spec = as_object(parse_object(_member(archive, header, file.data)).get("eval"))
                for name in names:
                    if name.startswith("samples/") and name.endswith(".json"):
                        where = f"{file.source}:{name}"
                        try:
                            sample = parse_object(_member(archive, name, file.data))
                        except UnusableEpisodeError as error:
                            self._report.reject(error.reason, source=where, detail=error.detail)
                            continue
                        yield from self._sample(spec, sample, where)
        except _ZIP_ERRORS as error:
            raise UnusableEpisodeError(BROKEN_ZIP, f"{type(error).__name__}: {error}") from error

    def _sample(self, spec: Object, sample: Object, where: str) -> Iterator[Record]:
        task = as_text(spec.get("task")) or "inspect"
        epoch = int(as_number(sample.get("epoch")) or 1)
        run = as_text(spec.get("eval_id")) or as_text(spec.get("run_id")) or as_text(spec.get("created"))
        session_id = f"{task}/{as_text(sample.get('id'))}/{epoch}" + (f"/{run}" if run else "")
        if sample.get("invalidation"):
            self._report.pass_over(INVALID, source=where, amount=Amount())
            return
        events = [as_object(one) for one in as_list(sample.get("events"))]
        for one in as_list(sample.get("error_retries")):
            self._report.pass_over(RETRIED, source=where, amount=_amounts(as_list(as_object(one).get("events"))))
        records = list(self._calls(spec, sample, events, session_id, where))
        if not records:
            yield from self._lone_call(spec, sample, session_id, where)
        yield from records
        try:
            facts = self._facts(task, epoch, spec, sample)
        except UnusableEpisodeError as error:
            yield BrokenRecord(
                source=where, session_id=session_id, reason=error.reason, detail=error.detail, amount=Amount()
            )
            return
        yield ScoreRecord(source=where, session_id=session_id, facts=facts)

    def _calls(
        self, spec: Object, sample: Object, events: Sequence[Object], session_id: str, where: str
    ) -> Iterator[Record]:
        spans = _Spans(events)
        pool = as_list(as_object(sample.get("events_data")).get("messages"))
        attachments = as_object(sample.get("attachments"))
        for index, event in enumerate(events):
            if event.get("event") != "model" or event.get("pending") is True:
                continue
            source = f"{where}#{index}"
            output = as_object(event.get("output"))
            usage = output.get("usage")
            if as_text(event.get("role")) or spans.is_scorer(event):
                self._report.pass_over(
                    OTHER_ROLE, source=source, detail=as_text(event.get("model")), amount=_amount(usage)
                )
                continue
            if usage is None and (event.get("error") or not as_list(output.get("choices"))):
                self._report.pass_over(
                    FAILED_CALL, source=source, detail=cut(as_text(event.get("error"))), amount=Amount()
                )
                continue
            try:
                prompt = [_message(_resolve(raw, attachments)) for raw in _input(event, pool)]
                answer = read_message(_message(_resolve(_answer(output), attachments)))
                yield self._record(spec, event, session_id, source, prompt, answer, spans.agent(event))
            except UnusableEpisodeError as error:
                yield broken(source, session_id, error, usage)

    def _record(
        self,
        spec: Object,
        event: Object,
        session_id: str,
        source: str,
        prompt: Sequence[object],
        answer: ChatMessage,
        agent: tuple[str, str],
    ) -> CallRecord:
        output = as_object(event.get("output"))
        if event.get("cache") == "read":
            self._report.note(CACHED_ANSWER, source=source)
            usage = known_tokens(TokenUsage(n_fresh=0, n_output=0), cost_usd=0.0)
        else:
            usage = call_usage(output.get("usage"), answer_is_empty=not answer.action_text, where="output.usage")
        requested = as_text(event.get("requested_model")) or as_text(event.get("model"))
        answered = as_text(output.get("model"))
        model, served = self._models.pair([requested], [as_text(event.get("model")), answered])
        return CallRecord(
            source=source,
            session_id=session_id,
            model=model,
            served_model=served,
            messages=tuple(read_messages(prompt)),
            response=answer,
            usage=usage,
            request_id=as_text(event.get("uuid")),
            timestamp=as_text(event.get("timestamp")) or None,
            agent_id=agent[0],
            parent_id=agent[1],
            latency_s=as_number(output.get("time")),
            propensity=1.0 if requested == spec.get("model") else None,
        )

    def _lone_call(self, spec: Object, sample: Object, session_id: str, where: str) -> Iterator[Record]:
        """The call of a sample without events, if there was only one."""
        attachments = as_object(sample.get("attachments"))
        messages = [_message(_resolve(raw, attachments)) for raw in as_list(sample.get("messages"))]
        output = as_object(sample.get("output"))
        answers = [
            index for index, raw in enumerate(messages) if as_object(cast("JsonValue", raw)).get("role") == "assistant"
        ]
        try:
            if len(answers) != 1 or not isinstance(output.get("usage"), dict):
                raise UnusableEpisodeError(
                    NO_EVENTS, f"{len(answers)} answers; log with events (the default of Inspect)"
                )
            event: Object = {"model": spec.get("model"), "output": dict(output)}
            answer = read_message(messages[answers[0]])
            yield self._record(spec, event, session_id, where, messages[: answers[0]], answer, ("", ""))
        except UnusableEpisodeError as error:
            amounts = [_amount(one) for one in as_object(sample.get("model_usage")).values()]
            amount = sum(amounts, Amount()) if amounts else Amount.of_call(None, None)
            yield BrokenRecord(
                source=where, session_id=session_id, reason=error.reason, detail=error.detail, amount=amount
            )

    def _facts(self, task: str, epoch: int, spec: Object, sample: Object) -> SessionFacts:
        limit, error = as_object(sample.get("limit")), as_object(sample.get("error"))
        config = as_object(spec.get("config"))
        score = None if error else self._score(as_object(sample.get("scores")))
        return SessionFacts(
            score=score,
            status="failed" if error else "truncated" if limit else "completed",
            status_detail=as_text(error.get("message")) or None,
            task=task,
            instance=f"{task}/{as_text(sample.get('id'))}",
            seed=epoch,
            budget_usd=as_number(config.get("cost_limit")) or None,
            extra={"limit": as_text(limit.get("type")), "eval_model": as_text(spec.get("model"))},
        )

    def _score(self, scores: Object) -> float | None:
        values: dict[str, JsonValue] = {}
        for name, score in scores.items():
            value = as_object(score).get("value") if isinstance(score, dict) else score
            if isinstance(value, dict):
                values |= {f"{name}.{key}": inner for key, inner in value.items()}
            else:
                values[name] = cast("JsonValue", value)
        chosen = self._options.scorer
        if chosen is None and len(values) > 1:
            raise InvalidConfigError(
                f"the log has several scores; say which one counts: --option scorer=... ({', '.join(sorted(values))})"
            )
        if not values:
            return None
        name = chosen or next(iter(values))
        if name not in values:
            raise UnusableEpisodeError(BAD_SCORE, f"no score of '{name}'; the sample has {', '.join(sorted(values))}")
        value = values[name]
        if isinstance(value, str) and value.upper() in _LETTERS:
            return _LETTERS[value.upper()]
        number = as_number(value)
        return read_score(value if number is None else number / self._options.max_score)


class _Spans:
    """Which events are a scorer's, and which agent's."""

    def __init__(self, events: Sequence[Object]) -> None:
        self._spans = {as_text(one.get("id")): one for one in events if one.get("event") == "span_begin"}

    def _above(self, event: Object) -> Iterator[Object]:
        name, seen = as_text(event.get("span_id")), set[str]()
        while name in self._spans and name not in seen:
            seen.add(name)
            yield self._spans[name]
            name = as_text(self._spans[name].get("parent_id"))

    def is_scorer(self, event: Object) -> bool:
        """Whether an event lies in a span of a scorer."""
        return any(span.get("type") in _SCORER_SPANS for span in self._above(event))

    def agent(self, event: Object) -> tuple[str, str]:
        """Agent of an event and the one above it; empty for the outermost one."""
        agents = [as_text(span.get("id")) for span in self._above(event) if span.get("type") == "agent"]
        return (agents[0], agents[1]) if len(agents) > 1 else ("", "")


def _member(archive: zipfile.ZipFile, name: str, data: bytes) -> bytes:
    """Bytes of a member; those that are packed with Zstandard, which Python's own reader does not know, as well.

    Raises:
        UnusableEpisodeError: If it unpacks to far too much.
    """
    info = archive.getinfo(name)
    if info.file_size > MAX_FILE_BYTES:
        raise UnusableEpisodeError(BAD_SHAPE, f"'{name}' unpacks to {info.file_size} bytes")
    if info.compress_type != _ZSTANDARD:
        with archive.open(info) as file:
            return file.read(MAX_FILE_BYTES)
    start = info.header_offset
    n_name, n_extra = (int.from_bytes(data[start + place : start + place + 2], "little") for place in (26, 28))
    begin = start + 30 + n_name + n_extra
    with pa.CompressedInputStream(pa.BufferReader(data[begin : begin + info.compress_size]), "zstd") as stream:
        return cast("bytes", stream.read(info.file_size))


def _input(event: Object, pool: Sequence[JsonValue]) -> list[JsonValue]:
    refs = as_list(event.get("input_refs"))
    messages = list(as_list(event.get("input")))
    for ref in refs:
        place = ref if isinstance(ref, list) else []
        if len(place) != 2 or not all(isinstance(one, int) and not isinstance(one, bool) for one in place):
            raise UnusableEpisodeError(BAD_SHAPE, f"input_refs has {cut(repr(ref))}, must be pairs of whole numbers")
        messages += pool[cast("int", place[0]) : cast("int", place[1])]
    return messages


def _answer(output: Object) -> JsonValue:
    choices = as_list(output.get("choices"))
    message = as_object(choices[0]).get("message") if choices else None
    if not isinstance(message, dict):
        raise UnusableEpisodeError(BAD_SHAPE, "output.choices.0.message is missing")
    return message


def _resolve(value: JsonValue, attachments: Object) -> JsonValue:
    """A value whose long texts were moved to the attachments, with them."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        return attachments.get(value.removeprefix(_ATTACHMENT), value)
    if isinstance(value, list):
        return [_resolve(one, attachments) for one in value]
    if isinstance(value, dict):
        return {name: _resolve(one, attachments) for name, one in value.items()}
    return value


def _message(raw: object) -> object:
    """A message of Inspect as others write it: its tool calls name the function by a text."""
    if not isinstance(raw, Mapping):
        return raw
    message = dict(raw)
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message["tool_calls"] = [
            {"name": call.get("function"), "arguments": call.get("arguments")} if isinstance(call, Mapping) else call
            for call in calls
        ]
    error = message.get("error")
    if message.get("role") == "tool" and isinstance(error, Mapping) and not message.get("content"):
        message["content"] = error.get("message")
    return message


def _amount(usage: object) -> Amount:
    return broken("", "", UnusableEpisodeError(""), usage).amount


def _amounts(events: Sequence[JsonValue]) -> Amount:
    usages = [
        as_object(as_object(one).get("output")).get("usage") for one in events if as_object(one).get("event") == "model"
    ]
    return sum(map(_amount, usages), Amount())
