"""What an action is, in a word, in the forms that logs of agents have."""

import pytest

from mtrouter_rl.datasets.importers.messages import ChatMessage, ToolCall
from mtrouter_rl.embeddings.action_word import action_word


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", ""),
        ("  \n ", ""),
        ("go north", "go"),
        ("Let me see.\n\n```bash\ncd src\n```\nand then\n```\n  pytest -q\n```", "pytest"),
        ("it says ``` and never closes", "it"),
        ("Thought: a lamp?\nAction: search[lamp]\nAction: finish(lamp)", "finish"),
        ("Action: open door", "Action:"),
    ],
)
def test_the_word_of_an_action_that_is_text(text, word):
    assert action_word(text) == word


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("look", {"at": "door"}, "look"),
        ("bash", {"command": "  grep -r x ."}, "bash:grep"),
        ("shell", {"cmd": ["ls", "-l"]}, "shell:ls"),
        ("edit", {"path": "a.py", "command": "create"}, "edit:create"),
        ('say "hi"', {}, 'say \\"hi\\"'),
    ],
)
@pytest.mark.parametrize("content", ["", "I will.\nNow:"])
def test_the_word_of_an_action_that_calls_a_tool(name, arguments, word, content):
    message = ChatMessage(role="assistant", content=content, tool_calls=[ToolCall(name=name, arguments=arguments)])
    assert action_word(message.action_text) == word
