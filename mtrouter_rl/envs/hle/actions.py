"""What a model writes in a turn: one tool call or the answer.

A line that begins with the name of a tool and a colon starts the action; text before it is taken for reasoning and ignored.
The argument is the rest of the line. A program may also stand below it, fenced or not; an answer may go on below.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tool = Literal["search", "browse", "python", "bash", "answer"]
TOOLS: tuple[Tool, ...] = ("search", "browse", "python", "bash", "answer")

_HEAD = re.compile(r"^[ \t]*([A-Za-z_]+)[ \t]*:[ \t]*(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Action:
    """A tool call.

    Attributes:
        tool: Which tool.
        argument: Query, document, program or answer; never empty.
    """

    tool: Tool
    argument: str


@dataclass(frozen=True, kw_only=True)
class NoAction:
    """A text that is no action.

    Attributes:
        error: "no_action", "unknown_tool" or "missing_argument".
        message: What the model is told.
    """

    error: str
    message: str


def parse_action(text: str, tools: Sequence[Tool]) -> Action | NoAction:
    r"""Read the action out of a reply.

    Args:
        text: The reply.
        tools: Tools that this environment offers.

    Example:
        >>> parse_action("I need a number.\npython: print(2**10)", TOOLS)
        Action(tool='python', argument='print(2**10)')
        >>> parse_action("I do not know.", TOOLS).error
        'no_action'
    """
    usage = f"write one action: {' | '.join(f'{tool}: ...' for tool in tools)}"
    heads = list(_HEAD.finditer(text))
    head = next((one for one in heads if one[1].lower() in tools), None)
    if head is None:
        first = text.strip().partition("\n")[0]
        named = _HEAD.match(first)
        if named and not named[2].startswith("//"):
            return NoAction(error="unknown_tool", message=f"There is no tool '{named[1]}'; {usage}.")
        return NoAction(error="no_action", message=f"No action found; {usage}.")
    tool = next(tool for tool in tools if tool == head[1].lower())
    argument = _argument(tool, head[2], text[head.end() :])
    if not argument:
        return NoAction(error="missing_argument", message=f"Tool '{tool}' needs an argument; {usage}.")
    return Action(tool=tool, argument=argument)


def _argument(tool: Tool, line: str, below: str) -> str:
    if tool in ("python", "bash"):
        whole = f"{line}\n{below.lstrip(chr(10))}" if line else below
        fenced = _FENCE.search(whole)
        return (fenced[1] if fenced else whole).strip("\n").rstrip()
    if tool == "answer":
        return f"{line}\n{below}".strip()
    return line.strip() or below.strip().partition("\n")[0].strip()
