"""What runs may spend on models that cost money: a ledger that all processes of this machine share.

Before every try of a call its worst case is reserved, and refused if the run or the day would pass its limit with it. When the
reply is there, its price takes the place of the reservation. A try whose bill nobody can know, because nothing came back that
says it or because the process was killed, keeps its worst case booked: for its run for good, and for its day.

The ledger is a SQLite file. A day begins at midnight UTC. Worker processes find it through an environment variable.
"""

import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError, SpendLimitError

logger = logging.getLogger(__name__)

SPEND_VARIABLE = "MTROUTER_RL_SPEND"
"""Environment variable that tells worker processes of ledger, run and limits."""

_TOLERANCE_USD = 1e-9
_SHOWN_USD = 5e-7
_BUSY_S = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tries (
    ident TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    day TEXT NOT NULL,
    at_s REAL NOT NULL,
    model TEXT NOT NULL,
    most_usd REAL NOT NULL,
    cost_usd REAL,
    state TEXT NOT NULL CHECK (state IN ('open', 'known', 'estimated', 'unknown'))
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tries_of_run ON tries (run);
CREATE INDEX IF NOT EXISTS tries_of_day ON tries (day);
"""
_BOOKED = "COALESCE(SUM(COALESCE(cost_usd, most_usd)), 0)"


class Spending(Protocol):
    """Where money is reserved and booked; may be used by several threads."""

    def reserve(self, ident: str, *, model: str, most_usd: float) -> None:
        """Reserve the worst case of a try.

        Raises:
            SpendLimitError: If the run or the day would pass its limit.
        """

    def settle(self, ident: str, cost_usd: float | None, *, is_estimate: bool = False) -> None:
        """Book what a try cost, USD; None where nobody can know."""


class _NoLedger:
    """Nothing is limited, nothing is kept."""

    def reserve(self, ident: str, *, model: str, most_usd: float) -> None:
        """Reserve nothing."""

    def settle(self, ident: str, cost_usd: float | None, *, is_estimate: bool = False) -> None:
        """Book nothing."""


NO_LEDGER: Spending = _NoLedger()


@dataclass(frozen=True, kw_only=True)
class SpendPlan:
    """Where a run books its money, and its limits.

    Attributes:
        file: The ledger.
        run: Name of the run: the place of its results.
        run_usd: Limit of the run; None for none.
        day_usd: Limit of all runs in the ledger together, a day; None for none.
    """

    file: str
    run: str
    run_usd: float | None = None
    day_usd: float | None = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            InvalidConfigError: If one is below 0 or not finite: nothing would be limited.
        """
        for name, value in (("--max-usd", self.run_usd), ("--max-usd-per-day", self.day_usd)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidConfigError(f"{name} is {value}, must be a finite number of at least 0")

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Whatever this process and those that it starts call meanwhile is booked here."""
        before = os.environ.get(SPEND_VARIABLE)
        os.environ[SPEND_VARIABLE] = json.dumps(asdict(self))
        try:
            yield
        finally:
            os.environ.pop(SPEND_VARIABLE)
            if before is not None:
                os.environ[SPEND_VARIABLE] = before


@dataclass(frozen=True, kw_only=True)
class SpendSummary:
    """What the ledger says of one run.

    Attributes:
        n_tries: Tries of calls.
        known_usd: Bills that are known.
        n_estimated: Tries whose bill is estimated, since their usage was missing.
        estimated_usd: Their estimates together.
        n_unknown: Tries whose bill nobody can know: no reply came, or the process was killed.
        unknown_most_usd: Most that they can have cost together.
    """

    n_tries: int
    known_usd: float
    n_estimated: int
    estimated_usd: float
    n_unknown: int
    unknown_most_usd: float

    @property
    def booked_usd(self) -> float:
        """Bills and estimates together, without what is unknown."""
        return self.known_usd + self.estimated_usd

    def told(self, *, in_dataset_usd: float | None = None) -> str:
        """The summary in words.

        Args:
            in_dataset_usd: Cost of the episodes that the dataset holds; None where there is none yet.
        """
        lines = [f"spent: {self.booked_usd:.6f} USD in {self.n_tries} tries of calls"]
        if self.n_estimated:
            lines.append(f"  {self.estimated_usd:.6f} USD of it estimated, for {self.n_estimated} tries without usage")
        beside_usd = 0.0 if in_dataset_usd is None else self.booked_usd - in_dataset_usd
        if beside_usd > _SHOWN_USD:
            lines.append(
                f"  {beside_usd:.6f} USD of it for turns that are not in the dataset (failed or stopped midway)"
            )
        if self.n_unknown:
            lines.append(
                f"  not known: the bills of {self.n_unknown} tries (no reply, or killed), at most "
                f"{self.unknown_most_usd:.6f} USD"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class BookedTry:
    """One try of a call in the ledger.

    Attributes:
        ident: Its id, which the endpoint was told as well.
        model: Model that was called.
        most_usd: Most that it could cost.
        cost_usd: What it cost; None if nobody can know.
        state: "known", "estimated", "unknown", or "open" while nothing has come back, or nobody was left to book it.
    """

    ident: str
    model: str
    most_usd: float
    cost_usd: float | None
    state: str


class SpendLedger:
    """The ledger, for one run. May be used by several threads, and by many processes at once."""

    def __init__(self, plan: SpendPlan, *, clock: Callable[[], float] = time.time) -> None:
        """Open it, or create it.

        Raises:
            InvalidConfigError: If the file cannot be used.
        """
        self._plan = plan
        self._clock = clock
        self._lock = threading.Lock()
        try:
            Path(plan.file).parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(plan.file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise InvalidConfigError(
                f"the ledger of spending {plan.file} cannot be used: {error}; correct it, or give another with --spend-ledger"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def reserve(self, ident: str, *, model: str, most_usd: float) -> None:
        """Reserve the worst case of a try; see `Spending`."""
        at_s = self._clock()
        day = time.strftime("%Y-%m-%d", time.gmtime(at_s))
        with self._transaction():
            self._refuse("run", self._plan.run, self._plan.run_usd, most_usd, model)
            self._refuse("day", day, self._plan.day_usd, most_usd, model)
            self._database.execute(
                "INSERT INTO tries VALUES (?, ?, ?, ?, ?, ?, NULL, 'open')",
                (ident, self._plan.run, day, at_s, model, most_usd),
            )

    def settle(self, ident: str, cost_usd: float | None, *, is_estimate: bool = False) -> None:
        """Book what a try cost; see `Spending`."""
        state = "unknown" if cost_usd is None else "estimated" if is_estimate else "known"
        with self._transaction():
            self._database.execute("UPDATE tries SET cost_usd = ?, state = ? WHERE ident = ?", (cost_usd, state, ident))

    def summary(self) -> SpendSummary:
        """What was booked for the run; a try that is open counts as unknown."""
        with self._lock:
            rows = self._database.execute(
                f"SELECT state, COUNT(*), {_BOOKED} FROM tries WHERE run = ? GROUP BY state",
                (self._plan.run,),
            ).fetchall()
        found = {state: (int(n), float(usd)) for state, n, usd in rows}
        nothing = (0, 0.0)
        known, estimated = found.get("known", nothing), found.get("estimated", nothing)
        unknown = [found.get(state, nothing) for state in ("open", "unknown")]
        return SpendSummary(
            n_tries=sum(n for n, _ in found.values()),
            known_usd=known[1],
            n_estimated=estimated[0],
            estimated_usd=estimated[1],
            n_unknown=sum(n for n, _ in unknown),
            unknown_most_usd=sum(usd for _, usd in unknown),
        )

    def tries(self) -> list[BookedTry]:
        """All tries of the run, in no order."""
        with self._lock:
            rows = self._database.execute(
                "SELECT ident, model, most_usd, cost_usd, state FROM tries WHERE run = ?", (self._plan.run,)
            ).fetchall()
        return [BookedTry(ident=a, model=b, most_usd=c, cost_usd=d, state=e) for a, b, c, d, e in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _refuse(self, column: str, value: str, limit_usd: float | None, most_usd: float, model: str) -> None:
        if limit_usd is None:
            return
        (booked_usd,) = self._database.execute(
            f"SELECT {_BOOKED} FROM tries WHERE {column} = ?",
            (value,),
        ).fetchone()
        if booked_usd + most_usd <= limit_usd + _TOLERANCE_USD:
            return
        option = "--max-usd" if column == "run" else "--max-usd-per-day"
        raise SpendLimitError(
            f"the limit of the {column}, {limit_usd:g} USD, leaves no room for the next call: {booked_usd:.6f} USD are booked, "
            f"and a call of '{model}' may cost {most_usd:.6f}; what is done is kept: raise {option} and run the same command "
            "again to go on"
        )


def open_spending() -> Spending:
    """The ledger of the run that this process works for; without one nothing is limited or kept.

    Raises:
        InvalidConfigError: If it cannot be used.
    """
    told = os.environ.get(SPEND_VARIABLE)
    return SpendLedger(SpendPlan(**json.loads(told))) if told else NO_LEDGER


def summary_of(plan: SpendPlan) -> SpendSummary:
    """What the ledger says of a run."""
    with closing(SpendLedger(plan)) as ledger:
        return ledger.summary()


_FREE_KINDS = ("simulated", "log_only", "replay", "none")


def costs_money(pool: PoolCard) -> bool:
    """Whether calls of a pool are paid to somebody: it is neither simulated nor replayed, and has prices."""
    prices = (model.prices for model in pool.models)
    has_prices = any(one.worst_case_usd(n_prompt=1, n_output=1) > 0 for one in prices)
    return pool.backend.kind not in _FREE_KINDS and has_prices
