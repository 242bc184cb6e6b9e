"""Rows of the store as records: a session, a decision, and what came of a call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mtrouter_rl.records import JsonValue

State = Literal["open", "done", "failed", "unknown"]
"""`open`: the model is being called. `done`: it answered. `failed`: it did not, and what was billed is known. `unknown`: it
broke off, and nobody can say what was billed."""
Arm = Literal["router", "default"]
Kind = Literal["router", "default", "shadow", "fallback", "asked"]
"""Who named the model: the router, the default of a session outside the canary share, the default of the shadow mode, the
fall-back since the router failed or was late, or the client itself."""


@dataclass(frozen=True, kw_only=True)
class SessionRow:
    """A session, as `tables` has it.

    Attributes:
        id: Its id in the log.
        key_id: Whose it is.
        name: What its owner calls it.
        created_at: When it began.
        task: Name of the kind of task; None if nobody said.
        task_text: Text of the task.
        first_observation: What followed it before the first answer.
        arm: Whether router or default chooses in it.
        router_weight: Probability that `arm` is the router's, given all choices so far.
        budget_usd: Its limit; None for none.
        max_turns: Turn limit that the router is shown.
        n_turns: Turns that were answered.
        spent_usd: What they cost; a call of unknown cost counts as what it can have cost at most.
        held_usd: What the open call can cost at most.
        version: Changes with every change.
        open_id: Decision whose model is being called.
        last_at: Time of the last decision.
    """

    id: str
    key_id: str
    name: str
    created_at: float
    task: str | None
    task_text: str
    first_observation: str
    arm: Arm
    router_weight: float
    budget_usd: float | None
    max_turns: int | None
    n_turns: int = 0
    spent_usd: float = 0.0
    held_usd: float = 0.0
    version: int = 0
    open_id: str | None = None
    last_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """A decision, as `tables` has it, and what came of its call.

    Attributes:
        id: Its id.
        session_id: Session.
        key_id: Whose it is.
        turn: Turn of the session, from 0.
        draw: 0, or how often another model was drawn since the ones before failed.
        request_id: Name that the client gave the request.
        source: "chat" where the service calls the model, "route" where the client does.
        replica: Who decided.
        created_at: When.
        day: Day of the account that it is booked on.
        prompt: Name of the conversation.
        n_kept: Messages at its beginning that are those of the last prompt and its answer.
        messages: The others.
        observation: What came back to the turn before; None at turn 0.
        kind: Who named the model.
        model: The model.
        propensity: Probability with which it was named.
        facts: What else is known: candidates, not_allowed, probabilities, q_values, router, reason...
        held_usd: What the call can cost at most.
        state: What became of it.
        tries: Calls before the last one that gave no answer.
        head: Name of the conversation with the answer.
        served_model: Who answered.
        usage: Tokens as the endpoint said.
        cost_usd: What it cost by the pool's prices.
        reported_usd: What it cost as the endpoint said.
        answer: The assistant's message.
        action: Its text as a router sees it.
        error: Kind of error.
        latency_s: Duration of the call.
        ended_at: When it ended.
    """

    id: str
    session_id: str
    key_id: str
    turn: int
    draw: int = 0
    request_id: str | None = None
    source: Literal["chat", "route"] = "chat"
    replica: str
    created_at: float
    day: str
    prompt: bytes
    n_kept: int
    messages: tuple[Mapping[str, object], ...]
    observation: str | None
    kind: Kind
    model: str
    propensity: float
    facts: Mapping[str, JsonValue]
    held_usd: float = 0.0
    state: State = "open"
    tries: tuple[Mapping[str, JsonValue], ...] = ()
    head: bytes | None = None
    served_model: str | None = None
    usage: Mapping[str, object] | None = None
    cost_usd: float | None = None
    reported_usd: float | None = None
    answer: Mapping[str, object] | None = None
    action: str | None = None
    error: str | None = None
    latency_s: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a call.

    Attributes:
        state: What became of the decision.
        head: Name of the conversation with the answer.
        served_model: Who answered.
        usage: Tokens as the endpoint said.
        cost_usd: What it cost by the pool's prices; None if nobody can say.
        reported_usd: What it cost as the endpoint said.
        answer: The assistant's message.
        action: Its text as a router sees it.
        error: Kind of error; empty if there was none.
        status: HTTP status that the client was given, if it was an error.
        latency_s: Duration.
        ended_at: When.
    """

    state: State
    head: bytes | None = None
    served_model: str | None = None
    usage: Mapping[str, object] | None = None
    cost_usd: float | None = None
    reported_usd: float | None = None
    answer: Mapping[str, object] | None = None
    action: str | None = None
    error: str = ""
    status: int | None = None
    latency_s: float | None = None
    ended_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the store knows that a request may go on from.

    Attributes:
        session: Its session; None if it begins one.
        same: Decision on the very same request, or on the same prompt without an answer yet.
        n_draws: How often a model was drawn for the turn that is due, on whatever prompt.
    """

    session: SessionRow | None = None
    same: DecisionRow | None = None
    n_draws: int = 0
