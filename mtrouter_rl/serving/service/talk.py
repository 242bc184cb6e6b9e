"""Conversations as the service sees them: which messages are known, to which session they belong, and what is new.

A message is told apart by what it says, not by how a client spells it: a client may send an answer back with or without the
fields that were empty. A chain of digests names a whole conversation, so that a request finds the session it goes on from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.messages import (
    ChatMessage,
    check_roles,
    join_texts,
    read_message,
    read_messages,
    split_opening,
)
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import TurnView

Raw = Mapping[str, object]
_DIGEST_BYTES = 16
_N_HEADS = 8
_MORE = ("function_call", "tool_call_id")


def digest_of(message: Raw) -> bytes:
    """Digest of what a message says.

    Example:
        >>> said = {"role": "assistant", "content": "Yes.", "refusal": None}
        >>> digest_of(said) == digest_of({"role": "assistant", "content": [{"type": "text", "text": "Yes."}]})
        True
    """
    role, content, calls = message.get("role"), _plain(message.get("content")), message.get("tool_calls")
    if isinstance(content, str) and not calls and not any(message.get(name) is not None for name in _MORE):
        told = f"{role}\0{content}".encode(
            "utf-8", "surrogatepass"
        )  # most messages; the others are JSON, which has no NUL
        return blake2b(told, digest_size=_DIGEST_BYTES).digest()
    what = [
        role,
        content,
        [_call(one) for one in calls] if isinstance(calls, list) else [],
        message.get("function_call"),
        message.get("tool_call_id"),
    ]
    return blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).digest()


def _plain(content: object) -> object:
    """Content as text where it is text alone."""
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [one.get("text") if isinstance(one, Mapping) and one.get("type") == "text" else None for one in content]
        if all(isinstance(text, str) for text in texts):
            return "\n".join(str(text) for text in texts)
    return content


def _call(call: object) -> object:
    if not isinstance(call, Mapping):
        return call
    function = call.get("function")
    inner = [function.get("name"), function.get("arguments")] if isinstance(function, Mapping) else function
    return [call.get("id"), inner, call.get("custom"), call.get("name"), call.get("arguments")]


@dataclass(frozen=True)
class Prompt:
    """The messages of a request.

    Attributes:
        messages: As the client sent them.
    """

    messages: tuple[Raw, ...]

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """Digest of every message."""
        return tuple(map(digest_of, self.messages))

    @cached_property
    def chain(self) -> tuple[bytes, ...]:
        """Name of the conversation after every message, length n + 1."""
        names = [b""]
        for digest in self.digests:
            names.append(extended(names[-1], digest))
        return tuple(names)

    @property
    def name(self) -> bytes:
        """Name of the whole."""
        return self.chain[-1]

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """Places of the answers in it."""
        return tuple(index for index, one in enumerate(self.messages) if one.get("role") in ("assistant", "model"))

    @cached_property
    def heads(self) -> tuple[bytes, ...]:
        """Names of the conversation after its last answers, the latest first."""
        return tuple(self.chain[index + 1] for index in reversed(self.answers[-_N_HEADS:]))

    @cached_property
    def last_texts(self) -> tuple[str, ...]:
        """Texts that a router is likely to see for the first time; read early, so that they are encoded early."""
        if not self.answers:
            _, task, first = self.opening()
            return (task, first)
        return (join_texts(self._read(self.answers[-1] + 1)),)

    def opening(self) -> tuple[str, str, str]:
        """System text, task text and first observation of a conversation that begins with this prompt.

        Raises:
            InvalidConfigError: If it is no conversation that waits for an answer.
        """
        try:
            messages = read_messages(self.messages)
            check_roles(messages)
            return split_opening(messages)
        except UnusableEpisodeError as error:
            raise InvalidConfigError(f"messages: {error}") from error

    def text_from(self, start: int) -> str:
        """Texts of the messages from a place on, as one observation."""
        return join_texts(self._read(start))

    def text_of(self, places: Sequence[int]) -> str:
        """Texts of some messages, as one observation."""
        return join_texts([read(self.messages[place], place) for place in places])

    def _read(self, start: int) -> list[ChatMessage]:
        return [read(message, start + place) for place, message in enumerate(self.messages[start:])]


def extended(name: bytes, digest: bytes) -> bytes:
    """Name of a conversation with one message more."""
    return blake2b(name + digest, digest_size=_DIGEST_BYTES).digest()


def read(message: Raw, place: int) -> ChatMessage:
    """A message, as the importers read it.

    Raises:
        InvalidConfigError: If it is none; names its place.
    """
    try:
        return read_message(message)
    except UnusableEpisodeError as error:
        raise InvalidConfigError(f"messages.{place}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class PastCall:
    """A turn that was answered.

    Attributes:
        model: Index of its model in the pool.
        action: What the model wrote, as a router sees it.
        error: Kind of error that it was.
        prompt: Name of the conversation before it.
        answer: Digest of the answer.
    """

    model: int
    action: str
    error: str
    prompt: bytes
    answer: bytes


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What a replica remembers of a session, up to its last answer. It can always be made anew from the store.

    Attributes:
        version: Of the session's row when this was true.
        task: Task text.
        first_observation: What followed it before the first answer.
        digests: Digests of the last prompt and its answer.
        seen: Digests of every message so far.
        calls: The turns.
        observations: What came back to every turn but the last.
    """

    version: int
    task: str
    first_observation: str
    digests: tuple[bytes, ...] = ()
    seen: frozenset[bytes] = frozenset()
    calls: tuple[PastCall, ...] = ()
    observations: tuple[str, ...] = ()
    models: tuple[str, ...] = field(default=(), repr=False)

    def news(self, prompt: Prompt) -> str:
        """What came back to the last turn, as this prompt shows it.

        After the last answer that is known, everything is news; a prompt that was sent before brings none; and where no answer
        is known any more, since the history was rewritten, what was never seen before is.
        """
        if any(call.prompt == prompt.name for call in self.calls):
            return ""
        known = {call.answer for call in self.calls}
        for place in reversed(prompt.answers):
            if prompt.digests[place] in known:
                return prompt.text_from(place + 1)
        return prompt.text_of([place for place, one in enumerate(prompt.digests) if one not in self.seen])

    def n_kept(self, prompt: Prompt) -> int:
        """How many messages at the beginning of a prompt are those of the last one and its answer."""
        n_same = 0
        for ours, theirs in zip(self.digests, prompt.digests, strict=False):
            if ours != theirs:
                break
            n_same += 1
        return n_same

    def history(self, news: str) -> tuple[TurnView, ...]:
        """The turns as a router sees them, the last with what came back to it."""
        return tuple(
            TurnView(model=call.model, action=call.action, observation=observation, error=call.error)
            for call, observation in zip(self.calls, (*self.observations, news)[: len(self.calls)], strict=True)
        )

    def after(self, prompt: Prompt, news: str, call: PastCall, *, model: str, version: int) -> "Talk":
        """The same after one more turn."""
        return Talk(
            version=version,
            task=self.task,
            first_observation=self.first_observation,
            digests=(*prompt.digests, call.answer),
            seen=self.seen.union(prompt.digests, (call.answer,)),
            calls=(*self.calls, call),
            observations=(*self.observations, news) if self.calls else (),
            models=(*self.models, model),
        )
