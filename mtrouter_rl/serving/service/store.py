"""Where sessions, decisions and money are kept: SQLite by default, PostgreSQL by URL, the same code for both.

A decision is written before its model is called, and what came of it before the client has the answer. In SQLite that is a
write-ahead log that the operating system holds: a process that is killed loses nothing, a power cut may lose the last moment.
Several replicas may share a store. Whoever changes a session tells the version that it knew, so that nobody decides on
a history that has moved on; who is alive is told by a beat.
"""

import os
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from mtrouter_rl.errors import MTRouterError
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.database import Database, as_json, columns, decision_of, read_row, written
from mtrouter_rl.serving.service.rows import DecisionRow, Found, Outcome, SessionRow
from mtrouter_rl.serving.service.tables import Often

DEAD_AFTER_S = 10.0
"""A replica whose last beat is older has been killed, or cannot reach the store."""

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection


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
        self._database = Database(url)
        self._tables = self._database.tables
        self.n_threads = self._database.n_threads
        self._often = Often(self._tables)

    def no_wait(self) -> "AbstractContextManager[None]":
        """Within it, methods that this thread calls raise `BusyError` at once where they would have to wait."""
        return self._database.no_wait()

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
        with self._database.begin() as connection:
            if request_id is not None:
                same = self._decision(connection, key_id=key_id, request_id=request_id)
                if same is not None:
                    session = self._session(connection, id=same.session_id)
                    return self._found(connection, session, self._last_draw(connection, same))
            session = (
                self._session(connection, key_id=key_id, name=name)
                if name is not None
                else self._by_conversation(connection, key_id, prompt, heads)
            )
            if session is None:
                return Found()
            return self._found(connection, session, self._unanswered(connection, session, prompt))

    def past(self, session_id: str) -> tuple[DecisionRow, ...]:
        """Decisions of a session that were answered, oldest first."""
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        asked = select(table).where(table.c.session_id == session_id, table.c.state == "done").order_by(table.c.turn)
        with self._database.begin() as connection:
            return tuple(map(decision_of, connection.execute(asked)))

    def decision(self, key_id: str, decision_id: str) -> tuple[DecisionRow, SessionRow] | None:
        """A decision and its session; None if there is none of this key."""
        with self._database.begin() as connection:
            found = self._decision(connection, key_id=key_id, id=decision_id)
            session = None if found is None else self._session(connection, id=found.session_id)
            return None if found is None or session is None else (found, session)

    def session(self, key_id: str, name: str) -> SessionRow | None:
        """A session by its name, or by its id; None if there is none of this key."""
        with self._database.begin() as connection:
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
            with self._database.begin() as connection:
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
        with self._database.begin() as connection:
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
        with self._database.begin() as connection:
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
        with self._database.begin() as connection:
            table = self._tables["served_feedback"]
            connection.execute(table.insert(), row | {"score": score, "status": status, "detail": detail})

    def account_usd(self, key_id: str, day: str) -> float:
        """What a key has spent and holds on a day."""
        from sqlalchemy import select

        table = self._tables["served_accounts"]
        with self._database.begin() as connection:
            asked = select(table.c.spent_usd + table.c.held_usd).where(table.c.key_id == key_id, table.c.day == day)
            return float(connection.execute(asked).scalar() or 0.0)

    def beat(self) -> None:
        """Say that this replica is alive; also shows whether the store can be written."""
        table = self._tables["served_replicas"]
        row = {"host": socket.gethostname(), "pid": os.getpid(), "beat_at": time.time()}
        with self._database.begin() as connection:
            changed = connection.execute(table.update().where(table.c.id == self.replica).values(row))
            if not changed.rowcount:
                connection.execute(table.insert(), row | {"id": self.replica})
        self._database.tidy()

    def secret(self) -> bytes:
        """A secret of the store, the same for all replicas, by which keys are told apart without being kept."""
        return self._database.secret()

    def close_all(self) -> None:
        """Let go of every connection."""
        self._database.close()

    def _found(self, connection: "Connection", session: SessionRow | None, same: DecisionRow | None) -> Found:
        from sqlalchemy import func, select

        if session is None:
            return Found(same=same)
        table = self._tables["served_decisions"]
        asked = select(func.max(table.c.draw)).where(table.c.session_id == session.id, table.c.turn == session.n_turns)
        last = connection.execute(asked).scalar()
        return Found(session=session, same=same, n_draws=0 if last is None else int(last) + 1)

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
        found: list[Any] = []
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
        return None if row is None else decision_of(row)

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
        return same if row is None else decision_of(row)

    def _session(self, connection: "Connection", **by: object) -> SessionRow | None:
        from sqlalchemy import select

        table = self._tables["served_sessions"]
        row = connection.execute(select(table).where(*(table.c[name] == value for name, value in by.items()))).first()
        return None if row is None else SessionRow(**read_row(row))

    def _decision(self, connection: "Connection", **by: object) -> DecisionRow | None:
        from sqlalchemy import select

        table = self._tables["served_decisions"]
        row = connection.execute(select(table).where(*(table.c[name] == value for name, value in by.items()))).first()
        return None if row is None else decision_of(row)

    def _write_session(self, connection: "Connection", session: SessionRow, known_version: int | None) -> None:
        table = self._tables["served_sessions"]
        row = written(columns(session))
        if known_version is None:
            connection.execute(table.insert(), row)
            return
        row |= {"of_id": session.id, "known_version": known_version}
        if not self._database.run(connection, self._often.change_session, row):
            raise ConflictError(f"session '{session.name}' has moved on")

    def _write_decision(self, connection: "Connection", opening: Opening) -> None:
        table = self._tables["served_decisions"]
        row = written(columns(opening.decision))
        if not opening.again:
            self._database.run(connection, self._often.add_decision, row)
            return
        names = ("replica", "state", "tries", "held_usd", "day", "request_id", "source")
        changed = {name: row[name] for name in names}
        where = (table.c.id == opening.decision.id, table.c.state.in_(("failed", "unknown")))
        if not connection.execute(table.update().where(*where).values(changed)).rowcount:
            raise ConflictError("the decision is being called by another request")

    def _write_outcome(self, connection: "Connection", decision: DecisionRow, outcome: Outcome) -> None:
        table = self._tables["served_decisions"]
        row = written({name: value for name, value in columns(outcome).items() if name != "status"})
        if outcome.state != "done":
            told: dict[str, JsonValue] = {
                "state": outcome.state,
                "error": outcome.error,
                "status": outcome.status,
                "at": outcome.ended_at,
                "model": decision.model,
                "cost_usd": outcome.cost_usd,
                "held_usd": decision.held_usd,
                "usage": cast(JsonValue, outcome.usage),
            }
            row = {"state": outcome.state, "error": outcome.error, "ended_at": outcome.ended_at}
            row["tries"] = as_json([*decision.tries, told])
            connection.execute(table.update().where(table.c.id == decision.id).values(row))
            return
        self._database.run(connection, self._often.close_decision, row | {"of_id": decision.id})

    def _hold(self, connection: "Connection", opening: Opening) -> None:
        table, decision = self._tables["served_accounts"], opening.decision
        where = (table.c.key_id == decision.key_id, table.c.day == decision.day)
        more = {"of_key": decision.key_id, "of_day": decision.day, "held": decision.held_usd, "spent": 0.0}
        if not self._database.run(connection, self._often.add_to_account, more):
            row = {"key_id": decision.key_id, "day": decision.day, "spent_usd": 0.0, "held_usd": decision.held_usd}
            connection.execute(table.insert(), row)
        if opening.key_budget_usd is None:
            return
        from sqlalchemy import select

        used = float(connection.execute(select(table.c.spent_usd + table.c.held_usd).where(*where)).scalar_one())
        if used > opening.key_budget_usd:
            raise AccountError(max(opening.key_budget_usd - used + decision.held_usd, 0.0))

    def _book(self, connection: "Connection", decision: DecisionRow, booked: float) -> None:
        more = {"of_key": decision.key_id, "of_day": decision.day, "held": -decision.held_usd, "spent": booked}
        self._database.run(connection, self._often.add_to_account, more)

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


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
