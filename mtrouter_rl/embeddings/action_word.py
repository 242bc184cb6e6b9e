"""What an action is, in a word: for whoever counts kinds of action."""

import re

_CALL = re.compile(r'\[\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"')
_COMMAND = re.compile(r'"(?:command|cmd)"\s*:\s*(?:\[\s*)?"\s*((?:[^"\\\s]|\\[^nrt])+)')
_FENCED = re.compile(r"```[^\n]*\n\s*([^\s`]+).*?```", re.DOTALL)
_THOUGHT = re.compile(r"\s*(?:thought|reasoning)\b", re.IGNORECASE)
_ACTION = re.compile(r"^[ \t]*action[ \t]*:[ \t]*([^\s\[(]+)", re.IGNORECASE | re.MULTILINE)


def action_word(text: str) -> str:
    r"""The tool or the command that an action calls, else its first word; "" of an empty text.

    Looked for in this order: tool calls as importers write them (a JSON list in the last line), with the first word of what
    the tool is told to run; the first word of the last block of code between fences; what follows "Action:", where the text
    begins with a thought; the first word.

    Example:
        >>> action_word("open the door")
        'open'
        >>> action_word('I look.\n[{"name": "bash", "arguments": {"command": "ls -l"}}]')
        'bash:ls'
        >>> action_word("THOUGHT: what is here?\n```bash\ngrep -r x .\n```")
        'grep'
        >>> action_word("Thought: find it.\nAction: search[lamp]")
        'search'
    """
    call = _CALL.match(text, text.rfind("\n") + 1)
    if call:
        command = _COMMAND.search(text, call.end())
        return f"{call[1]}:{command[1]}" if command else call[1]
    fenced = _FENCED.findall(text) if "```" in text else ()
    if fenced:
        return str(fenced[-1])
    named = _ACTION.findall(text) if _THOUGHT.match(text) else ()
    return str(named[-1]) if named else next(iter(text.split(maxsplit=1)), "")
