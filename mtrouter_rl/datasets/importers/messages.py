"""From the caller's own chat messages to this project's: the one converter of every importer and of live routing.

Messages may be OpenAI's chat messages (tool calls, the older `function_call`, custom tools, refusals), Anthropic's with
content blocks, items of OpenAI's Responses API, or Gemini's contents with parts. `ChatMessage` takes all of them. What a
model called becomes part of its action, what a tool gave back becomes text of the observation; hidden thinking, pictures
and files are left out, and `ChatMessage.left_out` says so.

A turn is one assistant message. Its action is that message; its observation is everything that came back before the next
assistant message. The first user message is the task, what follows it before the first answer is the first observation,
and what the system said before it is neither: it is kept in `Episode.extra` as `system_prompt`.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError, cut

BAD_SHAPE = "field that is missing or breaks its rule"
BAD_ORDER = "messages that do not alternate"
NO_TASK = "conversation without a user message before its first answer"
NO_ANSWER = "conversation without any answer of a model"
OTHER_PARTS = "part of a message that is no text, left out"
THINKING = "hidden thinking of a model, left out of its action"
HALF_CHARACTER = "half a character (a surrogate without its other half), replaced by U+FFFD"

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool", "function")

_TEXT_PARTS = ("text", "input_text", "output_text", "summary_text")
_CALL_PARTS = ("tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "tool-call")
_THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought")
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
_ITEM_NAME_KEYS = ("id", "type", "status", "call_id")

_CONTENT_KEYS = frozenset({"content", "parts", "tool_calls", "function_call", "refusal"})
_WHOLE_KEYS = frozenset({"choices", "candidates", "message", "messages", "output_text"})

Note = tuple[str, str]
MessageT = TypeVar("MessageT", bound="ChatMessage")


class LogModel(BaseModel):
    """Base of what is read from a log of another program: keys that the importer does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class FunctionCall(LogModel):
    """Function that a model called.

    Attributes:
        name: Its name.
        arguments: Its arguments: JSON text as OpenAI writes them, or the object itself.
    """

    name: str
    arguments: str | dict[str, object] | list[object] | None = None

    def plain(self) -> dict[str, object]:
        """Name and arguments, the latter parsed if they are JSON."""
        arguments: object = self.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, parse_constant=str)
            except (ValueError, RecursionError):
                arguments = self.arguments
        return {"name": self.name, "arguments": arguments}


class ToolCall(LogModel):
    """One tool call, in OpenAI's form (`function`, `custom`) or flat (`name`, `arguments`).

    Attributes:
        function: Function that was called.
        name: Name of the function, flat form.
        arguments: Arguments, flat form.
    """

    function: FunctionCall | None = None
    name: str | None = None
    arguments: str | dict[str, object] | list[object] | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, raw: object) -> object:
        """Custom tools and other vendors' calls as functions with arguments."""
        if not isinstance(raw, Mapping):
            return raw
        custom = raw.get("custom")
        if isinstance(custom, Mapping):
            return {"name": custom.get("name"), "arguments": custom.get("input")}
        if raw.get("function") is None and raw.get("arguments") is None:
            arguments = next((raw[key] for key in ("input", "args") if raw.get(key) is not None), None)
            name = raw.get("name") if raw.get("name") is not None else raw.get("toolName")
            return dict(raw) | {"name": name, "arguments": arguments}
        return raw

    @model_validator(mode="after")
    def _has_a_function(self) -> "ToolCall":
        if self.function is None and self.name is None:
            raise ValueError("must have a 'function', or a 'name' and 'arguments'")
        return self

    def plain(self) -> dict[str, object]:
        """Name and arguments; the id of the call says nothing."""
        return (self.function or FunctionCall(name=self.name or "", arguments=self.arguments)).plain()


class ChatMessage(LogModel):
    """One chat message, whatever form it had.

    Attributes:
        role: "system", "developer", "user", "assistant", "tool" or "function".
        content: Its text; None where there are only tool calls.
        tool_calls: Tools that an answer calls.
        left_out: (kind, detail) of what the message held besides.
    """

    role: Annotated[str, Field(description="system, developer, user, assistant, tool or function")]
    content: Annotated[
        str | None, Field(description="text, or a list of parts or blocks, of which those of text are joined")
    ] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(description="tools that an answer calls")] = None
    left_out: Annotated[tuple[Note, ...], Field(description="what was left out of the message", exclude=True)] = ()

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, raw: object) -> object:
        return _Form(cast("Mapping[str, object]", raw)).message() if isinstance(raw, Mapping) else raw

    @property
    def text(self) -> str:
        """Content as text."""
        return self.content or ""

    @property
    def n_other_parts(self) -> int:
        """How many parts are no text."""
        return sum(kind == OTHER_PARTS for kind, _ in self.left_out)

    @cached_property  # prompts repeat the history, so each message is asked again and again
    def action_text(self) -> str:
        r"""Text of an answer, with its tool calls as a JSON list in a line of their own.

        Example:
            >>> call = ToolCall(name="look", arguments={"at": "door"})
            >>> ChatMessage(role="assistant", content="I look.", tool_calls=[call]).action_text
            'I look.\n[{"name": "look", "arguments": {"at": "door"}}]'
        """
        if not self.tool_calls:
            return self.text
        calls = clean_text(json.dumps([call.plain() for call in self.tool_calls], ensure_ascii=False))
        return f"{self.text}\n{calls}" if self.text else calls


class _Form:
    """Brings one raw message into OpenAI's form, with text for content, and notes what that leaves out."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self.raw = raw
        self.texts: list[str] = []
        self.calls: list[object] = []
        self.left_out: list[Note] = []

    def message(self) -> dict[str, object]:
        raw = self.raw
        kept = {key: value for key, value in raw.items() if key not in ("content", "tool_calls", "parts", "left_out")}
        if isinstance(raw.get("left_out"), tuple):  # a message that was converted before
            self.left_out += cast("tuple[Note, ...]", raw["left_out"])
        role = self._role()
        if not _CONTENT_KEYS & raw.keys() and _WHOLE_KEYS & raw.keys():
            given = ", ".join(sorted(_WHOLE_KEYS & raw.keys()))
            raise ValueError(f"has {given} and no content: a whole response; give the message in it")
        self._content(raw.get("parts") if isinstance(raw.get("parts"), list) else raw.get("content"))
        if "role" not in raw:
            self._item(str(raw.get("type", "")))
        if isinstance(raw.get("refusal"), str) and raw["refusal"]:
            self.texts.append(str(raw["refusal"]))
        if any(raw.get(key) for key in _THINKING_KEYS):
            self.left_out.append((THINKING, ""))
        calls = raw.get("tool_calls")
        if isinstance(calls, list):
            self.calls = [*calls, *(call for call in self.calls if not calls)]
        elif calls is not None:
            return kept | {"role": role, "tool_calls": calls}  # breaks its rule, which is then named
        if isinstance(raw.get("function_call"), Mapping):
            self.calls.append(raw["function_call"])
        return kept | {
            "role": role,
            "content": self._text(),
            "tool_calls": self.calls or None,
            "left_out": tuple(self.left_out),
        }

    def _role(self) -> object:
        role = self.raw.get("role")
        if role is None and "type" in self.raw:
            kind = str(self.raw["type"])
            return "tool" if kind.endswith("_output") else "assistant" if _is_item(kind) else None
        return "assistant" if role == "model" else role

    def _item(self, kind: str) -> None:
        """An item of the Responses API that is no message."""
        if kind.endswith("_output"):
            self._content(self.raw.get("output"))
        elif kind == "reasoning":
            self.left_out.append((THINKING, ""))
        elif kind.endswith("_call"):
            name, arguments = self.raw.get("name"), self.raw.get("arguments", self.raw.get("input"))
            if name is None:
                name = kind.removesuffix("_call")
                arguments = {key: value for key, value in self.raw.items() if key not in _ITEM_NAME_KEYS}
            self.calls.append({"name": name, "arguments": arguments})
            if isinstance(self.raw.get("output"), str):  # mcp_call: what came back stands beside the call
                self.texts.append(str(self.raw["output"]))

    def _content(self, content: object) -> None:
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, Mapping):
            self._part(cast("Mapping[str, object]", content))
        elif isinstance(content, list):
            for part in content:
                self._content(part)
        elif content is not None:
            raise ValueError(f"content must be a text, a list of parts, or null (is {cut(repr(content))})")

    def _part(self, part: Mapping[str, object]) -> None:
        kind = str(part.get("type", ""))
        text = part.get("text")
        if part.get("thought") is True or kind in _THINKING_PARTS:
            self.left_out.append((THINKING, ""))
        elif isinstance(text, str) and (not kind or kind in _TEXT_PARTS):
            self.texts.append(text)
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            self.texts.append(str(part["refusal"]))
        elif kind in _CALL_PARTS:
            self.calls.append(part)
        elif kind.endswith(("tool_result", "tool-result")):
            self._content(part.get("content", part.get("output", part.get("result"))))
        elif isinstance(call := part.get("functionCall", part.get("function_call")), Mapping):
            self.calls.append(call)
        elif isinstance(response := part.get("functionResponse", part.get("function_response")), Mapping):
            self.texts.append(_as_text(response.get("response")))
        else:
            self.left_out.append((OTHER_PARTS, kind or ", ".join(map(str, part))[:60]))

    def _text(self) -> str | None:
        if not self.texts:
            return None
        text = "\n".join(self.texts)
        cleaned = clean_text(text)
        if cleaned != text:
            self.left_out.append((HALF_CHARACTER, ""))
        return cleaned


def _is_item(kind: str) -> bool:
    return kind.endswith("_call") or kind in ("reasoning", "message")


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def clean_text(text: str) -> str:
    r"""Text without half surrogate pairs, which no file takes; pairs that were written as halves become the character.

    Example:
        >>> clean_text("ok \ud83d") == "ok \ufffd"
        True
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")
    return text


def read_message(raw: object) -> ChatMessage:
    r"""One message in the caller's own form as ours.

    Raises:
        UnusableEpisodeError: If it is no message of any form that is known.

    Example:
        >>> block = {"type": "tool_use", "id": "x", "name": "ls", "input": {"path": "/"}}
        >>> read_message({"role": "assistant", "content": [{"type": "text", "text": "I look."}, block]}).action_text
        'I look.\n[{"name": "ls", "arguments": {"path": "/"}}]'
    """
    if isinstance(raw, ChatMessage):
        return raw
    try:
        message = ChatMessage.model_validate(raw)
    except ValidationError as error:
        raise UnusableEpisodeError(BAD_SHAPE, explain(error)) from error
    if message.role not in ROLES:
        raise UnusableEpisodeError(BAD_SHAPE, _bad_role("role", message))
    return message


def read_messages(raws: str | Iterable[object]) -> list[ChatMessage]:
    """Messages in the caller's own form as ours.

    Args:
        raws: Messages, or items of the Responses API, of which those of one answer (its reasoning, its text and its calls)
            become one message; a text alone is what the user said.

    Raises:
        UnusableEpisodeError: If one is no message; names its place.

    Example:
        >>> call = {"type": "function_call", "call_id": "1", "name": "ls", "arguments": "{}"}
        >>> [m.role for m in read_messages(["Look.", call, {"type": "function_call_output", "call_id": "1", "output": "bin"}])]
        ['user', 'assistant', 'tool']
    """
    messages: list[ChatMessage] = []
    was_item = False
    for index, raw in enumerate([raws] if isinstance(raws, str) else raws):
        try:
            message = read_message({"role": "user", "content": raw} if isinstance(raw, str) else raw)
        except UnusableEpisodeError as error:
            raise UnusableEpisodeError(error.reason, f"messages.{index}.{error.detail}") from error
        is_item = isinstance(raw, Mapping) and _is_item(str(raw.get("type", ""))) and message.role == "assistant"
        if is_item and was_item and messages[-1].role == "assistant":
            messages[-1] = merge([messages[-1], message])
        else:
            messages.append(message)
        was_item = is_item
    return messages


def merge(messages: Sequence[ChatMessage]) -> ChatMessage:
    """Several messages as one of the first one's role: texts joined by line breaks, calls one after the other."""
    texts = [message.text for message in messages if message.text]
    calls = [call for message in messages for call in message.tool_calls or ()]
    return ChatMessage.model_construct(
        role=messages[0].role,
        content="\n".join(texts) if texts else None,
        tool_calls=calls or None,
        left_out=tuple(note for message in messages for note in message.left_out),
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One assistant message and what came of it.

    Attributes:
        index: Its place in the list of messages.
        action_text: What the model wrote.
        observation_text: Everything that came back before the next answer; empty after the last one if nothing did.
    """

    index: int
    action_text: str
    observation_text: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages as an episode has them.

    Attributes:
        system_text: What the system said before the task.
        task_text: First user message.
        first_observation: What followed it before the first answer.
        answers: The T answers.
        left_out: (kind, detail) of what the messages held besides.
    """

    system_text: str
    task_text: str
    first_observation: str
    answers: tuple[Answer, ...]
    left_out: tuple[Note, ...] = ()


def join_texts(messages: Sequence[ChatMessage]) -> str:
    """Texts of several messages as one observation."""
    return "\n\n".join(message.text for message in messages)


def check_roles(messages: Sequence[ChatMessage]) -> None:
    """See that every role is one of a chat.

    Raises:
        UnusableEpisodeError: If one is not.
    """
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise UnusableEpisodeError(BAD_SHAPE, _bad_role(f"messages.{index}.role", message))


def _bad_role(where: str, message: ChatMessage) -> str:
    return f"{where} is {cut(repr(message.role))}, must be one of {', '.join(ROLES)}"


def split_opening(messages: Sequence[ChatMessage]) -> tuple[str, str, str]:
    """What was said before the first answer: system text, task text, first observation.

    Raises:
        UnusableEpisodeError: If there is no user message among them.
    """
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise UnusableEpisodeError(NO_TASK, f"{len(messages)} messages before the first answer, none of role 'user'")
    task = users[0]
    before, after = messages[:task], messages[task + 1 :]
    return join_texts(before), messages[task].text, join_texts(after)


def open_conversation(messages: Sequence[ChatMessage]) -> Conversation:
    """Messages of a conversation that may still go on, such as the prompt before the next answer.

    The same rules as `split_conversation`; there may be no answer yet, and answers may follow each other.

    Raises:
        UnusableEpisodeError: If a role is unknown, or there is no task.

    Example:
        >>> talk = open_conversation(read_messages([{"role": "user", "content": "Look."}]))
        >>> talk.task_text, len(talk.answers)
        ('Look.', 0)
    """
    check_roles(messages)
    places = [index for index, message in enumerate(messages) if message.role == "assistant"]
    system_text, task_text, first_observation = split_opening(messages[: places[0]] if places else messages)
    ends = [*places[1:], len(messages)][: len(places)]
    return Conversation(
        system_text=system_text,
        task_text=task_text,
        first_observation=first_observation,
        answers=tuple(
            Answer(
                index=index,
                action_text=messages[index].action_text,
                observation_text=join_texts(messages[index + 1 : end]),
            )
            for index, end in zip(places, ends, strict=True)
        ),
        left_out=tuple(note for message in messages for note in message.left_out),
    )


def split_conversation(messages: Sequence[ChatMessage], *, may_be_silent: bool = False) -> Conversation:
    """Messages of a whole episode as task and answers.

    Args:
        messages: In order.
        may_be_silent: Whether two answers in a row are an answer to which nothing came back; otherwise that is an error.

    Raises:
        UnusableEpisodeError: If a role is unknown, there is no task or no answer, or answers follow each other.
    """
    check_roles(messages)
    places = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not places:
        raise UnusableEpisodeError(NO_ANSWER, f"{len(messages)} messages, none of role 'assistant'")
    if not may_be_silent:
        for index, following in itertools.pairwise(places):
            if following == index + 1:
                raise UnusableEpisodeError(BAD_ORDER, f"messages {index} and {following} are both answers of a model")
    return open_conversation(messages)


def furthest(error: ValidationError) -> tuple[ErrorDetails, int]:
    """The broken rule that says most, and how many more are broken: of a union, the branch that came furthest."""
    issues = error.errors(include_url=False)
    deepest = max(len(issue["loc"]) for issue in issues)
    is_union = any(str(issue["loc"][-1]) == "str" for issue in issues if issue["loc"])
    first = next(issue for issue in issues if len(issue["loc"]) == deepest) if is_union else issues[0]
    return first, len(issues) - 1


def explain(error: ValidationError) -> str:
    """Field of a log that breaks its rule, with its value, and how many more do."""
    first, n_more = furthest(error)
    says_value = first["type"] == "missing" or "(is " in first["msg"]
    given = "" if says_value else f" (is {cut(repr(first['input']))})"
    more = f"; {n_more} more" if n_more else ""
    where = ".".join(map(str, first["loc"])) or "it"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{given}{more}"
