"""The database behind the store: its address, its errors, its version, and how records become rows."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, MTRouterError
from mtrouter_rl.serving.service.rows import DecisionRow, Outcome, SessionRow
from mtrouter_rl.serving.service.tables import SCHEMA_VERSION, make_tables

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement, Connection, Engine, Row

_TEXTS = ("task_text", "first_observation", "observation", "action")
_VALUES = ("messages", "facts", "tries", "usage", "answer")
_WRITTEN = frozenset({*_TEXTS, *_VALUES})
_BUSY_S = 30.0
_PAGES = 20_000
"""Pages of SQLite's log after which a request moves them itself, should nobody `tidy`."""


class BusyError(MTRouterError):
    """Somebody else is writing: it takes a moment, which no event loop should wait."""


class StoreError(MTRouterError):
    """The store cannot be reached, or was written by something else."""


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
    if urlsplit(text).password or "password" in parse_qs(urlsplit(text).query):
        raise InvalidConfigError(
            "the URL of the store holds a password, which every list of processes would show; leave it out and export "
            "PGPASSWORD, or write it to ~/.pgpass"
        )
    return f"postgresql+psycopg://{rest}"


class Database:
    """An open database with the tables of the service.

    Attributes:
        tables: The tables by name.
        n_threads: How many threads may use it at once with profit.
    """

    def __init__(self, url: str) -> None:
        """Open it, and make what is missing.

        Raises:
            MissingDependencyError: If SQLAlchemy or the driver is not installed.
            InvalidConfigError: If the URL cannot be used.
            StoreError: If it cannot be reached, or is of another version.
        """
        self._url = engine_url(url)
        self._is_file = self._url.startswith("sqlite")
        self.n_threads = 1 if self._is_file else 8
        if self._is_file:
            Path(self._url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.tables = make_tables_or_say()
        self._engine = self._make_engine(waits_s=_BUSY_S)
        self._impatient = self._make_engine(waits_s=0.0) if self._is_file else None
        self._here = threading.local()
        self._prepared: dict[Callable[[], ClauseElement], tuple[str, Sequence[str] | None]] = {}
        with self.errors():
            self._set_up()

    @contextmanager
    def begin(self) -> Iterator["Connection"]:
        """A transaction.

        Raises:
            StoreError: If the database cannot be used.
        """
        engine = getattr(self._here, "engine", self._engine)
        with self.errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def no_wait(self) -> Iterator[None]:
        """Transactions of this thread wait for nobody.

        Raises:
            BusyError: If somebody else is writing, or the database is none that answers at once.
        """
        if self._impatient is None:
            raise BusyError("the database is a server")
        self._here.engine = self._impatient
        try:
            yield
        finally:
            del self._here.engine

    def run(self, connection: "Connection", make: "Callable[[], ClauseElement]", values: Mapping[str, object]) -> int:
        """Run a statement that is run often: it is written as SQL once. Gives how many rows it changed.

        Args:
            connection: In which transaction.
            make: Makes the statement, with every value a parameter; the function stands for it.
            values: Of its parameters.
        """
        if make not in self._prepared:
            compiled: Any = make().compile(dialect=self._engine.dialect)
            self._prepared[make] = (str(compiled), compiled.positiontup)
        sql, names = self._prepared[make]
        given = dict(values) if names is None else tuple(values[name] for name in names)
        return connection.exec_driver_sql(sql, given).rowcount

    def tidy(self) -> None:
        """Move what was written from SQLite's log to its file, so that no request has to."""
        if self._is_file:
            with self.errors(), self._engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # type: ignore[union-attr]

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()
        if self._impatient is not None:
            self._impatient.dispose()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the database as ours, without what was to be written."""
        from sqlalchemy.exc import IntegrityError, SQLAlchemyError

        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            if hasattr(self._here, "engine") and _is_busy(error):
                raise BusyError("somebody else is writing") from None
            told = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
            raise StoreError(
                f"the store {self._shown} cannot be used: {told[0][:200] if told else type(error).__name__}; see that it runs "
                "and can be written"
            ) from None

    def secret(self) -> bytes:
        """A secret of the store, the same for all replicas, by which keys are told apart without being kept."""
        from sqlalchemy import select

        table = self.tables["served_meta"]
        with self.begin() as connection:
            return bytes.fromhex(
                str(connection.execute(select(table.c.value).where(table.c.name == "secret")).scalar())
            )

    @property
    def _shown(self) -> str:
        return self._url.removeprefix("sqlite:///").replace("+psycopg", "")

    def _make_engine(self, *, waits_s: float) -> "Engine":
        from sqlalchemy import create_engine

        try:
            if not self._is_file:
                return create_engine(self._url, pool_size=self.n_threads, max_overflow=0, pool_pre_ping=True)
            engine = create_engine(self._url, connect_args={"timeout": waits_s, "check_same_thread": False})
        except ImportError as error:
            raise MissingDependencyError(
                "the store is a PostgreSQL, whose driver psycopg is not installed; run: pip install 'mtrouter-rl[postgres]'"
            ) from error
        _make_writer(engine)
        return engine

    def _set_up(self) -> None:
        from sqlalchemy import select
        from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

        metadata = next(iter(self.tables.values())).metadata
        with suppress(IntegrityError, ProgrammingError, OperationalError):  # another replica makes them at this moment
            metadata.create_all(self._engine)
        table = self.tables["served_meta"]
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


def _is_busy(error: Exception) -> bool:
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return str(name).startswith("SQLITE_BUSY")


def _make_writer(engine: "Engine") -> None:
    """SQLite with a log for several readers beside a writer, in which every transaction begins as a writer."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:  # noqa: ANN401
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            f"wal_autocheckpoint={_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: "Connection") -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def columns(record: SessionRow | DecisionRow | Outcome) -> dict[str, object]:
    """Fields of a record, not copied."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def as_json(value: object) -> str:
    """A value as JSON of ASCII alone."""
    return json.dumps(value, separators=(",", ":"))


def written(row: Mapping[str, object]) -> dict[str, object]:
    """Columns of a record: texts as JSON too, since a PostgreSQL takes no NUL and no half surrogate pair."""
    return {name: as_json(value) if name in _WRITTEN and value is not None else value for name, value in row.items()}


def read_row(row: "Row[Any]") -> dict[str, Any]:
    """Columns of a row, those that hold JSON read."""
    values = dict(row._mapping)
    for name in _WRITTEN & values.keys():
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return values


def decision_of(row: "Row[Any]") -> DecisionRow:
    """A decision from its row."""
    values = read_row(row)
    for name in ("messages", "tries"):
        values[name] = tuple(values[name])
    for name in ("prompt", "head"):
        values[name] = None if values[name] is None else bytes(values[name])
    return DecisionRow(**values)
