"""What stands between a text task and a model that talks: prompts, the action in a reply, and histories that fit a window.

Without a card the conversation is plain: the system prompt, the task, and then actions and observations in turn; a reply is
the action. With a `mtrouter_rl.cards.HarnessCard` prompts are Jinja templates, in a sandbox and with strict undefined names,
and the action is found in a fenced block or a tool call.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mtrouter_rl.cards import HarnessCard
from mtrouter_rl.cards.pool import TokenCounter
from mtrouter_rl.errors import CardError
from mtrouter_rl.protocols import Reply
from mtrouter_rl.records import Message, ToolCall

MALFORMED = "malformed_reply"
"""Kind of error of a turn whose model was reminded and still gave no action."""

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_LEFT_OUT = "[an observation of {n} characters is left out here]"
_CUT = "[{n} earlier turns are left out here]"


@dataclass(frozen=True, kw_only=True)
class ReadReply:
    """What a reply says.

    Attributes:
        action: The action; empty if none was found.
        problem: Why none was found; empty if one was.
    """

    action: str
    problem: str = ""


class Harness:
    """Writes the conversation of an episode and reads its replies.

    Attributes:
        n_tool_tokens: Tokens by which the tool's description makes every prompt longer.
    """

    def __init__(self, card: HarnessCard | None, system_prompt: str, counter: TokenCounter) -> None:
        """Compile the templates.

        Args:
            card: Templates and form of the action; None for the plain conversation.
            system_prompt: System prompt of the environment card.
            counter: Counts tokens.

        Raises:
            CardError: If a template cannot be compiled.
        """
        self._card = card
        self._system_prompt = system_prompt
        self._counter = counter
        environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
        self._templates: dict[str, jinja2.Template] = {}
        for field in ("system", "start", "turn", "reminder") if card else ():
            try:
                self._templates[field] = environment.from_string(getattr(card, field))
            except jinja2.TemplateError as error:
                raise CardError(f"harness.{field}: {error}; correct the template") from error
        self.n_tool_tokens = counter.count(json.dumps(self.tool)) if self.tool else 0

    @property
    def lists_actions(self) -> bool:
        """Whether the prompts name the actions that are possible now."""
        return self._card is not None and self._card.lists_actions

    @cached_property
    def tool(self) -> dict[str, object] | None:
        """The tool that takes the action, in OpenAI's form; None where actions are text."""
        return None if self._card is None else self._card.tool_definition

    def start(self, task: str, observation: str, actions: Sequence[str]) -> list[Message]:
        """First messages of an episode.

        Raises:
            CardError: If a template asks for what there is not.
        """
        if self._card is None:
            return [
                Message(role="system", content=self._system_prompt),
                Message(role="user", content=f"{task}\n\n{observation}"),
            ]
        system = self._filled("system", system_prompt=self._system_prompt)
        start = self._filled("start", task=task, observation=observation, actions=list(actions))
        return [Message(role="system", content=system), Message(role="user", content=start)]

    def said(self, reply: Reply, model: str) -> Message:
        """A reply as it stands in the history."""
        if reply.message is not None:
            return replace(reply.message, author=reply.message.author or model)
        return Message(role="assistant", content=reply.text, author=model)

    def read(self, reply: Reply) -> ReadReply:
        """Find the action in a reply."""
        if self._card is None or self._card.action == "plain":
            return ReadReply(action=reply.text)
        calls = reply.message.tool_calls if reply.message else ()
        found = self._called(calls) if self._card.action == "tool" else _fenced(reply.text)
        if len(found) != 1:
            return ReadReply(action="", problem=f"it holds {len(found) or 'no'} actions, and one is needed")
        if not found[0].strip():
            return ReadReply(action="", problem="its action is empty")
        return ReadReply(action=found[0].strip())

    def answers(self, said: Message, observation: str, actions: Sequence[str]) -> list[Message]:
        """What the environment answers to an action."""
        text = observation
        if self._card is not None:
            text = self._filled("turn", observation=observation, actions=list(actions))
        return _answers(said, text)

    def reminds(self, said: Message, problem: str) -> list[Message]:
        """What is answered to a reply without an action."""
        return _answers(said, self._filled("reminder", problem=problem))

    def fit(self, messages: Sequence[Message], *, n_most: int) -> tuple[list[Message], int]:
        """The conversation for a model whose prompt may have at most `n_most` tokens, and its number of tokens.

        The rule: observations go first, the oldest before the others, then whole turns, the oldest first; what was left out is
        said in its place. The system prompt, the task and the last `keeps_turns` turns always stay, so the result can still be
        too long; the model is then ruled out.
        """
        kept = list(messages)
        n_tokens = self.count(kept)
        if self._card is None or n_tokens <= n_most:
            return kept, n_tokens
        starts = [index for index, one in enumerate(kept) if one.role == "assistant"]
        n_old = max(len(starts) - self._card.keeps_turns, 0)
        if not n_old:
            return kept, n_tokens
        first, end = starts[0], starts[n_old] if n_old < len(starts) else len(kept)
        for index in range(first, end):
            note = _LEFT_OUT.format(n=len(kept[index].content))
            if kept[index].role != "assistant" and len(note) < len(kept[index].content):
                n_tokens += self._counter.count(note) - self._counter.count(kept[index].content)
                kept[index] = replace(kept[index], content=note)
            if n_tokens <= n_most:
                return kept, n_tokens
        return self._without_turns(kept, starts[:n_old], end, n_most)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt."""
        return sum(map(self.count_one, messages)) + self.n_tool_tokens

    def count_one(self, message: Message) -> int:
        """Tokens of a message, tool calls and thinking included."""
        return self._counter.count_message(message)

    def _without_turns(
        self, kept: list[Message], starts: Sequence[int], end: int, n_most: int
    ) -> tuple[list[Message], int]:
        """Leave out whole turns, the oldest first; the first message says so."""
        for n_cut in range(1, len(starts) + 1):
            begin = starts[n_cut] if n_cut < len(starts) else end
            head = kept[: starts[0]]
            told = replace(head[-1], content=f"{head[-1].content}\n\n{_CUT.format(n=n_cut)}")
            shorter = [*head[:-1], told, *kept[begin:]]
            n_tokens = self.count(shorter)
            if n_tokens <= n_most or n_cut == len(starts):
                return shorter, n_tokens
        return kept, self.count(kept)

    def _called(self, calls: Sequence[ToolCall]) -> list[str]:
        assert self._card is not None
        found = []
        for call in calls:
            try:
                arguments = json.loads(call.arguments)
            except (ValueError, RecursionError):
                arguments = None
            value = arguments.get(self._card.tool.argument) if isinstance(arguments, dict) else None
            found.append(value if call.name == self._card.tool.name and isinstance(value, str) else "")
        return found

    def _filled(self, field: str, **values: object) -> str:
        if self._card is None:
            return str(values.get("problem", ""))
        try:
            return self._templates[field].render(**values)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            known = ", ".join(values)
            raise CardError(f"harness.{field}: {error}; the template may use {known}") from error


def _fenced(text: str) -> list[str]:
    return [match[1] for match in _FENCE.finditer(text)]


def _answers(said: Message, text: str) -> list[Message]:
    """An answer to a message: to its first tool call, if it has any; vendors insist on a word to each of the others."""
    if not said.tool_calls:
        return [Message(role="user", content=text)]
    first, *others = said.tool_calls
    return [
        Message(role="tool", content=text, tool_call_id=first.id),
        *(Message(role="tool", content="not executed", tool_call_id=call.id) for call in others),
    ]
