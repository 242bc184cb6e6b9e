"""What a request of chat completions asks: model, messages, limit, tools, stream."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from mtrouter_rl.pools.openai_compatible import action_of

DEFAULT_MAX_TOKENS = 4096
_BLOCK_FIELDS = ("thinking_blocks", "reasoning_details")


class RefusedError(Exception):
    """The double answers with an error.

    Attributes:
        status: HTTP status.
        kind: Type of the error in OpenAI's form.
    """

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A request that was understood.

    Attributes:
        model: Model that is asked.
        messages: The conversation as it was sent.
        max_tokens: Output limit.
        is_stream: Whether the answer is streamed.
        has_stream_usage: Whether a stream ends with its usage.
        tool: Name and first parameter of the tool that the answer has to call; None for a plain answer.
        user: The end user that the request names; empty for none.
    """

    model: str
    messages: tuple[Mapping[str, object], ...]
    max_tokens: int
    is_stream: bool
    has_stream_usage: bool
    tool: tuple[str, str] | None
    user: str = ""

    @classmethod
    def read(cls, body: bytes) -> "ChatRequest":
        """Request of a body.

        Raises:
            RefusedError: If it is none.
        """
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            raise RefusedError(400, "the body is no JSON") from None
        if not isinstance(data, dict) or not isinstance(data.get("model"), str):
            raise RefusedError(400, "model is missing")
        messages = data.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise RefusedError(400, "messages must be a list of messages")
        limit = data.get("max_completion_tokens", data.get("max_tokens"))
        limit = DEFAULT_MAX_TOKENS if limit is None else limit
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise RefusedError(400, f"max_tokens is {limit!r:.40}, must be at least 1")
        options = data.get("stream_options")
        return cls(
            model=data["model"],
            messages=tuple(messages),
            max_tokens=limit,
            is_stream=data.get("stream") is True,
            has_stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
            tool=_tool(data.get("tools"), data.get("tool_choice")),
            user=data["user"] if isinstance(data.get("user"), str) else "",
        )

    @property
    def actions(self) -> tuple[str, ...]:
        """Action of every assistant message, oldest first."""
        return tuple(_action(one) for one in self.messages if one.get("role") == "assistant")

    @property
    def turn(self) -> int:
        """Index of the turn that is asked for: how many answers there are."""
        return sum(one.get("role") == "assistant" for one in self.messages)

    def signers(self) -> tuple[str, ...]:
        """Models that signed the thinking in the conversation."""
        blocks = [
            block
            for message in self.messages
            for name in (*_BLOCK_FIELDS, "content")
            if isinstance(found := message.get(name), list)
            for block in found
            if isinstance(block, dict)
        ]
        return tuple(str(block["signature"]).partition(":")[0] for block in blocks if block.get("signature"))


def text_of(message: Mapping[str, object]) -> str:
    """Plain text of a message."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _action(message: Mapping[str, object]) -> str:
    """Action of an assistant message: the argument of its tool call, else what its text says."""
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], dict):
        function = calls[0].get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        try:
            values = json.loads(arguments) if isinstance(arguments, str) else {}
        except ValueError:
            values = {}
        texts = [value for value in values.values() if isinstance(value, str)] if isinstance(values, dict) else []
        if texts:
            return texts[0].strip()
    return action_of(text_of(message))


def _tool(tools: object, choice: object) -> tuple[str, str] | None:
    """Tool that is called: the chosen one, else the first."""
    if not isinstance(tools, list) or not tools or choice == "none":
        return None
    chosen = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    functions = [cast(dict[str, object], one.get("function")) for one in tools if isinstance(one, dict)]
    functions = [one for one in functions if isinstance(one, dict) and isinstance(one.get("name"), str)]
    found = next((one for one in functions if one["name"] == chosen), functions[0] if functions else None)
    if found is None:
        raise RefusedError(400, "tools must be functions with names")
    return str(found["name"]), _first_parameter(found.get("parameters"))


def _first_parameter(schema: object) -> str:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return str(next(iter(properties))) if isinstance(properties, dict) and properties else "input"
