import pytest

from mtrouter_rl.envs.hle.actions import TOOLS, Action, NoAction, parse_action

NO_BASH = ("search", "browse", "python", "answer")


@pytest.mark.parametrize(
    ("text", "tool", "argument"),
    [
        ("search: heat of fusion", "search", "heat of fusion"),
        ("  Search :  heat of fusion  ", "search", "heat of fusion"),
        ("I should look it up first.\n\nsearch: iron", "search", "iron"),
        ("search:\n\niron\nand more", "search", "iron"),
        ("browse: https://example.org/a: b", "browse", "https://example.org/a: b"),
        ("python: print(1)", "python", "print(1)"),
        ("python:\nx = 1\nprint(x)\n", "python", "x = 1\nprint(x)"),
        ("python:\n```python\nx = 1\n\nprint(x)\n```\nThat is all.", "python", "x = 1\n\nprint(x)"),
        ("python:\n```\nprint(1)", "python", "print(1)"),
        ("python: import math\nprint(math.pi)", "python", "import math\nprint(math.pi)"),
        ("python:\n    print('indented')", "python", "    print('indented')"),
        ("ANSWER: 42", "answer", "42"),
        ("answer:\n42\nbecause", "answer", "42\nbecause"),
        ("search: a\nanswer: b", "search", "a"),
        ("Note: this is hard\nanswer: C", "answer", "C"),
        ("bash: ls\npwd", "bash", "ls\npwd"),
    ],
)
def test_actions(text, tool, argument):
    assert parse_action(text, TOOLS) == Action(tool=tool, argument=argument)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", "no_action", "No action found; write one action: search: ... | browse: ..."),
        ("I do not know.", "no_action", "No action found"),
        ("see https://example.org", "no_action", "No action found"),
        ("Action: search: iron", "unknown_tool", "There is no tool 'Action'"),
        ("bash: ls", "unknown_tool", "There is no tool 'bash'; write one action"),
        ("search:", "missing_argument", "Tool 'search' needs an argument"),
        ("python:\n```\n```", "missing_argument", "Tool 'python' needs an argument"),
        ("answer:  \n \n", "missing_argument", "Tool 'answer' needs an argument"),
    ],
)
def test_no_actions(text, error, message):
    parsed = parse_action(text, NO_BASH)
    assert isinstance(parsed, NoAction)
    assert parsed.error == error
    assert message in parsed.message
