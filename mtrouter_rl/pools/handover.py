"""Whether a model can take over a conversation that others began, and what has to be taken out of it first.

Messages are OpenAI's chat messages as plain dictionaries. The rule, for a message that another model wrote:

- Hidden thinking goes, with its signatures: no vendor takes another's. Models of one `family`, and a model and its variants,
  keep each other's.
- Ids of tool calls that the new endpoint does not take are renamed, in the call and in its answer alike.
- Tool calls become text where the new model takes none.
- What cannot be said otherwise is not handed over: pictures to a model that sees none, thinking that is encrypted and has no
  text, the middle of tool calls to a model that insists on thinking of its own.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtrouter_rl.cards.pool import ModelCard, PoolCard
from mtrouter_rl.records import Message

Raw = Mapping[str, object]

THINKING_KEYS = (
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "provider_specific_fields",
)
THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning")
SIGNATURE_KEYS = ("signature", "thought_signature", "thoughtSignature", "extra_content", "encrypted_content")
IMAGE_PARTS = ("image_url", "image", "input_image")
STATE_KEYS = ("previous_response_id",)

_IDS = {
    "openai": re.compile(r"[\x21-\x7e]{1,40}"),
    "anthropic": re.compile(r"[A-Za-z0-9_-]{1,64}"),
    "mistral": re.compile(r"[A-Za-z0-9]{9}"),
}
_ID_LENGTH = 9


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A conversation that a model can be called with.

    Attributes:
        messages: The messages.
        stripped: What was taken out or changed -> how often.
    """

    messages: tuple[Raw, ...]
    stripped: Mapping[str, int]


def hindrance(messages: Sequence[Raw], authors: Sequence[str], to: str, pool: PoolCard) -> str:
    """Why a model cannot take over a conversation; empty if it can.

    Args:
        messages: The conversation.
        authors: Model of the pool that wrote each assistant message, oldest first; empty text if nobody knows.
        to: Model that is to go on.
        pool: The models.

    Raises:
        UnknownNameError: If the pool has no such model.
    """
    card = pool.model(to)
    written = _with_authors(messages, authors)
    if card.handover.images is False and any(_has_part(message, IMAGE_PARTS) for message, _ in written):
        return "the history holds pictures, and its card says that it takes none (handover.images)"
    kin = {author: _is_kin(author, card, pool) for author in {author for _, author in written}}
    for message, author in written:
        if message.get("role") != "assistant" or kin[author]:
            continue
        if any(message.get(key) for key in STATE_KEYS):
            return f"an answer of {author or 'another model'} is kept by its vendor (previous_response_id)"
        if _is_sealed(message):
            return f"an answer of {author or 'another model'} is encrypted thinking and nothing else"
    if card.handover.needs_own_thinking:
        caller = _author_of_open_calls(written)
        if caller is not None and not _is_kin(caller, card, pool):
            return f"tool calls of {caller or 'another model'} are open, and it goes on only after thinking of its own"
    return ""


def prepare(messages: Sequence[Raw], authors: Sequence[str], to: str, pool: PoolCard) -> Prepared:
    """The conversation as a model can take it; arguments as `hindrance`, which is to be asked first.

    Example:
        >>> from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices
        >>> price = Prices(input=1, cached_input=1, output=1)
        >>> two = [ModelCard(name=name, prices=price, context_tokens=9, max_output_tokens=9) for name in ("a", "b")]
        >>> said = [{"role": "assistant", "content": "Hi", "reasoning_content": "hm"}]
        >>> prepare(said, ["a"], "b", PoolCard(name="two", models=two))
        Prepared(messages=({'role': 'assistant', 'content': 'Hi'},), stripped={'thinking': 1})
    """
    card = pool.model(to)
    written = _with_authors(messages, authors)
    counts: Counter[str] = Counter()
    ids: dict[str, str] = {}
    prepared: list[Raw] = []
    for message, author in written:
        if _is_plain(message):
            prepared.append(message)
            continue
        one = dict(message)
        one.pop("model", None)
        if one.get("role") == "assistant" and not _is_kin(author, card, pool):
            one = _without_thinking(one, counts)
        one = _with_ids(one, card, ids, counts)
        prepared.append(one if card.handover.tool_calls else _as_text(one, counts))
    return Prepared(messages=tuple(prepared), stripped=dict(counts))


def as_raw(messages: Sequence[Message]) -> tuple[tuple[Raw, ...], tuple[str, ...]]:
    """(chat messages as dictionaries, author of each assistant message) of a conversation of this package."""
    raw = tuple(_raw(message) for message in messages)
    return raw, tuple(message.author for message in messages if message.role == "assistant")


def _raw(message: Message) -> Raw:
    if message.raw is not None:
        return {**message.raw, "role": message.role}
    one: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        one["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        one["tool_call_id"] = message.tool_call_id
    return one


def _with_authors(messages: Sequence[Raw], authors: Sequence[str]) -> list[tuple[Raw, str]]:
    """Every message with its author: a message may name it itself, by the key `model`."""
    left = iter(authors)
    written = []
    for message in messages:
        named = next(left, "") if message.get("role") == "assistant" else ""
        written.append((message, named or str(message.get("model") or "")))
    return written


def _is_kin(author: str, card: ModelCard, pool: PoolCard) -> bool:
    """Whether a model reads the thinking of another: its own, that of its variants and of its family."""
    if author not in pool.model_names:
        return False
    other = pool.model(author)
    return other.base == card.base or (
        card.handover.family is not None and other.handover.family == card.handover.family
    )


def _is_plain(message: Raw) -> bool:
    """Whether a message is a role and a text and nothing else, so that every model takes it as it is."""
    return (
        len(message) == 2
        and isinstance(message.get("content"), str)
        and message.get("role") in ("system", "user", "assistant")
    )


def _parts(message: Raw) -> list[Raw]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _has_part(message: Raw, kinds: Sequence[str]) -> bool:
    return any(part.get("type") in kinds or _has_part(part, kinds) for part in _parts(message))


def _is_sealed(message: Raw) -> bool:
    """Whether nothing is left of an answer without its thinking, though it was no empty answer."""
    if isinstance(message.get("content"), str) and message["content"]:
        return False
    counts: Counter[str] = Counter()
    rest = _without_thinking(dict(message), counts)
    is_empty = not any(rest.get(key) for key in ("content", "tool_calls", "refusal"))
    return is_empty and (bool(counts) or any(message.get(key) for key in SIGNATURE_KEYS))


def _author_of_open_calls(written: Sequence[tuple[Raw, str]]) -> str | None:
    """Who called the tools whose answers end the conversation; None if it ends otherwise."""
    if not written or written[-1][0].get("role") != "tool":
        return None
    return next(author for message, author in reversed(written) if message.get("role") != "tool")


def _without_thinking(message: dict[str, object], counts: Counter[str]) -> dict[str, object]:
    kept = {key: value for key, value in message.items() if key not in THINKING_KEYS}
    if any(message.get(key) for key in THINKING_KEYS) or _has_part(message, THINKING_PARTS):
        counts["thinking"] += 1
    if isinstance(kept.get("content"), list):
        kept["content"] = [
            _without_signature(part, counts)
            for part in kept["content"]  # type: ignore[attr-defined]
            if not (isinstance(part, Mapping) and part.get("type") in THINKING_PARTS)
        ]
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [_without_signature(call, counts) for call in kept["tool_calls"]]  # type: ignore[attr-defined]
    return {key: value for key, value in kept.items() if key not in SIGNATURE_KEYS}


def _without_signature(part: object, counts: Counter[str]) -> object:
    if not isinstance(part, Mapping) or not any(key in part for key in SIGNATURE_KEYS):
        return part
    counts["signature"] += 1
    return {key: value for key, value in part.items() if key not in SIGNATURE_KEYS}


def _with_ids(
    message: dict[str, object], card: ModelCard, ids: dict[str, str], counts: Counter[str]
) -> dict[str, object]:
    """Rename ids that the endpoint does not take; the same id always becomes the same other one."""
    form = _IDS[card.handover.tool_call_ids]

    def taken(given: object) -> object:
        if not isinstance(given, str) or form.fullmatch(given):
            return given
        if given not in ids:
            counts["tool_call_id"] += 1
            ids[given] = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_LENGTH]
        return ids[given]

    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message["tool_calls"] = [
            {**call, "id": taken(call["id"])} if isinstance(call, Mapping) and "id" in call else call for call in calls
        ]
    if "tool_call_id" in message:
        message["tool_call_id"] = taken(message["tool_call_id"])
    return message


def _as_text(message: dict[str, object], counts: Counter[str]) -> dict[str, object]:
    """Tool calls and their answers as text, for a model that takes none."""
    if message.get("role") == "tool":
        counts["tool_calls"] += 1
        return {"role": "user", "content": message.get("content") or ""}
    calls = message.pop("tool_calls", None)
    if not isinstance(calls, list) or not calls:
        return message
    counts["tool_calls"] += 1
    functions = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    said = json.dumps(functions, ensure_ascii=False)
    text = message.get("content")
    return {**message, "content": f"{text}\n{said}" if isinstance(text, str) and text else said}
