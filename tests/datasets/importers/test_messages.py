import pytest

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.messages import (
    HALF_CHARACTER,
    NO_TASK,
    OTHER_PARTS,
    THINKING,
    open_conversation,
    read_message,
    read_messages,
)


def text(words):
    return {"type": "text", "text": words}


CALL = '[{"name": "ls", "arguments": {"path": "/"}}]'
ARGUMENTS = '{"path": "/"}'
ANSWERS = {
    "text": ({"content": "I look."}, "I look."),
    "tool call": ({"content": None, "tool_calls": [{"function": {"name": "ls", "arguments": ARGUMENTS}}]}, CALL),
    "function_call": ({"content": None, "function_call": {"name": "ls", "arguments": ARGUMENTS}}, CALL),
    "null function_call": ({"content": "I look.", "function_call": None, "tool_calls": None}, "I look."),
    "custom tool": (
        {"tool_calls": [{"type": "custom", "custom": {"name": "bash", "input": "ls"}}]},
        '[{"name": "bash", "arguments": "ls"}]',
    ),
    "flat call": ({"tool_calls": [{"name": "ls", "args": {"path": "/"}, "id": "x"}]}, CALL),
    "Anthropic": (
        {"content": [text("I look."), {"type": "tool_use", "id": "x", "name": "ls", "input": {"path": "/"}}]},
        "I look.\n" + CALL,
    ),
    "Gemini": (
        {"role": "model", "parts": [{"text": "I look."}, {"functionCall": {"name": "ls", "args": {"path": "/"}}}]},
        "I look.\n" + CALL,
    ),
    "refusal": ({"content": None, "refusal": "I will not."}, "I will not."),
    "refusal part": ({"content": [{"type": "refusal", "refusal": "I will not."}]}, "I will not."),
    "empty": ({"content": None}, ""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_form_of_an_answer_has_the_same_action(name):
    raw, action = ANSWERS[name]
    message = read_message({"role": "assistant"} | raw)
    assert (message.role, message.action_text, message.left_out) == ("assistant", action, ())
    assert read_message(message) is message


OBSERVATIONS = {
    "tool": {"role": "tool", "content": "bin etc"},
    "tool with parts": {"role": "tool", "content": [text("bin etc")]},
    "function": {"role": "function", "name": "ls", "content": "bin etc"},
    "tool_result": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "bin etc"}]},
    "tool_result with parts": {"role": "user", "content": [{"type": "tool_result", "content": [text("bin etc")]}]},
    "Responses": {"type": "function_call_output", "call_id": "1", "output": "bin etc"},
    "Responses with parts": {"type": "custom_tool_call_output", "output": [{"type": "input_text", "text": "bin etc"}]},
    "Gemini": {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": "bin etc"}}]},
    "a single part": {"role": "user", "content": text("bin etc")},
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_form_of_what_a_tool_gave_back_is_the_same_text(name):
    message = read_message(OBSERVATIONS[name])
    assert (message.role in ("tool", "function", "user"), message.text) == (True, "bin etc")


@pytest.mark.parametrize(
    ("raw", "left_out"),
    [
        (
            {"role": "user", "content": [text("A cat."), {"type": "image_url", "image_url": {}}]},
            (OTHER_PARTS, "image_url"),
        ),
        ({"role": "user", "content": [text("A cat."), {"type": "input_audio"}]}, (OTHER_PARTS, "input_audio")),
        ({"role": "user", "parts": [{"text": "A cat."}, {"inlineData": {"data": "x"}}]}, (OTHER_PARTS, "inlineData")),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, text("A cat.")]}, (THINKING, "")),
        ({"role": "assistant", "content": "A cat.", "reasoning_content": "hm"}, (THINKING, "")),
        ({"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "A cat."}]}, (THINKING, "")),
    ],
)
def test_what_is_left_out_is_said(raw, left_out):
    message = read_message(raw)
    assert (message.text, message.left_out) == ("A cat.", (left_out,))


def test_half_characters():
    message = read_message({"role": "assistant", "content": "ok \ud83d"})
    assert (message.text, message.left_out) == ("ok \ufffd", ((HALF_CHARACTER, ""),))
    whole = read_message({"role": "assistant", "content": "ok \ud83d\ude00"})
    assert (whole.text, whole.left_out) == ("ok \U0001f600", ((HALF_CHARACTER, ""),))
    call = read_message({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": "\ude00"}}]})
    assert call.action_text == '[{"name": "f", "arguments": {"a": "\ufffd"}}]'


def test_items_of_one_answer_become_one_message():
    items = [
        {"role": "user", "content": "Look."},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "name": "ls", "arguments": ARGUMENTS, "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "bin"},
        {"type": "local_shell_call", "action": {"command": ["ls"]}, "call_id": "2", "status": "completed"},
    ]
    messages = read_messages(items)
    assert [(one.role, one.action_text) for one in messages] == [
        ("user", "Look."),
        ("assistant", "I look.\n" + CALL),
        ("tool", "bin"),
        ("assistant", '[{"name": "local_shell", "arguments": {"action": {"command": ["ls"]}}}]'),
    ]
    assert [one.text for one in read_messages("Look.")] == ["Look."]


@pytest.mark.parametrize(
    ("raws", "message"),
    [
        (
            [{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}],
            r"messages.1.role is 'bot', must be one of",
        ),
        ([{"content": "x"}], "messages.0.role: "),
        ([{"role": "user", "content": 5}], r"messages.0.*content must be a text, a list of parts, or null \(is 5\)"),
        ([7], "messages.0"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
            "messages.0.tool_calls.0.function.name: Field required",
        ),
        ([{"role": "assistant", "tool_calls": 7}], r"messages.0.tool_calls.*\(is 7\)"),
    ],
)
def test_what_is_no_message_is_named_with_its_place(raws, message):
    with pytest.raises(UnusableEpisodeError, match=message):
        read_messages(raws)


def test_a_conversation_that_still_goes_on():
    raws = [("system", "S"), ("user", "T"), ("user", "more"), ("assistant", "a"), ("assistant", "b"), ("tool", "o")]
    talk = open_conversation(read_messages([{"role": role, "content": words} for role, words in raws]))
    assert (talk.system_text, talk.task_text, talk.first_observation) == ("S", "T", "more")
    assert [(one.index, one.action_text, one.observation_text) for one in talk.answers] == [(3, "a", ""), (4, "b", "o")]
    assert open_conversation(read_messages("T")).answers == ()
    with pytest.raises(UnusableEpisodeError, match="none of role 'user'") as caught:
        open_conversation(read_messages([{"role": "system", "content": "S"}]))
    assert caught.value.reason == NO_TASK
