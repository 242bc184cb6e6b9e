"""What a reply says, whole, streamed or broken."""

import json

import pytest

from mtrouter_rl.pools.remote.replies import read_reply
from mtrouter_rl.records import ToolCall

USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


def whole(message, **more):
    return json.dumps({"model": "m", "choices": [{"message": message}], "usage": USAGE} | more)


def stream(*chunks, done=True):
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + (["data: [DONE]\n\n"] if done else [])
    return "".join(events)


def delta(**fields):
    return {"model": "m", "choices": [{"index": 0, "delta": fields}]}


def test_a_whole_reply():
    said = read_reply(whole({"role": "assistant", "content": "Hi"}, system_fingerprint="fp"), is_stream=False)
    assert (said.text, said.model, said.usage, said.problem, said.fingerprint) == ("Hi", "m", USAGE, "", "fp")


def test_content_in_parts_and_tool_calls():
    call = {"id": "c1", "type": "function", "function": {"name": "act", "arguments": '{"action": "go"}'}}
    said = read_reply(
        whole({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "tool_calls": [call]}),
        is_stream=False,
    )
    assert said.text == "ab"
    assert said.tool_calls == (ToolCall(id="c1", name="act", arguments='{"action": "go"}'),)


def test_a_stream_adds_up_to_what_it_says():
    text = stream(
        delta(role="assistant"),
        delta(content="I "),
        delta(content="go"),
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "act", "arguments": '{"ac'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": 'tion": "go"}'}}]),
        {"choices": [], "usage": USAGE},
    )
    said = read_reply(": keep alive\n\n" + text, is_stream=True)
    assert (said.text, said.usage, said.problem) == ("I go", USAGE, "")
    assert said.tool_calls == (ToolCall(id="c1", name="act", arguments='{"action": "go"}'),)
    assert said.message["tool_calls"][0]["type"] == "function"


@pytest.mark.parametrize(
    ("text", "problem", "usage"),
    [
        (stream(delta(content="Hi"), done=False), "the stream ends in the middle", None),
        (stream(delta(content="Hi"), {"error": {"message": "overloaded"}}), "ends in an error", None),
        (stream(delta(content="Hi")).replace('"delta"', '"del', 1), "an event of the stream is no JSON", None),
        (stream({"choices": [], "usage": USAGE}), "has no choices.0.message.content", USAGE),
    ],
)
def test_a_stream_that_cannot_be_used(text, problem, usage):
    said = read_reply(text, is_stream=True)
    assert problem in said.problem
    assert said.usage == usage


def test_usage_model_and_text_are_saved_from_json_that_breaks_off():
    body = whole({"role": "assistant", "content": 'say "hi"\n'})
    said = read_reply(body[:-1], is_stream=False)
    assert (said.usage, said.model, said.text) == (USAGE, "m", 'say "hi"\n')
    assert "no usable JSON" in said.problem
    cut = read_reply(body[: body.index("hi") + 1], is_stream=False, problem="IncompleteRead")
    assert (cut.usage, cut.text, cut.problem) == (None, 'say "h', "IncompleteRead")


@pytest.mark.parametrize(
    "body", ["", "[]", '{"choices": [null]}', '{"choices": [{"message": {}}]}x', "\udcff", "[" * 500]
)
def test_what_is_no_reply_is_a_problem_and_nothing_worse(body):
    for is_stream in (False, True):
        assert read_reply(body, is_stream=is_stream).problem
