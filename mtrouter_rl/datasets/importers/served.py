"""Imports what a policy service wrote: its SQLite file, or its PostgreSQL by URL, read while it may go on running.

Every answered decision becomes a turn with the probability that it was drawn with, under the mixture of router, default and
fall-back that was at work. What a router was shown live is what the episode shows: texts are taken as the service read them,
not from the prompts anew. Scores come from `/feedback`, or later from a file, by the session's name or id.
"""

import abc
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from mtrouter_rl.datasets.importers.base import Amount, ChatImporter, ImportSource, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.call_records import BrokenRecord, CallRecord, Record, ScoreRecord, SessionFacts
from mtrouter_rl.datasets.importers.chat import call_usage
from mtrouter_rl.datasets.importers.messages import ChatMessage, read_message, read_messages, split_opening
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.datasets.importers.sessions import SessionAssembler, SessionOptions
from mtrouter_rl.errors import DatasetError, MissingDependencyError
from mtrouter_rl.pools.usage import UsageReading, known_tokens
from mtrouter_rl.records import Episode, Frozen, JsonValue, TokenUsage

SERVED_VERSION = "1"
SQLITE_HEAD = b"SQLite format 3\x00"

UNKNOWN_COST = "call that broke off, so that nobody knows its cost"
OTHER_BILL = "call of another model that was billed in vain at the same turn"
STILL_OPEN = "decision whose call is under way, left out of its session"
LAST_FAILED = "last decision of a session whose call failed"
TWO_BILLS = "turn whose model was billed more than once: its tokens are those of all calls"
SHADOW = "turn of the shadow mode or of a session outside the canary share, in which the default model was called"
FALLBACK = "turn of the fall-back, since the router failed or was late"
ASKED = "turn whose model the client asked for"
BAD_ROW = "row of the service's log that cannot be read"

_KINDS = {"shadow": SHADOW, "default": SHADOW, "fallback": FALLBACK, "asked": ASKED}
_POSTGRES = ("postgresql:", "postgres:")
_SESSIONS = (
    "SELECT id, name, created_at, task, task_text, first_observation, arm, budget_usd, max_turns, n_turns "
    "FROM served_sessions ORDER BY created_at, id"
)
_DECISIONS = (
    "SELECT id, turn, draw, created_at, messages, observation, kind, model, propensity, facts, state, tries, held_usd, "
    "usage, answer, action, error, latency_s, source FROM served_decisions WHERE session_id = :session ORDER BY turn, draw"
)
_FEEDBACK = "SELECT score, status, detail FROM served_feedback WHERE session_id = :session ORDER BY created_at, id"
_VERSION = "SELECT value FROM served_meta WHERE name = 'version'"

Row = Mapping[str, object]


class ServedOptions(SessionOptions):
    """Options of the format.

    Attributes:
        propensities: The service logs the probability of every model that it chose.
        unknown_costs: What happens to sessions with a call that broke off.
    """

    propensities: Literal["exact", "unknown"] = "exact"
    unknown_costs: Annotated[
        Literal["reject", "leave"],
        Field(
            description="calls that broke off, so that nobody knows what they cost; reject: their session is left out; leave: "
            "it is kept without their cost, which is then too low"
        ),
    ] = "reject"


class ServedImporter(ChatImporter[ServedOptions]):
    """Reads the log of `mtrouter-rl serve`; holds one session at a time."""

    options_model: ClassVar[type[Frozen]] = ServedOptions
    takes_scores: ClassVar[bool] = True
    description: ClassVar[str] = "log of 'mtrouter-rl serve': its SQLite file, or postgresql://USER@HOST/DATABASE"
    env = "served"
    assumptions = (
        "a score is booked on the last turn",
        "no prompt cache was warm before a turn, as far as a router could know; cached tokens are billed as logged",
        "a session is an instance of its own; variation is a 48-bit hash of its id",
        "a session without status was ended by the task itself",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        if not sample.head.startswith(SQLITE_HEAD):
            return ""
        return "SQLite with served_sessions" if b"served_sessions" in sample.head or "served" in sample.name else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes in the order in which their sessions began; see `Importer`.

        Raises:
            DatasetError: If a path is no log of a service, or cannot be read.
            MissingDependencyError: If it is a PostgreSQL whose driver is not installed.
        """
        assembler = SessionAssembler(source, self._options)
        for path in source.paths:
            for log in _logs(path):
                source.report.n_files += 1
                with log:
                    for session in log.rows(_SESSIONS):
                        for record in _Session(log, session, source, self._options).records():
                            assembler.take(record)
                        yield from assembler.close(str(session["id"]))
        yield from assembler.finish()


class _Log(abc.ABC):
    """A log that is open for reading."""

    shown: str

    def __enter__(self) -> "_Log":
        version = [row["value"] for row in self.rows(_VERSION)]
        if version != [SERVED_VERSION]:
            told = version[0] if version else "none"
            raise DatasetError(
                f"{self.shown} has version {told}, must be {SERVED_VERSION}; import it with the release that wrote it"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def rows(self, query: str, **values: object) -> Iterator[Row]:
        """Rows of a query."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the log."""


class _File(_Log):
    def __init__(self, path: Path) -> None:
        self.shown = path.name
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
        self._connection.row_factory = sqlite3.Row

    def rows(self, query: str, **values: object) -> Iterator[Row]:
        try:
            with closing(self._connection.execute(query, values)) as cursor:
                for row in cursor:
                    yield {name: row[name] for name in row.keys()}  # noqa: SIM118
        except sqlite3.Error as error:
            raise DatasetError(f"{self.shown} is no log of 'mtrouter-rl serve', or is damaged: {error}") from error

    def close(self) -> None:
        self._connection.close()


class _Database(_Log):
    def __init__(self, url: str) -> None:
        self.shown = "the PostgreSQL"
        try:
            import psycopg
            from psycopg.rows import dict_row
        except ImportError as error:
            raise MissingDependencyError(
                "reading a PostgreSQL needs psycopg, which is not installed; run: pip install 'mtrouter-rl[postgres]'"
            ) from error
        self._error = psycopg.Error
        try:
            self._connection = psycopg.connect(url, row_factory=dict_row)
        except psycopg.Error as error:
            raise DatasetError(
                f"the PostgreSQL cannot be reached: {str(error).strip()[:200]}; see that it runs"
            ) from error
        self._connection.read_only = True

    def rows(self, query: str, **values: object) -> Iterator[Row]:
        try:
            for row in self._connection.execute(query.replace(":session", "%(session)s"), values).fetchall():
                yield cast(Row, row)
        except self._error as error:
            told = str(error).strip()[:200]
            raise DatasetError(f"{self.shown} holds no log of 'mtrouter-rl serve': {told}") from error

    def close(self) -> None:
        self._connection.close()


def _logs(path: Path) -> Iterator[_Log]:
    """Logs at a path: itself, the SQLite files of a folder, or a database."""
    text = str(path)
    if text.startswith(_POSTGRES):
        scheme, _, rest = text.partition(":")
        yield _Database(f"{scheme}://{rest.lstrip('/')}")
        return
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give the file that 'mtrouter-rl serve --store' wrote, or its URL")
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    found = [one for one in files if _is_sqlite(one)]
    if not found:
        raise DatasetError(
            f"{path} is no SQLite file and holds none; give the file that 'mtrouter-rl serve --store' wrote"
        )
    yield from map(_File, found)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEAD)) == SQLITE_HEAD


@dataclass
class _Session:
    """One session of a log."""

    log: _Log
    row: Row
    source: ImportSource
    options: ServedOptions

    def records(self) -> Iterator[Record]:
        """Its turns and what is known of its end."""
        decisions = list(self.log.rows(_DECISIONS, session=self.row["id"]))
        done: list[CallRecord] = []
        for turn in sorted({cast(int, one["turn"]) for one in decisions}):
            draws = [one for one in decisions if one["turn"] == turn]
            try:
                record = self._turn(draws, done)
            except (UnusableEpisodeError, ValueError, KeyError, TypeError) as error:
                yield self._broken(draws, error)
                continue
            if record is not None:
                done.append(record)
                yield record
        if done:
            for told in self.log.rows(_FEEDBACK, session=self.row["id"]):
                yield self._score(told)

    @property
    def _id(self) -> str:
        return str(self.row["id"])

    def _where(self, draws: Sequence[Row]) -> str:
        return f"{self.log.shown}, session {self._id}, decision {draws[-1]['id']}"

    def _turn(self, draws: Sequence[Row], done: Sequence[CallRecord]) -> CallRecord | None:
        """The call of a turn; None if it has no answer.

        Raises:
            UnusableEpisodeError: If its cost cannot be known.
            ValueError, KeyError, TypeError: If the row is damaged.
        """
        last = draws[-1]
        tries = [one for row in draws for one in cast("list[Row]", _value(row["tries"]))]
        where = self._where(draws)
        if last["state"] == "open":
            self.source.report.pass_over(STILL_OPEN, source=where)
        self._check_bills(tries, where)
        if last["state"] != "done":
            if tries and last["state"] != "open":
                self._lose(tries, where)
            return None
        return self._call(last, tries, where, done)

    def _check_bills(self, tries: Sequence[Row], where: str) -> None:
        unknown = [one for one in tries if one["state"] == "unknown"]
        if not unknown:
            return
        detail = (
            f"{len(unknown)} calls, of at most {sum(float(cast(float, one['held_usd'])) for one in unknown):.6g} USD"
        )
        if self.options.unknown_costs == "reject":
            raise UnusableEpisodeError(
                UNKNOWN_COST, f"{detail}; --option unknown_costs=leave keeps the session", source=where
            )
        self.source.report.note(UNKNOWN_COST, source=where, detail=detail, n=len(unknown))

    def _lose(self, tries: Sequence[Row], where: str) -> None:
        """Count what the calls of a turn without an answer cost: the episode ends before it."""
        amount = Amount()
        for one in tries:
            if one.get("usage") and one["cost_usd"] is not None:
                tokens = call_usage(one["usage"]).tokens
                amount += Amount.of_call(tokens, float(cast(float, one["cost_usd"])))
            elif one["state"] == "unknown":
                amount += Amount(n_calls=1, n_unknown=1)
        self.source.report.pass_over(LAST_FAILED, source=where, detail=cut(str(tries[-1]["error"])), amount=amount)

    def _call(self, row: Row, tries: Sequence[Row], where: str, done: Sequence[CallRecord]) -> CallRecord:
        facts = cast("dict[str, JsonValue]", _value(row["facts"]))
        if str(row["kind"]) in _KINDS:
            self.source.report.note(_KINDS[str(row["kind"])], source=where)
        action, answer = str(_value(row["action"])), cast("Mapping[str, object]", _value(row["answer"]))
        usage = _value(row["usage"])
        if usage is None:
            detail = "the endpoint told no usage"
            raise UnusableEpisodeError(UNKNOWN_COST, detail, source=where)
        reading = self._with_tries(call_usage(usage, answer_is_empty=not action), tries, str(row["model"]), where)
        return CallRecord(
            source=where,
            session_id=self._id,
            model=str(row["model"]),
            messages=self._prompt(row, done),
            response=ChatMessage(role="assistant", content=action, left_out=read_message(answer).left_out),
            usage=reading,
            request_id=str(row["id"]),
            timestamp=float(cast(float, row["created_at"])),
            propensity=float(cast(float, row["propensity"])),
            candidates=tuple(map(str, cast("list[str]", facts["candidates"]))),
            latency_s=cast("float | None", row["latency_s"]),
            error=str(_text_or_empty(row["error"])),
            facts=self._facts(facts, str(row["kind"])),
        )

    def _prompt(self, row: Row, done: Sequence[CallRecord]) -> tuple[ChatMessage, ...]:
        """The conversation as a router saw it: what opened it, and of every turn its action and what came back."""
        if done:
            last = done[-1]
            assert last.response is not None
            came = ChatMessage(role="tool", content=str(_text_or_empty(_value(row["observation"]))))
            return (*last.messages, last.response, came)
        given = read_messages(cast("list[object]", _value(row["messages"])))
        system, _, _ = split_opening(given)
        left_out = tuple(note for message in given for note in message.left_out)
        task = ChatMessage(role="user", content=str(_value(self.row["task_text"])), left_out=left_out)
        first = str(_value(self.row["first_observation"]))
        before = [ChatMessage(role="system", content=system)] if system else []
        return (*before, task, *([ChatMessage(role="user", content=first)] if first else []))

    def _with_tries(self, reading: UsageReading, tries: Sequence[Row], model: str, where: str) -> UsageReading:
        """Tokens of a turn: those of all calls that were billed for it.

        Raises:
            UnusableEpisodeError: If one was of another model, whose prices differ.
        """
        billed = [one for one in tries if one.get("cost_usd") is not None]
        if not billed:
            return reading
        others = [one for one in billed if one["model"] != model]
        if others:
            raise UnusableEpisodeError(OTHER_BILL, f"{others[0]['model']}, {others[0]['cost_usd']} USD", source=where)
        self.source.report.note(TWO_BILLS, source=where, n=len(billed))
        tokens = reading.tokens
        for one in billed:
            more = call_usage(one["usage"]).tokens
            tokens = TokenUsage(
                n_fresh=tokens.n_fresh + more.n_fresh,
                n_cached=tokens.n_cached + more.n_cached,
                n_written=tokens.n_written + more.n_written,
                n_output=tokens.n_output + more.n_output,
            )
        return known_tokens(tokens)

    def _facts(self, facts: Mapping[str, JsonValue], kind: str) -> SessionFacts:
        row = self.row
        extra: dict[str, JsonValue] = {"arm": str(row["arm"])}
        if row["name"] != row["id"]:
            extra["trace_id"] = str(row["name"])
        return SessionFacts(
            task=cast("str | None", row["task"]),
            behavior_policy=f"{facts['router']}" if kind == "router" else f"{facts['router']}, {kind}",
            max_turns=cast("int | None", row["max_turns"]),
            budget_usd=cast("float | None", row["budget_usd"]),
            extra=extra,
        )

    def _score(self, told: Row) -> ScoreRecord:
        return ScoreRecord(
            source=f"{self.log.shown}, session {self._id}, feedback",
            session_id=self._id,
            facts=SessionFacts(
                score=cast("float | None", told["score"]),
                status=cast("Literal['completed', 'truncated', 'failed'] | None", told["status"]),
                status_detail=cast("str | None", told["detail"]),
            ),
        )

    def _broken(self, draws: Sequence[Row], error: Exception) -> BrokenRecord:
        """A turn that cannot be used; its session is left out."""
        reason, detail = BAD_ROW, cut(f"{type(error).__name__}: {error}")
        if isinstance(error, UnusableEpisodeError):
            reason, detail = error.reason, error.detail
        amount = Amount(n_calls=1, n_unknown=1)
        try:
            usage = _value(draws[-1]["usage"])
            if usage is not None:
                model = self.source.pool.model(str(draws[-1]["model"]))
                tokens = call_usage(usage).tokens
                amount = Amount.of_call(tokens, model.prices.cost_usd(tokens))
        except (DatasetError, ValueError, KeyError, TypeError):
            pass
        return BrokenRecord(source=self._where(draws), session_id=self._id, reason=reason, detail=detail, amount=amount)


def _value(text: object) -> "JsonValue":
    """Value of a column that holds JSON."""
    return None if text is None else cast("JsonValue", json.loads(str(text)))


def _text_or_empty(text: object) -> object:
    return "" if text is None else text
