"""What a span of OpenTelemetry says of a call of a model, in the old and new names of GenAI conventions and OpenInference.

Sources: github.com/open-telemetry/semantic-conventions (`docs/gen-ai`, versions 1.27 to 1.38), OpenLLMetry's attributes
(`gen_ai.prompt.N`, `gen_ai.completion.N`), and github.com/Arize-ai/openinference (`spec/semantic_conventions.md`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from mtrouter_rl.datasets.importers.formats.rows import Object, as_list, as_number, as_object, as_text, parsed
from mtrouter_rl.records import JsonValue

_COUNTS = {
    "prompt_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "completion_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    "total_tokens": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    "cached": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.input_tokens.cached",
        "gen_ai.usage.cached_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "written": (
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.input_tokens.cache_write",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.output_tokens.reasoning",
        "llm.token_count.completion_details.reasoning",
    ),
}
_COSTS = ("gen_ai.usage.cost", "gen_ai.cost.total_cost", "llm.cost.total", "gen_ai.usage.total_cost")
_USAGE_PREFIXES = ("gen_ai.usage.", "llm.token_count.", "llm.usage.")
_CALL_OPERATIONS = ("chat", "text_completion", "generate_content", "completion")
_OLD_EVENTS = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_INDEX = re.compile(r"(\d+)\.(.+)")


@dataclass(kw_only=True)
class Span:
    """A span, whatever file it comes from.

    Attributes:
        source: Where it is.
        trace_id: Its trace.
        span_id: Its id.
        parent_id: Span above it; empty for the root.
        name: Its name.
        start_s: When it began, seconds since 1970.
        end_s: When it ended.
        attributes: Its attributes.
        events: (name, attributes and body) of its events and log records.
        is_error: Whether its status is an error.
    """

    source: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_s: float | None
    end_s: float | None
    attributes: Object
    events: list[tuple[str, Object]] = field(default_factory=list)
    is_error: bool = False

    def text(self, *names: str) -> str:
        """The first of these attributes that is a text or number."""
        return next((found for name in names if (found := as_text(self.attributes.get(name)))), "")

    @property
    def is_call(self) -> bool:
        """Whether it is a call of a model, and not of an agent, a tool or an embedding."""
        kind = self.text("openinference.span.kind", "traceloop.span.kind").upper()
        operation = self.text("gen_ai.operation.name", "llm.request.type")
        if operation:
            return operation in _CALL_OPERATIONS
        if kind:
            return kind == "LLM"
        return bool(self.text("gen_ai.request.model", "gen_ai.response.model")) and any(
            name in self.attributes for name in (*_COUNTS["prompt_tokens"], *_COUNTS["completion_tokens"])
        )

    @property
    def agent(self) -> str:
        """Name of the agent that it is about, if it is about one."""
        is_agent = self.text("openinference.span.kind", "traceloop.span.kind").upper() == "AGENT"
        is_agent = is_agent or self.text("gen_ai.operation.name") == "invoke_agent"
        return (self.text("gen_ai.agent.id", "gen_ai.agent.name", "agent.name") or self.name) if is_agent else ""

    @property
    def usage(self) -> dict[str, object]:
        """Usage in OpenAI's form; counts that are not known keep their names."""
        given = {
            key: next((self.attributes[name] for name in names if self.attributes.get(name) is not None), None)
            for key, names in _COUNTS.items()
        }
        known = {name for names in _COUNTS.values() for name in names} | set(_COSTS)
        further = {
            name: value
            for name, value in self.attributes.items()
            if name.startswith(_USAGE_PREFIXES) and name not in known and not isinstance(value, dict | list)
        }
        usage: dict[str, object] = {
            "prompt_tokens_details": {"cached_tokens": given.pop("cached"), "cache_write_tokens": given.pop("written")},
            "completion_tokens_details": {"reasoning_tokens": given.pop("reasoning")},
        }
        return further | usage | {name: value for name, value in given.items() if value is not None}

    @property
    def cost_usd(self) -> float | None:
        """Cost by the log, USD."""
        return next((cost for name in _COSTS if (cost := as_number(self.attributes.get(name))) is not None), None)


def attributes_of(raw: JsonValue | None) -> Object:
    """Attributes as an object, from OTLP's list of keys and values or from an object; dotted or nested."""
    if isinstance(raw, list):
        pairs = [as_object(one) for one in raw]
        return {as_text(pair.get("key")): _value(pair.get("value")) for pair in pairs}
    found = as_object(raw)
    return dict(_dotted(found)) if any(isinstance(one, dict) for one in found.values()) else found


def _dotted(row: Object, prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for name, value in row.items():
        if isinstance(value, dict) and prefix.count(".") < 8:
            yield from _dotted(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            yield f"{prefix}{name}", value
            for index, one in enumerate(value):
                yield from _dotted(cast("Object", one), f"{prefix}{name}.{index}.")
        else:
            yield f"{prefix}{name}", value


def _value(raw: JsonValue | None) -> JsonValue:
    """A value of OTLP JSON: {"stringValue": ...}, {"intValue": "3"}, {"arrayValue": ...}, {"kvlistValue": ...}."""
    box = {name.replace("_", "").lower(): value for name, value in as_object(raw).items()}
    if "stringvalue" in box:
        return box["stringvalue"]
    if "intvalue" in box:
        number = as_number(box["intvalue"])
        return None if number is None else int(number)
    if "doublevalue" in box or "boolvalue" in box:
        return box.get("doublevalue", box.get("boolvalue"))
    if "arrayvalue" in box:
        return [_value(one) for one in as_list(as_object(box["arrayvalue"]).get("values"))]
    if "kvlistvalue" in box:
        return dict(attributes_of(as_object(box["kvlistvalue"]).get("values")))
    return raw if not isinstance(raw, dict) else None


def value_of(raw: JsonValue | None) -> JsonValue:
    """A body of a log record, which may be a value of OTLP or plain JSON."""
    return _value(raw) if isinstance(raw, dict) and any(name.endswith("Value") for name in raw) else raw


def prompt_of(span: Span) -> list[object]:
    """Messages that the model was sent, in a form that `read_messages` takes; empty if they were not logged."""
    found = _new_messages(span, "gen_ai.input.messages", system="gen_ai.system_instructions")
    found = found or _indexed(span, "gen_ai.prompt.") or _indexed(span, "llm.input_messages.", inner="message.")
    if not found:
        found = [_old_event(role, row) for name, row in span.events if (role := _OLD_EVENTS.get(name))]
    if not found:
        found = _content_event(span, "gen_ai.content.prompt", "gen_ai.prompt")
    if not found:
        value = parsed(span.attributes.get("input.value"))
        inner = value.get("messages") if isinstance(value, dict) else value
        found = [*inner] if isinstance(inner, list) else [{"role": "user", "content": value}] if value else []
    return found


def answer_of(span: Span) -> object | None:
    """The answer, in a form that `read_message` takes; None if it was not logged."""
    found = _new_messages(span, "gen_ai.output.messages")
    found = found or _indexed(span, "gen_ai.completion.") or _indexed(span, "llm.output_messages.", inner="message.")
    if not found:
        choices = [as_object(row.get("body")) or row for name, row in span.events if name == "gen_ai.choice"]
        found = [_old_event("assistant", as_object(row.get("message")) or row) for row in choices]
    if not found:
        found = _content_event(span, "gen_ai.content.completion", "gen_ai.completion")
    if not found:
        value = span.attributes.get("output.value")
        found = [{"role": "assistant", "content": value}] if isinstance(value, str) else []
    return {**cast("Mapping[str, object]", found[0]), "role": "assistant"} if found else None


def _new_messages(span: Span, name: str, *, system: str = "") -> list[object]:
    """`gen_ai.input.messages` and its like: on the span, or on its event of the operation's details."""
    holders = [span.attributes, *(row for _, row in span.events)]
    given = next((found for holder in holders if (found := as_list(holder.get(name)))), [])
    messages: list[object] = []
    instructions = next((found for holder in holders if (found := as_list(holder.get(system)))), []) if system else []
    if instructions:
        texts = [as_text(as_object(part).get("content")) for part in instructions]
        messages.append({"role": "system", "content": "\n".join(texts)})
    for raw in given:
        messages += _parts_message(as_object(raw))
    return messages


def _parts_message(row: Object) -> list[object]:
    """A message with `parts`; what tools gave back becomes messages of their own."""
    if not isinstance(row.get("parts"), list):
        return [row]
    content: list[object] = []
    calls: list[object] = []
    results: list[object] = []
    for part in map(as_object, as_list(row["parts"])):
        kind = as_text(part.get("type"))
        if kind == "text":
            content.append({"type": "text", "text": part.get("content", part.get("text"))})
        elif kind == "tool_call":
            calls.append({"name": part.get("name"), "arguments": part.get("arguments")})
        elif kind == "tool_call_response":
            result = part.get("response", part.get("result"))
            text = result if isinstance(result, str) else _json(result)
            results.append({"role": "tool", "content": text})
        else:
            content.append({**part, "type": kind or "other"})
    role = as_text(row.get("role"))
    message = {"role": role, "content": content} | ({"tool_calls": calls} if calls else {})
    return [*([message] if content or calls or not results else []), *results]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _indexed(span: Span, prefix: str, *, inner: str = "") -> list[object]:
    """Messages whose fields are attributes with an index: `gen_ai.prompt.0.role`, `llm.input_messages.0.message.role`."""
    rows: dict[int, dict[str, JsonValue]] = {}
    for name, value in span.attributes.items():
        match = _INDEX.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is not None and len(match[1]) < 7:
            rows.setdefault(int(match[1]), {})[match[2].removeprefix(inner)] = value
    return [_indexed_message(rows[index]) for index in sorted(rows)]


def _indexed_message(row: Mapping[str, JsonValue]) -> dict[str, object]:
    calls: dict[int, dict[str, object]] = {}
    parts: dict[int, dict[str, object]] = {}
    for name, value in row.items():
        holder, _, rest = name.partition(".")
        match = _INDEX.fullmatch(rest)
        if match is None or len(match[1]) > 6:
            continue
        field_name = match[2].rpartition(".")[2]
        if holder == "tool_calls":
            calls.setdefault(int(match[1]), {})[field_name] = value
        elif holder == "contents":
            parts.setdefault(int(match[1]), {})[field_name] = value
    message: dict[str, object] = {"role": row.get("role"), "content": _content(row.get("content"))}
    if parts:
        message["content"] = [{"type": "text", **parts[index]} for index in sorted(parts)]
    if calls:
        message["tool_calls"] = [
            {"name": calls[index].get("name"), "arguments": calls[index].get("arguments")} for index in sorted(calls)
        ]
    return message


def _content(value: JsonValue | None) -> JsonValue | None:
    """Content that may be the JSON text of parts."""
    inner = parsed(value)
    is_parts = isinstance(inner, list) and all(isinstance(one, dict) and "type" in one for one in inner)
    return inner if is_parts else value


def _old_event(role: str, row: Object) -> dict[str, object]:
    inner = as_object(row.get("body")) or row
    calls = as_list(inner.get("tool_calls"))
    message: dict[str, object] = {"role": as_text(inner.get("role")) or role, "content": _content(inner.get("content"))}
    return message | ({"tool_calls": list(calls)} if calls else {})


def _content_event(span: Span, name: str, key: str) -> list[object]:
    for event, row in span.events:
        if event == name:
            value = parsed(row.get(key))
            rows: Sequence[object] = value if isinstance(value, list) else [value]
            return [one if isinstance(one, dict) else {"role": "user", "content": one} for one in rows]
    return []
