"""A streamed answer: what the client is sent of it, and the whole message that it was."""

import json
from collections.abc import Iterator, Mapping
from typing import cast

from mtrouter_rl.files import parse_json
from mtrouter_rl.records import JsonValue

_MAX_DEPTH = 60
DONE = b"data: [DONE]\n\n"


class Gathered:
    """Takes the events of a stream one after another.

    The event that ends the answer, and whatever follows it, is kept back in `last`, so that the answer can be booked before the
    client has it.

    Attributes:
        usage: Tokens as the endpoint said.
        served_model: Who answered, as the endpoint said.
        is_done: Whether the endpoint has said that nothing follows.
        problem: What it said went wrong; empty if nothing.
        last: Events that were kept back.
    """

    def __init__(self, *, model: str, wants_usage: bool) -> None:
        """Begin.

        Args:
            model: Name that the client is told.
            wants_usage: Whether the client asked for the usage.
        """
        self._model = model
        self._wants_usage = wants_usage
        self._message: dict[str, JsonValue] = {"role": "assistant"}
        self._calls: dict[int, dict[str, JsonValue]] = {}
        self._finish: str | None = None
        self.usage: Mapping[str, JsonValue] | None = None
        self.served_model: str | None = None
        self.is_done = False
        self.problem = ""
        self.last: list[bytes] = []

    def take(self, data: str) -> Iterator[bytes]:
        """Take the data of an event; gives what is sent to the client now."""
        if data.strip() == "[DONE]":
            self.is_done = True
            return
        try:
            chunk = parse_json(data, max_depth=_MAX_DEPTH, is_unique=False)
        except ValueError:
            self._fail("holds an event that is no JSON")
            return
        if not isinstance(chunk, dict):
            self._fail("holds an event that is no JSON object")
            return
        if isinstance(error := chunk.get("error"), dict | str):
            said = error.get("message") if isinstance(error, dict) else error
            self._fail(f"ended with an error: {str(said)[:300]}")
            return
        event = self._event(chunk)
        if event is None:
            return
        if self._finish is not None:
            self.last.append(event)
        else:
            yield event

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""
        return not self.problem and self._finish is not None

    @property
    def message(self) -> dict[str, JsonValue]:
        """The assistant's message so far."""
        message = dict(self._message)
        message.setdefault("content", None)
        if self._calls:
            message["tool_calls"] = [cast("JsonValue", self._calls[index]) for index in sorted(self._calls)]
        return message

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _event(self, chunk: dict[str, JsonValue]) -> bytes | None:
        """The event as the client gets it; None if it is not for the client."""
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        if isinstance(served := chunk.get("model"), str) and served:
            self.served_model = served[:200]
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choice(choice)
        if not self._wants_usage and "usage" in chunk:
            if not choices:
                return None
            del chunk["usage"]
        chunk["model"] = self._model
        return _event(chunk)

    def _choice(self, choice: Mapping[str, JsonValue]) -> None:
        delta = choice.get("delta")
        if isinstance(finish := choice.get("finish_reason"), str):
            self._finish = finish
        if not isinstance(delta, dict):
            return
        for name, value in delta.items():
            if name == "tool_calls":
                self._tool_calls(value)
            elif name != "role" and value is not None:
                self._message[name] = _grown(self._message.get(name), value)

    def _tool_calls(self, calls: JsonValue) -> None:
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(call, dict):
                continue
            index = call.get("index")
            index = index if isinstance(index, int) and 0 <= index < 10_000 else place
            known = self._calls.setdefault(index, {})
            for name, value in call.items():
                if name == "function" and isinstance(value, dict):
                    known[name] = _grown_function(known.get(name), value)
                elif name != "index" and value is not None:
                    known[name] = value


def _grown_function(known: JsonValue, more: Mapping[str, JsonValue]) -> JsonValue:
    function = dict(known) if isinstance(known, dict) else {}
    for name, value in more.items():
        if name == "arguments" and isinstance(value, str):
            function[name] = f"{function.get(name) or ''}{value}"
        elif value is not None:
            function[name] = value
    return cast("JsonValue", function)


def _grown(known: JsonValue, more: JsonValue) -> JsonValue:
    """A field of a message with one more piece of it."""
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, list) and isinstance(more, list):
        return [*known, *more]
    return more


def events_of(body: Mapping[str, JsonValue], options: JsonValue) -> Iterator[bytes]:
    """Events of an answer that came whole, for a client that wants a stream."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    choice = first if isinstance(first, dict) else {}
    message = choice.get("message")
    delta = dict(message) if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls) if isinstance(call, dict)]
    head = {
        "id": body.get("id"),
        "object": "chat.completion.chunk",
        "created": body.get("created"),
        "model": body.get("model"),
    }
    yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event(
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}]}
    )
    if isinstance(options, dict) and options.get("include_usage") is True:
        yield _event({**head, "choices": [], "usage": body.get("usage")})


def _event(chunk: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
