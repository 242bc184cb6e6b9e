"""Neutral records of calls and scores, which every importer of logged calls makes and `sessions` puts together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mtrouter_rl.datasets.importers.base import Amount
from mtrouter_rl.datasets.importers.messages import ChatMessage
from mtrouter_rl.pools.usage import UsageReading
from mtrouter_rl.records import JsonValue

SessionStatus = Literal["completed", "truncated", "failed"]


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What one line of a log says of its whole session; None where it says nothing.

    Attributes:
        score: Score divided by its maximum, in [-1, 1].
        status: How the session ended.
        status_detail: Why it failed.
        task: Name of the kind of task.
        instance: Which instance of the task.
        seed: Which run of the instance.
        behavior_policy: Name of what chose the models.
        max_turns: Turn limit.
        budget_usd: Cost limit, USD.
        extra: What else is kept in `Episode.extra`.
    """

    score: float | None = None
    status: SessionStatus | None = None
    status_detail: str | None = None
    task: str | None = None
    instance: str | None = None
    seed: int | None = None
    behavior_policy: str | None = None
    max_turns: int | None = None
    budget_usd: float | None = None
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def is_end(self) -> bool:
        """Whether it says how the session ended."""
        return self.score is not None or self.status is not None


@dataclass(frozen=True, kw_only=True)
class CallRecord:
    """One call of a log, in any order and from any file.

    Attributes:
        source: Where it is, as "file:line".
        session_id: Which session it belongs to.
        model: Model that was chosen, as the log names it.
        messages: The prompt: the whole conversation so far, or what is new since the call before.
        response: The answer; None if none came.
        usage: Tokens.
        request_id: Id of the call, by which a call that is logged twice is found; empty if the log has none.
        timestamp: When; a text in ISO 8601, or seconds (or milliseconds) since 1970. Orders the calls of a session.
        agent_id: Which agent of the session made the call; empty for the main one, or where the log does not say.
        parent_id: Agent that called that one; empty if none did.
        parents: Request ids of the earlier calls of the session that it comes from; None if the line does not say.
        served_model: Model that answered, as the log names it; empty if it is the chosen one.
        logged_cost_usd: Cost by the log, USD; None takes what the usage says.
        propensity: Probability of the chosen model; None if it is not known.
        candidates: Models that could be chosen, as the log names them; None if it does not say.
        latency_s: Duration, seconds.
        router_cost_usd: What the decision itself cost, USD; 0 if no model was asked for it.
        error: Kind of error that the answer was; empty if none.
        observation: What came back after the answer; empty if only the next prompt shows it.
        utility_gain: How much of the score this call earned.
        facts: What the line says of the session.
        is_opening: Whether the log says that a conversation begins here, such as a line that holds a whole one.
        fingerprint: Hash of all that the line says, by which a line that is there twice is found; empty if unknown.
    """

    source: str
    session_id: str
    model: str
    messages: tuple[ChatMessage, ...]
    response: ChatMessage | None
    usage: UsageReading
    request_id: str = ""
    timestamp: str | float | None = None
    agent_id: str = ""
    parent_id: str = ""
    parents: tuple[str, ...] | None = None
    served_model: str = ""
    logged_cost_usd: float | None = None
    propensity: float | None = None
    candidates: tuple[str, ...] | None = None
    latency_s: float | None = None
    router_cost_usd: float = 0.0
    error: str = ""
    observation: str = ""
    utility_gain: float | None = None
    facts: SessionFacts = SessionFacts()
    is_opening: bool = False
    fingerprint: bytes = b""

    @property
    def action_text(self) -> str:
        """What the model wrote."""
        return self.response.action_text if self.response else ""


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """What is said of a session without a call: a score that came later, or a row of a file of scores.

    Attributes:
        source: Where it is, as "file:line".
        session_id: Which session.
        facts: What is said.
        is_from_scores: Whether it is of a file of scores, in which two that differ are an error; in a log the last counts.
    """

    source: str
    session_id: str
    facts: SessionFacts
    is_from_scores: bool = False


@dataclass(frozen=True, kw_only=True)
class BrokenRecord:
    """A call that cannot be read. Its session is left out, because its cost would be wrong.

    Attributes:
        source: Where it is, as "file:line".
        session_id: Which session.
        reason: Why, in general words; a row of the report.
        detail: What exactly was found; names the field.
        amount: Tokens and money of the call, as far as they are known.
    """

    source: str
    session_id: str
    reason: str
    detail: str
    amount: Amount = field(default_factory=lambda: Amount(n_calls=1, n_unknown=1))


Record = CallRecord | ScoreRecord | BrokenRecord
