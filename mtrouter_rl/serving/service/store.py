"""Where sessions, decisions and money are kept: SQLite by default, PostgreSQL by URL, the same code for both.

A decision is written before its model is called, and what came of it before the client has the answer. In SQLite that is a
write-ahead log that the operating system holds: a process that is killed loses nothing, a power cut may lose the last moment.
Several replicas may share a store. Whoever changes a session tells the version that it knew, so that nobody decides on
a history that has moved on; who is alive is told by a beat.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, MTRouterError
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.rows import DecisionRow, Found, Outcome, SessionRow
from mtrouter_rl.serving.service.tables import SCHEMA_VERSION, make_tables

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Row

DEAD_AFTER_S = 10.0
"""A replica whose last beat is older has been killed, or cannot reach the store."""
_TEXTS = ("task_text", "first_observation", "observation", "action")
_VALUES = ("messages", "facts", "tries", "usage", "answer")
_WRITTEN = frozenset({*_TEXTS, *_VALUES})
_BUSY_MS = 30_000


class StoreError(MTRouterError):
    """The store cannot be reached, or was written by something else."""


class ConflictError(MTRouterError):
    """Somebody else changed the session meanwhile: read it again."""


class AccountError(MTRouterError):
    """A key has less money left than the call may cost.

    Attributes:
        left_usd: What is left.
    """

    def __init__(self, left_usd: float) -> None:
        super().__init__(f"{left_usd:.4g} USD are left")
        self.left_usd = left_usd


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What changes when a decision is made.

    Attributes:
        session: As it is afterwards, but for its version.
        known_version: Version that the decision was made on; None begins the session.
        decision: The decision.
        again: Whether the decision is there already, and its model is called again.
        key_budget_usd: What the key may spend on the day; None for no limit.
    """

    session: SessionRow
    known_version: int | None
    decision: DecisionRow
    again: bool = False
    key_budget_usd: float | None = None


def engine_url(text: str) -> str:
    """URL for SQLAlchemy of what a user gives: a file, or the URL of a PostgreSQL.

    Raises:
        InvalidConfigError: If it holds a password, or is of another kind.

    Example:
        >>> engine_url("logs/served.sqlite"), engine_url("postgresql://me@127.0.0.1/served")
        ('sqlite:///logs/served.sqlite', 'postgresql+psycopg://me@127.0.0.1/served')
    """
    if "://" not in text:
        return f"sqlite:///{text}"
    scheme, _, rest = text.partition("://")
    if scheme not in ("postgresql", "postgres"):
        raise InvalidConfigError(f"the store is a '{scheme}' URL, must be a file or postgresql://USER@HOST/DATABASE")
    if urlsplit(text).password is not None:
        raise InvalidConfigError(
            "the URL of the store holds a password, which every list of processes would show; leave it out and export "
            "PGPASSWORD, or write it to ~/.pgpass"
        )
    return f"postgresql+psycopg://{rest}"


class Store:
    """The tables. Each method is one transaction; they may be called from several threads.

    Attributes:
        replica: Name of this process.
        n_threads: How many threads may call at once with profit.
    """

    def __init__(self, url: str, *, replica: str | None = None) -> None:
        """Open, and make what is missing.

        Raises:
            MissingDependencyError: If SQLAlchemy or the driver is not installed.
            InvalidConfigError: If the URL cannot be used.
            StoreError: If the store cannot be reached, or is of another version.
        """
        self.replica = replica or f"{socket.gethostname()[:20]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._url = engine_url(url)
        self._is_file = self._url.startswith("sqlite")
        self.n_threads = 1 if self._is_file else 8
        if self._is_file:
            Path(self._url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._tables = make_tables_or_say()
        self._engine = self._make_engine()
        with self.errors():
            self._set_up()

    def find(
        self, key_id: str, name: str | None, prompt: bytes, heads: Sequence[bytes], request_id: str | None
    ) -> Found:
        """What a request goes on from.

        Args:
            key_id: Whose it is; nothing of others is ever found.
            name: Name of its session; None finds it by the conversation.
            prompt: Name of the conversation.
            heads: Names of the conversation after its answers, the latest first.
            request_id: Name of the request, if it has one.
        """
        with self.errors(), self._engine.begin() as connection:
            if request_id is not None:
                same = self._decision(connection, key_id=key_id, request_id=request_id)
                if same is not None:
                    return Found(
                        session=self._session(connection, id=same.session_id), same=self._last_draw(connection, same)
                    )
            session = (
                self._session(connection, key_id=key_id, name=name)
                if name is not None
                else self._by_conversation(connection, key_id, prompt, heads)
            )
            if session is None:
                return Found()
            return Found(session=session, same=self._unanswered(connection, session, prompt))

    def past(self, session_id: str) -> tuple[DecisionRow, ...]:
        """Decisions of a session that were answered, oldest first."""
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        asked = select(table).where(table.c.session_id == session_id, table.c.state == "done").order_by(table.c.turn)
        with self.errors(), self._engine.begin() as connection:
            return tuple(map(_decision_of, connection.execute(asked)))

    def decision(self, key_id: str, decision_id: str) -> tuple[DecisionRow, SessionRow] | None:
        """A decision and its session; None if there is none of this key."""
        with self.errors(), self._engine.begin() as connection:
            found = self._decision(connection, key_id=key_id, id=decision_id)
            session = None if found is None else self._session(connection, id=found.session_id)
            return None if found is None or session is None else (found, session)

    def session(self, key_id: str, name: str) -> SessionRow | None:
        """A session by its name, or by its id; None if there is none of this key."""
        with self.errors(), self._engine.begin() as connection:
            found = self._session(connection, key_id=key_id, name=name)
            return found or self._session(connection, key_id=key_id, id=name)

    def open(self, opening: Opening) -> SessionRow:
        """Write a decision, before its model is called.

        Returns:
            The session as it is now.

        Raises:
            ConflictError: If the session or the turn has been taken meanwhile.
            AccountError: If the key has less money left than the call may cost.
        """
        from sqlalchemy.exc import IntegrityError

        now = replace(opening.session, version=(opening.known_version or 0) + 1, open_id=opening.decision.id)
        try:
            with self.errors(), self._engine.begin() as connection:
                self._write_session(connection, now, opening.known_version)
                self._write_decision(connection, opening)
                self._hold(connection, opening)
        except IntegrityError as error:
            raise ConflictError("the session or the turn was taken by another request") from error
        return now

    def close(self, decision: DecisionRow, outcome: Outcome, session: SessionRow) -> SessionRow:
        """Write what came of a call, before the client has the answer.

        Args:
            decision: The open decision.
            outcome: What came of it.
            session: The session as `open` gave it.

        Returns:
            The session as it is now.

        Raises:
            ConflictError: If somebody else has closed it, since this replica was taken for dead.
        """
        booked = booked_usd(decision, outcome)
        now = replace(
            session,
            version=session.version + 1,
            open_id=None,
            n_turns=session.n_turns + (outcome.state == "done"),
            spent_usd=session.spent_usd + booked,
            held_usd=0.0,
        )
        with self.errors(), self._engine.begin() as connection:
            self._write_session(connection, now, session.version)
            self._write_outcome(connection, decision, outcome)
            self._book(connection, decision, booked)
        return now

    def bury(self, session: SessionRow) -> SessionRow | None:
        """Close the open decision of a replica that is dead: nobody can say what it cost, so that it counts as its most.

        Returns:
            The session as it is now; None if its replica is alive.
        """
        if session.open_id is None:
            return session
        with self.errors(), self._engine.begin() as connection:
            decision = self._decision(connection, id=session.open_id)
            if decision is not None and decision.source == "chat" and self._is_alive(connection, decision.replica):
                return None
        if decision is None:
            return session
        outcome = Outcome(state="unknown", error="lost", ended_at=time.time())
        with suppress(ConflictError):
            return self.close(decision, outcome, session)
        return None

    def add_feedback(self, session_id: str, *, score: float | None, status: str | None, detail: str | None) -> None:
        """Keep a score or a status of a session; the last one counts."""
        row = {"id": secrets.token_hex(16), "session_id": session_id, "created_at": time.time()}
        with self.errors(), self._engine.begin() as connection:
            table = self._tables["served_feedback"]
            connection.execute(table.insert(), row | {"score": score, "status": status, "detail": detail})

    def account_usd(self, key_id: str, day: str) -> float:
        """What a key has spent and holds on a day."""
        from sqlalchemy import select

        table = self._tables["served_accounts"]
        with self.errors(), self._engine.begin() as connection:
            asked = select(table.c.spent_usd + table.c.held_usd).where(table.c.key_id == key_id, table.c.day == day)
            return float(connection.execute(asked).scalar() or 0.0)

    def beat(self) -> None:
        """Say that this replica is alive; also shows whether the store can be written."""
        table = self._tables["served_replicas"]
        row = {"host": socket.gethostname(), "pid": os.getpid(), "beat_at": time.time()}
        with self.errors(), self._engine.begin() as connection:
            changed = connection.execute(table.update().where(table.c.id == self.replica).values(row))
            if not changed.rowcount:
                connection.execute(table.insert(), row | {"id": self.replica})

    def secret(self) -> bytes:
        """A secret of the store, the same for all replicas, by which keys are told apart without being kept."""
        from sqlalchemy import select

        table = self._tables["served_meta"]
        with self.errors(), self._engine.begin() as connection:
            return bytes.fromhex(
                str(connection.execute(select(table.c.value).where(table.c.name == "secret")).scalar())
            )

    def close_all(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the database as ours, without what was to be written."""
        from sqlalchemy.exc import IntegrityError, SQLAlchemyError

        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            told = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
            raise StoreError(
                f"the store {self._shown} cannot be used: {told[0][:200] if told else type(error).__name__}; see that it runs "
                "and can be written"
            ) from None

    @property
    def _shown(self) -> str:
        return self._url.removeprefix("sqlite:///").replace("+psycopg", "")

    def _make_engine(self) -> "Engine":
        from sqlalchemy import create_engine

        try:
            if not self._is_file:
                return create_engine(self._url, pool_size=self.n_threads, max_overflow=0, pool_pre_ping=True)
            engine = create_engine(self._url, connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False})
        except ImportError as error:
            raise MissingDependencyError(
                "the store is a PostgreSQL, whose driver psycopg is not installed; run: pip install 'mtrouter-rl[postgres]'"
            ) from error
        _make_patient(engine)
        return engine

    def _set_up(self) -> None:
        from sqlalchemy import select
        from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

        metadata = next(iter(self._tables.values())).metadata
        with suppress(IntegrityError, ProgrammingError, OperationalError):  # another replica makes them at this moment
            metadata.create_all(self._engine)
        table = self._tables["served_meta"]
        for name, value in (("version", SCHEMA_VERSION), ("secret", secrets.token_hex(32))):
            with suppress(IntegrityError), self._engine.begin() as connection:
                if connection.execute(select(table.c.value).where(table.c.name == name)).scalar() is None:
                    connection.execute(table.insert(), {"name": name, "value": value})
        with self._engine.begin() as connection:
            version = connection.execute(select(table.c.value).where(table.c.name == "version")).scalar()
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"the store {self._shown} has version {version}, must be {SCHEMA_VERSION}; give another one"
            )

    def _by_conversation(
        self, connection: "Connection", key_id: str, prompt: bytes, heads: Sequence[bytes]
    ) -> SessionRow | None:
        """Session that a conversation goes on from; the one whose last answer it shows goes before others."""
        from sqlalchemy import select

        decisions, sessions = self._tables["served_decisions"], self._tables["served_sessions"]
        columns = (
            decisions.c.session_id,
            decisions.c.head,
            decisions.c.turn,
            decisions.c.created_at,
            sessions.c.n_turns,
        )
        both = decisions.join(sessions, decisions.c.session_id == sessions.c.id)
        found: list[Row[Any]] = []
        if heads:
            asked = (
                select(*columns)
                .select_from(both)
                .where(decisions.c.key_id == key_id, decisions.c.head.in_(list(heads)))
            )
            found = list(connection.execute(asked))
        if found:
            ranked = {head: place for place, head in enumerate(heads)}
            best = min(found, key=lambda row: (ranked[bytes(row[1])], row[2] + 1 != row[4], -row[3]))
            return self._session(connection, id=best[0])
        again = (
            select(decisions.c.session_id)
            .where(decisions.c.key_id == key_id, decisions.c.prompt == prompt)
            .where(decisions.c.state.in_(("failed", "unknown", "open")))
            .order_by(decisions.c.created_at)
        )
        for (session_id,) in connection.execute(again).all():
            session = self._session(connection, id=session_id)
            same = None if session is None else self._unanswered(connection, session, prompt)
            if same is not None and (same.state != "open" or not self._is_alive(connection, same.replica)):
                return session
        return None

    def _unanswered(self, connection: "Connection", session: SessionRow, prompt: bytes) -> DecisionRow | None:
        """The decision of the turn that is due, if it was made on this prompt and has no answer."""
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        asked = (
            select(table)
            .where(table.c.session_id == session.id, table.c.turn == session.n_turns, table.c.prompt == prompt)
            .where(table.c.state != "done")
            .order_by(table.c.draw.desc())
            .limit(1)
        )
        row = connection.execute(asked).first()
        return None if row is None else _decision_of(row)

    def _last_draw(self, connection: "Connection", same: DecisionRow) -> DecisionRow:
        """The last model that was drawn for the turn of a decision, on the same prompt."""
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        asked = (
            select(table)
            .where(table.c.session_id == same.session_id, table.c.turn == same.turn, table.c.prompt == same.prompt)
            .order_by(table.c.draw.desc())
            .limit(1)
        )
        row = connection.execute(asked).first()
        return same if row is None else _decision_of(row)

    def _session(self, connection: "Connection", **by: object) -> SessionRow | None:
        from sqlalchemy import select

        table = self._tables["served_sessions"]
        row = connection.execute(select(table).where(*(table.c[name] == value for name, value in by.items()))).first()
        return None if row is None else SessionRow(**_read(row))

    def _decision(self, connection: "Connection", **by: object) -> DecisionRow | None:
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        row = connection.execute(select(table).where(*(table.c[name] == value for name, value in by.items()))).first()
        return None if row is None else _decision_of(row)

    def _write_session(self, connection: "Connection", session: SessionRow, known_version: int | None) -> None:
        table = self._tables["served_sessions"]
        row = _written(_columns(session))
        if known_version is None:
            connection.execute(table.insert(), row)
            return
        where = (table.c.id == session.id, table.c.version == known_version)
        if not connection.execute(table.update().where(*where).values(row)).rowcount:
            raise ConflictError(f"session '{session.name}' has moved on")

    def _write_decision(self, connection: "Connection", opening: Opening) -> None:
        table = self._tables["served_decisions"]
        row = _written(_columns(opening.decision))
        if not opening.again:
            connection.execute(table.insert(), row)
            return
        names = ("replica", "state", "tries", "held_usd", "day", "request_id", "source")
        changed = {name: row[name] for name in names}
        where = (table.c.id == opening.decision.id, table.c.state.in_(("failed", "unknown")))
        if not connection.execute(table.update().where(*where).values(changed)).rowcount:
            raise ConflictError("the decision is being called by another request")

    def _write_outcome(self, connection: "Connection", decision: DecisionRow, outcome: Outcome) -> None:
        table = self._tables["served_decisions"]
        row = _written({name: value for name, value in _columns(outcome).items() if name != "status"})
        if outcome.state != "done":
            told = {"state": outcome.state, "error": outcome.error, "status": outcome.status, "at": outcome.ended_at}
            told |= {"model": decision.model, "cost_usd": outcome.cost_usd, "held_usd": decision.held_usd}
            told |= {"usage": cast(JsonValue, outcome.usage)}
            row = {"state": outcome.state, "error": outcome.error, "ended_at": outcome.ended_at}
            row["tries"] = _json([*decision.tries, told])
        connection.execute(table.update().where(table.c.id == decision.id).values(row))

    def _hold(self, connection: "Connection", opening: Opening) -> None:
        table, decision = self._tables["served_accounts"], opening.decision
        where = (table.c.key_id == decision.key_id, table.c.day == decision.day)
        more = {"held_usd": table.c.held_usd + decision.held_usd}
        if not connection.execute(table.update().where(*where).values(more)).rowcount:
            row = {"key_id": decision.key_id, "day": decision.day, "spent_usd": 0.0, "held_usd": decision.held_usd}
            connection.execute(table.insert(), row)
        if opening.key_budget_usd is None:
            return
        from sqlalchemy import select

        used = float(connection.execute(select(table.c.spent_usd + table.c.held_usd).where(*where)).scalar_one())
        if used > opening.key_budget_usd:
            raise AccountError(max(opening.key_budget_usd - used + decision.held_usd, 0.0))

    def _book(self, connection: "Connection", decision: DecisionRow, booked: float) -> None:
        table = self._tables["served_accounts"]
        where = (table.c.key_id == decision.key_id, table.c.day == decision.day)
        change = {"held_usd": table.c.held_usd - decision.held_usd, "spent_usd": table.c.spent_usd + booked}
        connection.execute(table.update().where(*where).values(change))

    def _is_alive(self, connection: "Connection", replica: str) -> bool:
        if replica == self.replica:
            return True
        from sqlalchemy import select

        table = self._tables["served_replicas"]
        row = connection.execute(select(table).where(table.c.id == replica)).first()
        if row is None or row.beat_at < time.time() - DEAD_AFTER_S:
            return False
        return row.host != socket.gethostname() or _runs(row.pid)


def booked_usd(decision: DecisionRow, outcome: Outcome) -> float:
    """What a call counts as: what it cost, or at most can have cost where nobody can say; nothing if it was not billed."""
    if outcome.cost_usd is not None:
        return outcome.cost_usd
    return 0.0 if outcome.state == "failed" else decision.held_usd


def make_tables_or_say() -> Mapping[str, Any]:
    """The tables by name.

    Raises:
        MissingDependencyError: If SQLAlchemy is not installed.
    """
    try:
        return make_tables().tables
    except ImportError as error:
        raise MissingDependencyError(
            "the policy service needs SQLAlchemy, which is not installed; run: pip install 'mtrouter-rl[serve]'"
        ) from error


def _make_patient(engine: "Engine") -> None:
    """SQLite that waits for other writers, and begins every transaction as a writer."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:  # noqa: ANN401
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: "Connection") -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _columns(record: SessionRow | DecisionRow | Outcome) -> dict[str, object]:
    """Fields of a record, not copied."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _written(row: Mapping[str, object]) -> dict[str, object]:
    """Columns of a record: texts as JSON too, since a PostgreSQL takes no NUL and no half surrogate pair."""
    return {name: _json(value) if name in _WRITTEN and value is not None else value for name, value in row.items()}


def _read(row: "Row[Any]") -> dict[str, Any]:
    values = dict(row._mapping)
    for name in _WRITTEN & values.keys():
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return values


def _decision_of(row: "Row[Any]") -> DecisionRow:
    values = _read(row)
    for name in ("messages", "tries"):
        values[name] = tuple(values[name])
    for name in ("prompt", "head"):
        values[name] = None if values[name] is None else bytes(values[name])
    return DecisionRow(**values)
