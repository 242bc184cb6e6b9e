import pytest

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import UnknownNameError
from mtrouter_rl.pools.handover import as_raw, hindrance, prepare
from mtrouter_rl.records import Message, ToolCall


def pool_of(**handovers):
    price = {"input": 1.0, "cached_input": 1.0, "output": 1.0}
    models = [
        {
            "name": name,
            "prices": price,
            "context_tokens": 1000,
            "max_output_tokens": 10 + index,
            "handover": {key: value for key, value in handover.items() if key != "variant_of"},
            "variant_of": handover.get("variant_of"),
        }
        for index, (name, handover) in enumerate(handovers.items())
    ]
    return PoolCard.model_validate({"name": "p", "models": models})


POOL = pool_of(
    a={},
    a_high={"variant_of": "a"},
    b={},
    kin={"family": "f"},
    kin2={"family": "f"},
    sees={"images": True},
    blind={"images": False},
    plain={"tool_calls": False},
    nine={"tool_call_ids": "mistral"},
    strict={"needs_own_thinking": True},
)
THOUGHT = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s3cret"},
        {"type": "text", "text": "I look.", "thought_signature": "abc"},
    ],
    "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}],
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_0123456789", "type": "function", "function": {"name": "act", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "call_0123456789", "content": "done"}
USER = {"role": "user", "content": "go on"}


@pytest.mark.parametrize("to", ["a", "a_high"])
def test_a_model_and_its_variants_keep_their_thinking(to):
    prepared = prepare([USER, THOUGHT, USER], ["a"], to, POOL)
    assert list(prepared.messages) == [USER, THOUGHT, USER]
    assert prepared.stripped == {}


def test_a_family_keeps_its_thinking():
    assert prepare([THOUGHT], ["kin"], "kin2", POOL).stripped == {}
    assert prepare([THOUGHT], ["kin"], "b", POOL).stripped == {"thinking": 1, "signature": 1}


def test_what_another_model_thought_is_taken_out_and_nothing_else():
    prepared = prepare([USER, THOUGHT, USER], ["a"], "b", POOL)
    assert prepared.messages[1] == {"role": "assistant", "content": [{"type": "text", "text": "I look."}]}
    assert "s3cret" not in str(prepared.messages)
    assert prepared.stripped == {"thinking": 1, "signature": 1}
    assert hindrance([USER, THOUGHT, USER], ["a"], "b", POOL) == ""


def test_thinking_of_nobody_known_is_taken_out():
    assert prepare([THOUGHT], [""], "a", POOL).stripped == {"thinking": 1, "signature": 1}
    assert prepare([THOUGHT | {"model": "a"}], [], "a", POOL).stripped == {}


def test_ids_are_renamed_alike_in_call_and_answer():
    prepared = prepare([CALL, RESULT], ["a"], "nine", POOL)
    renamed = prepared.messages[0]["tool_calls"][0]["id"]
    assert renamed == prepared.messages[1]["tool_call_id"] != "call_0123456789"
    assert len(renamed) == 9
    assert renamed.isalnum()
    assert prepared.stripped == {"tool_call_id": 1}
    assert prepare([CALL, RESULT], ["a"], "b", POOL).messages == (CALL, RESULT)


def test_tool_calls_become_text_for_a_model_that_takes_none():
    prepared = prepare([CALL, RESULT], ["a"], "plain", POOL)
    assert prepared.messages == (
        {"role": "assistant", "content": '[{"name": "act", "arguments": "{}"}]'},
        {"role": "user", "content": "done"},
    )
    assert prepared.stripped == {"tool_calls": 2}


PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
IN_RESULT = {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}
SEALED = {"role": "assistant", "content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}


@pytest.mark.parametrize(
    ("messages", "authors", "to", "reason"),
    [
        ([PICTURE], [], "blind", "handover.images"),
        ([IN_RESULT], [], "blind", "handover.images"),
        ([PICTURE], [], "a", ""),
        ([PICTURE], [], "sees", ""),
        ([SEALED], ["a"], "b", "an answer of a is encrypted thinking and nothing else"),
        ([SEALED], ["a"], "a_high", ""),
        ([THOUGHT | {"previous_response_id": "r1"}], ["a"], "b", "kept by its vendor"),
        ([CALL, RESULT], ["a"], "strict", "tool calls of a are open"),
        ([CALL, RESULT], ["strict"], "strict", ""),
        ([CALL, RESULT, {"role": "assistant", "content": "done"}, USER], ["a", "a"], "strict", ""),
        ([{"role": "assistant", "content": ""}, USER], ["a"], "b", ""),
    ],
)
def test_who_cannot_take_over(messages, authors, to, reason):
    told = hindrance(messages, authors, to, POOL)
    assert (reason in told) if reason else told == ""


def test_a_model_that_is_not_there():
    with pytest.raises(UnknownNameError, match="did you mean 'kin'"):
        hindrance([USER], [], "kin3", POOL)


def test_messages_of_this_package_as_they_go_out():
    call = ToolCall(id="c1", name="act", arguments="{}")
    messages = [
        Message(role="user", content="go"),
        Message(role="assistant", content="", tool_calls=(call,), author="a"),
        Message(role="tool", content="ok", tool_call_id="c1"),
        Message(role="assistant", content="x", author="b", raw={"content": "x", "reasoning_content": "hm"}),
    ]
    raw, authors = as_raw(messages)
    assert authors == ("a", "b")
    assert raw == (
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "act", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "ok", "tool_call_id": "c1"},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
    )
