"""An answer in the form of OpenAI's chat completions: whole, or as the events of a stream."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mtrouter_rl.cards.pool import TokenCounter
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.testing.fake_llm.answers import Answer
from mtrouter_rl.testing.fake_llm.conversation import ChatRequest

_FILLER = "I look at what is there and think about what comes next. "
_PIECE = 24
FINGERPRINT = "fake-llm"
"""What every answer says in `system_fingerprint`, so that logs tell whose it is."""


def content_of(answer: Answer, counter: TokenCounter) -> str:
    """An answer that thinks aloud before its action: as long as its billed tokens, where these are enough for the action."""
    fenced = f"```\n{answer.text}\n```"
    is_bytes = counter.kind == "utf8_bytes"
    n_all = int(
        (answer.usage.n_output - counter.tokens_per_message) * (1 if is_bytes else counter.characters_per_token)
    )
    n_filler = n_all - (len(fenced.encode()) if is_bytes else len(fenced)) - 1
    if n_filler < 1:
        return fenced
    return f"{(_FILLER * (n_filler // len(_FILLER) + 1))[:n_filler]}\n{fenced}"


def usage_of(tokens: TokenUsage, cost_usd: float | None) -> dict[str, Any]:
    """Usage in OpenAI's names, with the provider's own cost where it tells it."""
    details = {"cached_tokens": tokens.n_cached}
    if tokens.n_written:
        details["cache_write_tokens"] = tokens.n_written
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.n_prompt,
        "completion_tokens": tokens.n_output,
        "total_tokens": tokens.n_prompt + tokens.n_output,
        "prompt_tokens_details": details,
    }
    return usage if cost_usd is None else usage | {"cost": cost_usd}


def signature(model: str, text: str) -> str:
    """Signature of a model under its thinking."""
    return f"{model}:{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"


def message_of(request: ChatRequest, text: str, action: str, *, is_signed: bool) -> dict[str, Any]:
    """The assistant's message: plain text, or a call of the tool that the request offers."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if request.tool is not None:
        name, parameter = request.tool
        call_id = "call_" + hashlib.blake2b(f"{request.turn}{action}".encode(), digest_size=9).hexdigest()
        arguments = json.dumps({parameter: action})
        message["content"] = None
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        ]
    if is_signed:
        thought = _FILLER.strip()
        block = {"type": "thinking", "thinking": thought, "signature": signature(request.model, thought)}
        message["thinking_blocks"] = [block]
    return message


def completion(ident: str, model: str, message: Mapping[str, Any], usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """The whole answer."""
    choice = {"index": 0, "message": message, "finish_reason": _finish(message)}
    body = {"id": ident, "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}
    body["system_fingerprint"] = FINGERPRINT
    return body if usage is None else body | {"usage": usage}


def events(ident: str, model: str, message: Mapping[str, Any], usage: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The answer as the events of a stream; the usage is in a last one without choices."""
    base = {"id": ident, "object": "chat.completion.chunk", "created": 0, "model": model}
    base["system_fingerprint"] = FINGERPRINT
    first = {"role": "assistant", **{key: message[key] for key in ("thinking_blocks",) if key in message}}
    deltas: list[dict[str, Any]] = [first]
    text = message.get("content") or ""
    deltas += [{"content": text[i : i + _PIECE]} for i in range(0, len(text), _PIECE)]
    for index, call in enumerate(message.get("tool_calls", ())):
        deltas += _call_deltas(index, call)
    parts = [base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    parts.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": _finish(message)}]})
    return parts if usage is None else [*parts, base | {"choices": [], "usage": usage}]


def _call_deltas(index: int, call: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A tool call in a stream: first its name, then its arguments in pieces."""
    function = call["function"]
    opened = {
        "index": index,
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": ""},
    }
    text = function["arguments"]
    pieces = [{"index": index, "function": {"arguments": text[i : i + _PIECE]}} for i in range(0, len(text), _PIECE)]
    return [{"tool_calls": [one]} for one in (opened, *pieces)]


def _finish(message: Mapping[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"
