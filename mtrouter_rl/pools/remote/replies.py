"""What a reply of chat completions says, whole or streamed; from one that is broken, what can be saved."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mtrouter_rl.files import parse_json
from mtrouter_rl.records import JsonValue, ToolCall

MAX_DEPTH = 50
_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')
_MODEL = re.compile(r'"model"\s*:\s*("(?:[^"\\]|\\.){0,200}")')
_CONTENT = re.compile(r'"content"\s*:\s*"((?:[^"\\]|\\.)*)')
_HALF_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}$|\\$")


@dataclass(frozen=True, kw_only=True)
class ModelReply:
    """What a reply says.

    Attributes:
        message: The assistant message as it came; empty if there is none.
        text: Its plain text, or as much of it as came.
        tool_calls: The tools that it calls.
        usage: What it says of tokens; None if it says nothing.
        model: Who answered, as far as it says; empty if it does not.
        fingerprint: What the endpoint tells of its own set-up; empty if nothing.
        problem: Why the answer cannot be used; empty if it can.
    """

    message: Mapping[str, JsonValue] = field(default_factory=dict)
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Mapping[str, JsonValue] | None = None
    model: str = ""
    fingerprint: str = ""
    problem: str = ""


def read_reply(body: str, *, is_stream: bool, problem: str = "") -> ModelReply:
    """Read a reply.

    Args:
        body: As much of it as came.
        is_stream: Whether events of a stream were asked for.
        problem: Why it is not whole; empty if it is.
    """
    if is_stream and body.lstrip().startswith(("data:", ":", "event:")):
        return _read_stream(body, problem)
    return _read_whole(body, problem)


def _read_whole(body: str, problem: str) -> ModelReply:
    if not problem:
        try:
            body.encode()  # what is no UTF-8 is no JSON
            return _of_completion(parse_json(body, max_depth=MAX_DEPTH, is_unique=False))
        except ValueError as error:
            problem = f"the reply is no usable JSON: {str(error)[:200]}"
    return _saved(body, problem)


def _of_completion(raw: JsonValue) -> ModelReply:
    if not isinstance(raw, dict):
        return ModelReply(problem="the reply is no JSON object")
    choices = raw.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    usage, model = raw.get("usage"), raw.get("model")
    about = ModelReply(
        usage=usage if isinstance(usage, dict) else None,
        model=model if isinstance(model, str) else "",
        fingerprint=_fingerprint(raw),
    )
    return _with_message(about, message)


def _with_message(about: ModelReply, message: JsonValue) -> ModelReply:
    text = _text(message.get("content")) if isinstance(message, dict) else None
    if not isinstance(message, dict) or text is None:
        problem = "the reply has no choices.0.message.content; is base_url that of chat completions?"
        return ModelReply(usage=about.usage, model=about.model, problem=about.problem or problem)
    return ModelReply(
        message=message,
        text=text,
        tool_calls=read_tool_calls(message.get("tool_calls")),
        usage=about.usage,
        model=about.model,
        fingerprint=about.fingerprint,
        problem=about.problem,
    )


def _fingerprint(raw: Mapping[str, JsonValue]) -> str:
    told = raw.get("system_fingerprint")
    return told[:200] if isinstance(told, str) else ""


def _text(content: JsonValue) -> str | None:
    """Plain text of a content, which may come in parts; None if it is no content."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def read_tool_calls(raw: JsonValue) -> tuple[ToolCall, ...]:
    """Tool calls of a message, as far as they are any."""
    found = []
    for call in raw if isinstance(raw, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(call, dict) and isinstance(function, dict):
            arguments = function.get("arguments")
            found.append(
                ToolCall(
                    id=str(call.get("id") or ""),
                    name=str(function.get("name") or ""),
                    arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
                )
            )
    return tuple(found)


def _saved(body: str, problem: str) -> ModelReply:
    """What stands in a body that cannot be read as a whole: its usage, its model, its text."""
    usage = None
    for found in _USAGE.finditer(body):
        try:
            read, _ = json.JSONDecoder().raw_decode(body, found.end())
        except (ValueError, RecursionError):
            continue
        usage = read if isinstance(read, dict) else usage
    model, content = _MODEL.search(body), _CONTENT.search(body)
    return ModelReply(
        text=_unescaped(content[1]) if content else "",
        usage=usage,
        model=_unescaped(model[1][1:-1]) if model else "",
        problem=problem,
    )


def _unescaped(text: str) -> str:
    """A JSON string without its quotes, which may end in the middle of an escape."""
    try:
        return str(json.loads(f'"{_HALF_ESCAPE.sub("", text)}"', strict=False))
    except ValueError:
        return text


def _read_stream(body: str, problem: str) -> ModelReply:
    gathered = _Gathered()
    for data in _data(body):
        if data == "[DONE]":
            gathered.is_done = True
            continue
        try:
            chunk = parse_json(data, max_depth=MAX_DEPTH, is_unique=False)
        except ValueError:
            gathered.problem = gathered.problem or "an event of the stream is no JSON"
            continue
        gathered.add(chunk)
    if not problem and not gathered.is_done and not gathered.is_finished:
        problem = "the stream ends in the middle"
    about = ModelReply(
        usage=gathered.usage,
        model=gathered.model,
        fingerprint=gathered.fingerprint,
        problem=problem or gathered.problem,
    )
    return _with_message(about, gathered.message())


def _data(body: str) -> Iterator[str]:
    """Data of every event that is whole."""
    for event in re.split(r"\r?\n\r?\n", body):
        lines = [line[5:].lstrip() for line in event.splitlines() if line.startswith("data:")]
        if lines:
            yield "\n".join(lines)


@dataclass
class _Gathered:
    """What the events of a stream add up to."""

    fields: dict[str, JsonValue] = field(default_factory=dict)
    calls: dict[int, dict[str, JsonValue]] = field(default_factory=dict)
    usage: Mapping[str, JsonValue] | None = None
    model: str = ""
    fingerprint: str = ""
    problem: str = ""
    is_done: bool = False
    is_finished: bool = False

    def add(self, chunk: JsonValue) -> None:
        if not isinstance(chunk, dict):
            return
        if "error" in chunk:
            self.problem = f"the stream ends in an error: {json.dumps(chunk['error'])[:200]}"
        usage, model = chunk.get("usage"), chunk.get("model")
        self.usage = usage if isinstance(usage, dict) else self.usage
        self.model = model if isinstance(model, str) and model else self.model
        self.fingerprint = _fingerprint(chunk) or self.fingerprint
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self.is_finished = self.is_finished or bool(choice.get("finish_reason"))
        delta = choice.get("delta")
        for key, value in delta.items() if isinstance(delta, dict) else ():
            self._add_field(key, value)

    def _add_field(self, key: str, value: JsonValue) -> None:
        before = self.fields.get(key)
        if key == "tool_calls":
            for call in value if isinstance(value, list) else ():
                self._add_call(call)
        elif key != "role" and isinstance(value, str) and isinstance(before, str):
            self.fields[key] = before + value
        elif isinstance(value, list) and isinstance(before, list):
            self.fields[key] = [*before, *value]
        elif value is not None:
            self.fields[key] = value

    def _add_call(self, call: JsonValue) -> None:
        if not isinstance(call, dict):
            return
        index = call.get("index")
        known = self.calls.setdefault(index if isinstance(index, int) else len(self.calls), {"type": "function"})
        known |= {key: value for key, value in call.items() if key not in ("index", "function") and value is not None}
        function, more = known.setdefault("function", {"arguments": ""}), call.get("function")
        if isinstance(function, dict) and isinstance(more, dict):
            function["arguments"] = str(function.get("arguments") or "") + str(more.get("arguments") or "")
            if more.get("name"):
                function["name"] = more["name"]

    def message(self) -> JsonValue:
        if not self.fields and not self.calls:
            return None
        calls: dict[str, JsonValue] = {"tool_calls": [self.calls[i] for i in sorted(self.calls)]} if self.calls else {}
        return {"role": "assistant", "content": None, **self.fields, **calls}
