import pytest

from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import (
    BAD_COUNT,
    BAD_SHAPE,
    BROKEN_JSON,
    ChatMessage,
    LoggedCall,
    TurnBuilder,
    call_usage,
    differs,
    parse_object,
    split_conversation,
    validated,
)
from mtrouter_rl.pools.usage import known_tokens
from mtrouter_rl.records import TokenUsage


def chat(*rows):
    return [ChatMessage(role=role, content=content) for role, content in rows]


def test_messages_become_task_first_observation_and_answers():
    talk = split_conversation(
        chat(
            ("system", "Be kind."),
            ("developer", "Be short."),
            ("user", "Fix it."),
            ("user", "Here is the file."),
            ("assistant", "look"),
            ("tool", "a door"),
            ("user", "Go on."),
            ("assistant", "open"),
        )
    )
    assert talk.system_text == "Be kind.\n\nBe short."
    assert (talk.task_text, talk.first_observation) == ("Fix it.", "Here is the file.")
    shown = [(answer.index, answer.action_text, answer.observation_text) for answer in talk.answers]
    assert shown == [(4, "look", "a door\n\nGo on."), (7, "open", "")]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "0 messages, none of role 'assistant'"),
        (chat(("user", "Hi")), "1 messages, none of role 'assistant'"),
        (chat(("assistant", "Hi"), ("user", "Hi")), "0 messages before the first answer, none of role 'user'"),
        (chat(("user", "Hi"), ("assistant", "a"), ("assistant", "b")), "messages 1 and 2 are both answers"),
        (chat(("user", "Hi"), ("robot", "a")), r"messages.1.role is 'robot', must be one of system, developer, user"),
    ],
)
def test_what_is_no_conversation(messages, message):
    with pytest.raises(UnusableEpisodeError, match=message):
        split_conversation(messages)


def test_answers_in_a_row_where_the_environment_may_be_silent():
    talk = split_conversation(chat(("user", "Hi"), ("assistant", "a"), ("assistant", "b")), may_be_silent=True)
    assert [(answer.action_text, answer.observation_text) for answer in talk.answers] == [("a", ""), ("b", "")]


def test_parts_are_joined_and_others_counted():
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    message = ChatMessage(role="user", content=[{"type": "text", "text": "one"}, image, "two"])
    assert (message.text, message.n_other_parts) == ("one\ntwo", 1)
    assert (ChatMessage(role="assistant").text, ChatMessage(role="assistant").n_other_parts) == ("", 0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ({"function": {"name": "run", "arguments": '{"n": 1}'}, "id": "x"}, '[{"name": "run", "arguments": {"n": 1}}]'),
        ({"function": {"name": "run", "arguments": "{broken"}}, '[{"name": "run", "arguments": "{broken"}]'),
        ({"name": "run", "arguments": {"n": 1}}, '[{"name": "run", "arguments": {"n": 1}}]'),
    ],
)
def test_tool_calls_are_part_of_the_action(call, text):
    message = validated(ChatMessage, {"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.action_text == text


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        (None, "^token count that is missing or invalid: usage is missing; the tokens of the call are not known"),
        ([1], r"usage is \[1\], no object"),
        (
            {"prompt_tokens": -1, "completion_tokens": 5},
            "usage.prompt_tokens is -1, must be a whole number of tokens >= 0",
        ),
    ],
)
def test_tokens_that_cannot_be(usage, message):
    with pytest.raises(UnusableEpisodeError, match=message) as caught:
        call_usage(usage)
    assert caught.value.reason == BAD_COUNT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": [1, 2', "Expecting"),
        (b"\x00\xff\xfe\x9d\x01", "begins with"),
        (b"", "is empty"),
        (b"[1, 2]", "is a list"),
        (b"[" * 100_000, "begins with"),
    ],
)
def test_what_is_no_json_object(data, message):
    with pytest.raises(UnusableEpisodeError, match=message) as caught:
        parse_object(data)
    assert caught.value.reason == BROKEN_JSON


def test_numbers_that_are_none_become_texts():
    assert parse_object(b'{"a": NaN, "b": -Infinity}') == {"a": "NaN", "b": "-Infinity"}


def test_a_field_that_breaks_its_rule_is_named_with_its_value():
    with pytest.raises(UnusableEpisodeError, match=r"role: .* valid string \(is 3\); 1 more") as caught:
        validated(ChatMessage, {"role": 3, "content": 4.5, "tool_calls": None} | {"content": None, "tool_calls": 7})
    assert caught.value.reason == BAD_SHAPE


@pytest.fixture
def builder(pool):
    return TurnBuilder(ImportSource(paths=(), pool=pool, report=ImportReport(format="test")))


def test_turns_are_priced_by_the_model_that_answered_and_end_once(builder, pool):
    tokens = TokenUsage(n_fresh=1000, n_output=100)
    usage = known_tokens(tokens)
    calls = [
        LoggedCall(model="cheap", served_model="strong", usage=usage, propensity=0.5, candidates=("cheap",)),
        LoggedCall(model="cheap", served_model="cheap", usage=usage, propensity=None, logged_cost_usd=0.5),
    ]
    turns = builder.turns([("a", "b"), ("c", "")], calls, [0.0, 1.0], "truncated")
    assert [turn.cost_usd for turn in turns] == [
        pool.model(name).prices.cost_usd(tokens) for name in ("strong", "cheap")
    ]
    assert [turn.action_mask for turn in turns] == [(True, False), (True, True)]
    assert [(turn.terminated, turn.truncated) for turn in turns] == [(False, False), (False, True)]
    builder.note_costs(turns, calls, source="here")
    notes = builder.report.to_json()["notes"]
    assert [(name, found["examples"][0]["detail"]) for name, found in notes.items()] == [
        ("answer whose logged cost is missing", "1 of 2 answers"),
        (
            "logged cost that differs from tokens times the pool's prices by more than 1%",
            "1 of 1 answers; in all logged 0.5 USD, computed 0.00014 USD",
        ),
    ]


def test_an_unknown_model_names_the_nearest(builder):
    with pytest.raises(
        UnusableEpisodeError, match=r"unknown model of pool 'other-name' 'stron'; did you mean 'strong'"
    ):
        builder.model(None, "stron")
    with pytest.raises(UnusableEpisodeError, match="no name of a model"):
        builder.model(None)


def test_one_percent():
    assert not differs(1.0099, 1.0)
    assert differs(1.0101, 1.0)
    assert differs(0.1, 0.0)
