"""The tables of the service: sessions, their decisions, money, scores that come later, and who is running.

`datasets.importers.served` reads the first two and the scores; a change of theirs raises `SCHEMA_VERSION`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from mtrouter_rl.serving.service.rows import DecisionRow, Outcome, SessionRow

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement, MetaData, Table

SCHEMA_VERSION = "1"
TURN_TAKEN, NAME_TAKEN, REQUEST_TAKEN = "one_draw_of_a_turn", "one_session_of_a_name", "one_decision_of_a_request"


def make_tables() -> "MetaData":
    """All tables. Times are seconds since 1970, money is USD, texts of the kind JSON are written by `json.dumps`."""
    from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text, UniqueConstraint

    known = MetaData()
    Table("served_meta", known, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))
    Table(
        "served_sessions",
        known,
        Column("id", String(40), primary_key=True),
        Column("key_id", String(40), nullable=False),
        Column("name", Text, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("task", Text),
        Column("task_text", Text, nullable=False),
        Column("first_observation", Text, nullable=False),
        Column("arm", String(10), nullable=False),
        Column("router_weight", Float, nullable=False),
        Column("budget_usd", Float),
        Column("max_turns", Integer),
        Column("n_turns", Integer, nullable=False),
        Column("spent_usd", Float, nullable=False),
        Column("held_usd", Float, nullable=False),
        Column("version", Integer, nullable=False),
        Column("open_id", String(40)),
        Column("last_at", Float, nullable=False),
        UniqueConstraint("key_id", "name", name=NAME_TAKEN),
    )
    Table(
        "served_decisions",
        known,
        Column("id", String(40), primary_key=True),
        Column("session_id", String(40), nullable=False),
        Column("key_id", String(40), nullable=False),
        Column("turn", Integer, nullable=False),
        Column("draw", Integer, nullable=False),
        Column("request_id", Text),
        Column("source", String(10), nullable=False),
        Column("replica", String(40), nullable=False),
        Column("created_at", Float, nullable=False),
        Column("day", String(10), nullable=False),
        Column("prompt", LargeBinary(32), nullable=False),
        Column("head", LargeBinary(32)),
        Column("n_kept", Integer, nullable=False),
        Column("messages", Text, nullable=False),
        Column("observation", Text),
        Column("kind", String(10), nullable=False),
        Column("model", Text, nullable=False),
        Column("propensity", Float, nullable=False),
        Column("facts", Text, nullable=False),
        Column("held_usd", Float, nullable=False),
        Column("state", String(10), nullable=False),
        Column("tries", Text, nullable=False),
        Column("served_model", Text),
        Column("usage", Text),
        Column("cost_usd", Float),
        Column("reported_usd", Float),
        Column("answer", Text),
        Column("action", Text),
        Column("error", Text),
        Column("latency_s", Float),
        Column("ended_at", Float),
        UniqueConstraint("session_id", "turn", "draw", name=TURN_TAKEN),
        UniqueConstraint("key_id", "request_id", name=REQUEST_TAKEN),
        Index("served_heads", "key_id", "head"),
        Index("served_prompts", "key_id", "prompt"),
    )
    Table(
        "served_accounts",
        known,
        Column("key_id", String(40), primary_key=True),
        Column("day", String(10), primary_key=True),
        Column("spent_usd", Float, nullable=False),
        Column("held_usd", Float, nullable=False),
    )
    Table(
        "served_feedback",
        known,
        Column("id", String(40), primary_key=True),
        Column("session_id", String(40), nullable=False, index=True),
        Column("created_at", Float, nullable=False),
        Column("score", Float),
        Column("status", String(20)),
        Column("detail", Text),
    )
    Table(
        "served_replicas",
        known,
        Column("id", String(40), primary_key=True),
        Column("host", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("beat_at", Float, nullable=False),
    )
    return known


class Often:
    """Statements of every turn, with each value as a parameter."""

    def __init__(self, tables: Mapping[str, "Table"]) -> None:
        """Take the tables."""
        self._sessions, self._decisions = tables["served_sessions"], tables["served_decisions"]
        self._accounts = tables["served_accounts"]
        self.change_session = self._change_session
        self.add_decision = self._add_decision
        self.close_decision = self._close_decision
        self.add_to_account = self._add_to_account

    def _change_session(self) -> "ClauseElement":
        from sqlalchemy import bindparam

        table = self._sessions
        where = (table.c.id == bindparam("of_id"), table.c.version == bindparam("known_version"))
        return table.update().where(*where).values({one.name: bindparam(one.name) for one in fields(SessionRow)})

    def _add_decision(self) -> "ClauseElement":
        from sqlalchemy import bindparam

        return self._decisions.insert().values({one.name: bindparam(one.name) for one in fields(DecisionRow)})

    def _close_decision(self) -> "ClauseElement":
        from sqlalchemy import bindparam

        table = self._decisions
        names = [one.name for one in fields(Outcome) if one.name != "status"]
        return table.update().where(table.c.id == bindparam("of_id")).values({name: bindparam(name) for name in names})

    def _add_to_account(self) -> "ClauseElement":
        from sqlalchemy import bindparam

        table = self._accounts
        where = (table.c.key_id == bindparam("of_key"), table.c.day == bindparam("of_day"))
        more = {"held_usd": table.c.held_usd + bindparam("held"), "spent_usd": table.c.spent_usd + bindparam("spent")}
        return table.update().where(*where).values(more)
