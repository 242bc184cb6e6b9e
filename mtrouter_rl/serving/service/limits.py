"""Which models may be called at a turn, what the call can cost at most, and why the others may not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtrouter_rl.cards.pool import ModelCard, PoolCard
from mtrouter_rl.pools.handover import hindrance
from mtrouter_rl.serving.service.requests import Asked
from mtrouter_rl.serving.service.talk import Raw


@dataclass(frozen=True, kw_only=True)
class Money:
    """What may still be spent; None for no limit.

    Attributes:
        session_usd: In the session.
        key_usd: By the key, on this day.
    """

    session_usd: float | None = None
    key_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What may be called.

    Attributes:
        not_allowed: Model -> why it may not.
        most_usd: Model -> what its call can cost at most, USD.
        n_expected: Prompt tokens as they are expected.
    """

    not_allowed: Mapping[str, str]
    most_usd: Mapping[str, float]
    n_expected: int


def allowed_models(
    asked: Asked, pool: PoolCard, *, authors: Sequence[str], money: Money, n_expected: int, failed: Mapping[str, str]
) -> Allowed:
    """Which models may be called.

    Args:
        asked: The request.
        pool: The models.
        authors: Who wrote every answer in it, oldest first; empty where nobody knows.
        money: What may still be spent.
        n_expected: Prompt tokens as they are expected.
        failed: Models that failed at this turn -> how.
    """
    n_most = most_tokens(asked, pool)
    offered = None if asked.candidates is None else {one.model: one for one in asked.candidates}
    not_allowed: dict[str, str] = {}
    most: dict[str, float] = {}
    for model in pool.models:
        given = None if offered is None else offered.get(model.name)
        most[model.name] = _most_usd(model, n_most, asked.n_output)
        if given is not None and given.most_usd is not None:
            most[model.name] = given.most_usd
        if asked.model is not None and model.name != asked.model:
            why = "the client asked for another model"
        elif offered is not None and given is None:
            why = "not among the candidates"
        elif model.name in failed:
            why = failed[model.name]
        elif n_expected >= model.context_tokens:
            why = f"a prompt of about {n_expected} tokens does not fit its {model.context_tokens}"
        else:
            why = _too_dear(most[model.name], money) or hindrance(asked.prompt.messages, authors, model.name, pool)
        if why:
            not_allowed[model.name] = why
    return Allowed(not_allowed=not_allowed, most_usd=most, n_expected=n_expected)


def most_tokens(asked: Asked, pool: PoolCard) -> int:
    """Prompt tokens of a request at most, by the pool's counter: all that is sent, tools and calls included."""
    counter = pool.token_counter
    total = sum(counter.count(all_text(message)) for message in asked.prompt.messages)
    tools = asked.body.get("tools") or asked.body.get("functions")
    return total + (counter.count(json.dumps(tools, ensure_ascii=False)) if tools else 0)


def all_text(message: Raw) -> str:
    """All that is sent of a message, as one text."""
    content = message.get("content")
    if isinstance(content, str) and len(message) <= 2:  # role and content: the most usual message
        return content
    rest = {name: value for name, value in message.items() if name not in ("role", "content") and value is not None}
    text = content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
    return text + (json.dumps(rest, ensure_ascii=False) if rest else "")


def _most_usd(model: ModelCard, n_prompt: int, n_output: int | None) -> float:
    longest = min(model.max_output_tokens, n_output or model.max_output_tokens)
    return float(model.prices.worst_case_usd(n_prompt=min(n_prompt, model.context_tokens), n_output=longest))


def _too_dear(most_usd: float, money: Money) -> str:
    for whose, left in (("session", money.session_usd), ("key", money.key_usd)):
        if left is not None and most_usd > left:
            return f"its call may cost {most_usd:.4g} USD, the {whose} has {max(left, 0.0):.4g} USD left"
    return ""
