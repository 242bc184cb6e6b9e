"""A turn before and after its decision: what is known, what is written of it, and what a model is handed."""

import datetime
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.live import reason_of
from mtrouter_rl.serving.service.brain import Brain
from mtrouter_rl.serving.service.limits import Allowed
from mtrouter_rl.serving.service.policy import Chances, Drawn, shown
from mtrouter_rl.serving.service.problems import RequestError
from mtrouter_rl.serving.service.requests import Asked
from mtrouter_rl.serving.service.rows import DecisionRow, SessionRow
from mtrouter_rl.serving.service.talk import Prompt, Raw, Talk, read


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A decision that is written and whose call is due, or was made before.

    Attributes:
        session: Its session.
        decision: The decision.
        talk: The session up to its last answer.
        prompt: The conversation.
        news: What came back to the last turn.
        messages: What the model is called with: the conversation without what it may not be handed over.
        is_replay: Whether the same request was answered before, so that nothing is called.
    """

    session: SessionRow
    decision: DecisionRow
    talk: Talk
    prompt: Prompt
    news: str
    messages: tuple[Raw, ...] = ()
    is_replay: bool = False


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is known before a decision.

    Attributes:
        asked: The request.
        session: Its session.
        known_version: Version of the session; None if it begins.
        talk: The session up to its last answer.
        news: What came back to it.
        draw: How often a model was drawn for this turn before.
        request_id: Name of the request, unless a draw before has it.
        failed: Models that failed at this turn -> how.
    """

    asked: Asked
    session: SessionRow
    known_version: int | None
    talk: Talk
    news: str
    draw: int = 0
    request_id: str | None = None
    failed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What router and default would do at a turn.

    Attributes:
        chances: Their probabilities.
        values: Values of the models that may be called; None if the router has none.
        trouble: Why the router was not asked, or gave nothing; empty if it did.
    """

    chances: Chances
    values: Mapping[str, float] | None = None
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Who makes a decision, and when.

    Attributes:
        source: "chat" where the service calls the model, "route" where the client does.
        replica: The process.
        now: Seconds since 1970.
    """

    source: Literal["chat", "route"]
    replica: str
    now: float


def facts_of(
    turn: Turn,
    pool: PoolCard,
    *,
    brain: Brain,
    allowed: Allowed,
    drawn: Drawn,
    weighed: "Weighed",
) -> dict[str, JsonValue]:
    """What else is written of a decision."""
    chances, values = weighed.chances, weighed.values
    names = pool.model_names
    cached = {one.model: one.n_cached or 0 for one in turn.asked.candidates or ()}
    expected = brain.live.expected_costs_usd(allowed.n_expected, cached)
    last = turn.talk.models[-1] if turn.talk.models else None
    facts: dict[str, object] = {
        "candidates": [name for name, is_free in zip(names, drawn.candidates, strict=True) if is_free],
        "not_allowed": dict(allowed.not_allowed),
        "probabilities": shown(drawn.probabilities, pool),
        "q_values": None if values is None else dict(values),
        "expected_cost_usd": expected,
        "reason": weighed.trouble or reason_of(names[drawn.model], last, values, expected, allowed.not_allowed, {}),
        "router": brain.live.name,
        "router_stamp": brain.stamp,
    }
    if chances.router is not None and not chances.is_fallback:
        facts["router_probabilities"] = shown(chances.router, pool)
    return cast("dict[str, JsonValue]", facts)


def decision_of(
    turn: Turn, model: str, drawn: Drawn, facts: Mapping[str, JsonValue], *, held_usd: float, maker: "Maker"
) -> DecisionRow:
    """The row of a decision."""
    n_kept = turn.talk.n_kept(turn.asked.prompt)
    return DecisionRow(
        id=secrets.token_hex(12),
        session_id=turn.session.id,
        key_id=turn.session.key_id,
        turn=turn.session.n_turns,
        draw=turn.draw,
        request_id=turn.request_id,
        source=maker.source,
        replica=maker.replica,
        created_at=maker.now,
        day=day_of(maker.now),
        prompt=turn.asked.prompt.name,
        n_kept=n_kept,
        messages=tuple(turn.asked.prompt.messages[n_kept:]),
        observation=turn.news if turn.talk.calls else None,
        kind=drawn.kind,
        model=model,
        propensity=drawn.propensity,
        facts=facts,
        held_usd=held_usd,
    )


def day_of(now: float) -> str:
    """Day of the account, UTC."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()


def action_of(answer: Mapping[str, object]) -> str:
    """Text of an answer as a router sees it."""
    return read({"role": "assistant"} | dict(answer), 0).action_text


def texts_of(turn: Turn) -> list[str]:
    """All texts of a conversation, for its length."""
    talk = turn.talk
    return [
        *(str(one["content"]) for one in turn.asked.prompt.messages[:1] if isinstance(one.get("content"), str)),
        talk.task,
        talk.first_observation,
        *(call.action for call in talk.calls),
        *talk.observations,
        turn.news,
    ]


def new_texts_of(turn: Turn) -> list[str]:
    """Texts of a conversation that may not be encoded yet."""
    talk = turn.talk
    if not talk.calls:
        return [talk.task, talk.first_observation]
    return [talk.calls[-1].action, turn.news]


def authors_of(talk: Talk, prompt: Prompt) -> list[str]:
    """Who wrote every answer of a prompt; empty where nobody knows."""
    known = {call.answer: model for call, model in zip(talk.calls, talk.models, strict=True)}
    places = [place for place in prompt.answers if prompt.messages[place].get("role") == "assistant"]
    return [known.get(prompt.digests[place], "") for place in places]


def failed_of(same: DecisionRow) -> dict[str, str]:
    """Models that failed at a turn, as the decision before knows it."""
    before = same.facts.get("not_allowed")
    told = {name: str(why) for name, why in before.items() if "tries" in str(why)} if isinstance(before, dict) else {}
    return told | {same.model: f"it failed at this turn in {len(same.tries)} tries"}


def nothing_allowed(allowed: Allowed, turn: int) -> RequestError:
    """The error where no model may be called."""
    told = "; ".join(f"{name}: {why}" for name, why in allowed.not_allowed.items())
    is_money = any("USD left" in why for why in allowed.not_allowed.values())
    status, code = (402, "budget_exhausted") if is_money else (400, "no_model_allowed")
    return RequestError(status, f"no model may be called at turn {turn}: {told}", code=code)
