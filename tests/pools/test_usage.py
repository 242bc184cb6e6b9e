import pytest

from mtrouter_rl.errors import MTRouterError, UsageError
from mtrouter_rl.pools import usage as kinds
from mtrouter_rl.pools.usage import known_tokens, read_usage
from mtrouter_rl.records import TokenUsage


def tokens(fresh, cached=0, written=0, output=0):
    return TokenUsage(n_fresh=fresh, n_cached=cached, n_written=written, n_output=output)


OPENAI = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
DIALECTS = {
    "OpenAI": (OPENAI | {"prompt_tokens_details": {"cached_tokens": 900, "audio_tokens": 0}}, tokens(100, 900, 0, 50)),
    "OpenAI, reasoning inside": (
        OPENAI | {"completion_tokens_details": {"reasoning_tokens": 40}},
        tokens(1000, output=50),
    ),
    "Responses": (
        {
            "input_tokens": 1000,
            "input_tokens_details": {"cached_tokens": 900},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 40},
            "total_tokens": 1050,
        },
        tokens(100, 900, 0, 50),
    ),
    "Anthropic": (
        {"input_tokens": 3, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 25},
        tokens(3, 900, 100, 25),
    ),
    "Anthropic, cache by its age": (
        {
            "input_tokens": 3,
            "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
            "output_tokens": 25,
        },
        tokens(3, 0, 100, 25),
    ),
    "LiteLLM": (OPENAI | {"cache_read_input_tokens": 900, "cache_creation_input_tokens": 60}, tokens(40, 900, 60, 50)),
    "LiteLLM, 0 in the details": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 0}, "cache_read_input_tokens": 900},
        tokens(100, 900, 0, 50),
    ),
    "gateway whose prompt leaves the cache out": (
        OPENAI | {"cache_read_input_tokens": 900, "total_tokens": 1950},
        tokens(1000, 900, 0, 50),
    ),
    "Gemini": (
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 40,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 20,
            "toolUsePromptTokenCount": 7,
            "totalTokenCount": 132,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
        },
        tokens(67, 40, 0, 25),
    ),
    "Gemini without an answer": ({"promptTokenCount": 100, "totalTokenCount": 100}, tokens(100)),
    "DeepSeek": (
        OPENAI | {"prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100},
        tokens(100, 900, 0, 50),
    ),
    "OpenRouter": (
        OPENAI | {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 800}, "cost": 0.1},
        tokens(200, 0, 800, 50),
    ),
    "xAI": (
        OPENAI | {"total_tokens": 2050, "completion_tokens_details": {"reasoning_tokens": 1000}},
        tokens(1000, output=1050),
    ),
    "Moonshot": (OPENAI | {"cached_tokens": 900}, tokens(100, 900, 0, 50)),
    "LangChain": (
        {"input_tokens": 1000, "output_tokens": 50, "total_tokens": 1050, "input_token_details": {"cache_read": 900}},
        tokens(100, 900, 0, 50),
    ),
    "Inspect": (
        {"input_tokens": 100, "output_tokens": 50, "total_tokens": 1050, "input_tokens_cache_read": 900},
        tokens(100, 900, 0, 50),
    ),
    "Bedrock": (
        {"inputTokens": 100, "outputTokens": 50, "totalTokens": 1050, "cacheReadInputTokens": 900},
        tokens(100, 900, 0, 50),
    ),
    "AI SDK": ({"inputTokens": 1000, "outputTokens": 50, "cachedInputTokens": 900}, tokens(100, 900, 0, 50)),
    "Ollama": ({"prompt_eval_count": 26, "eval_count": 5, "total_duration": 10**9}, tokens(26, output=5)),
    "llama.cpp": ({"prompt_n": 26, "cache_n": 10, "predicted_n": 5, "prompt_ms": 3.5}, tokens(26, 10, 0, 5)),
    "whole floats": ({"prompt_tokens": 100.0, "completion_tokens": 10.0}, tokens(100, output=10)),
    "texts": ({"prompt_tokens": "100", "completion_tokens": " 10 "}, tokens(100, output=10)),
    "nulls": (
        OPENAI | {"prompt_tokens_details": None, "cache_read_input_tokens": None, "cost": None, "total_tokens": None},
        tokens(1000, output=50),
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect(name):
    raw, expected = DIALECTS[name]
    reading = read_usage(raw, answer_is_empty=not expected.n_output)
    assert reading.tokens == expected
    assert reading.unread == ()


@pytest.mark.parametrize(
    ("raw", "field", "message"),
    [
        (
            {"prompt_tokens": -1, "completion_tokens": 5},
            "prompt_tokens",
            "usage.prompt_tokens is -1, must be a whole number",
        ),
        ({"prompt_tokens": 1.5, "completion_tokens": 5}, "prompt_tokens", "is 1.5"),
        ({"prompt_tokens": True, "completion_tokens": 5}, "prompt_tokens", "is True"),
        ({"prompt_tokens": float("nan"), "completion_tokens": 5}, "prompt_tokens", "is nan"),
        ({"prompt_tokens": "NaN", "completion_tokens": 5}, "prompt_tokens", "is 'NaN'"),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, "prompt_tokens", "must be a whole number"),
        ({"prompt_tokens": [1], "completion_tokens": 5}, "prompt_tokens", r"is \[1\]"),
        ({"prompt_tokens": 1}, "completion_tokens", "usage.completion_tokens is None, is missing"),
        ({"completion_tokens": 1}, "prompt_tokens", "is missing; log the tokens of the prompt"),
        ({"tokens": 7, "n": {"a": 1}}, "", r"no count of tokens that is known \(has n.a, tokens\)"),
        ({}, "", "has nothing"),
        (
            OPENAI | {"total_tokens": 5000},
            "total_tokens",
            r"is 5000, but prompt_tokens \(1000\) and completion_tokens \(50\)",
        ),
        (OPENAI | {"input_tokens": 7}, "prompt_tokens", "input_tokens is 7"),
        (OPENAI | {"output_tokens": 7}, "completion_tokens", "output_tokens is 7"),
        (
            OPENAI | {"prompt_tokens_details": {"cached_tokens": 10}, "cache_read_input_tokens": 20},
            "prompt_tokens_details.cached_tokens",
            "but cache_read_input_tokens is 20",
        ),
        (OPENAI | {"prompt_tokens_details": {"cached_tokens": 1001}}, "prompt_tokens", "are more than that"),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 9}},
            "completion_tokens",
            "5 or 14 were generated; log total_tokens",
        ),
        (OPENAI | {"prompt_cache_hit_tokens": 1, "prompt_cache_miss_tokens": 1}, "prompt_tokens", "add up to 2"),
        (
            {"input_tokens": 1000, "cache_read_input_tokens": 900, "output_tokens": 50, "total_tokens": 1050},
            "total_tokens",
            "1000 or 1900 prompt tokens",
        ),
        (
            {"input_tokens": 3, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_5m_input_tokens": 8}}
            | {"output_tokens": 1},
            "cache_creation",
            "is 8, but cache_creation_input_tokens is 9",
        ),
    ],
)
def test_what_cannot_be(raw, field, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_usage(raw)
    assert caught.value.field == field
    assert isinstance(caught.value, MTRouterError)


def test_all_zero_beside_an_answer_is_an_error_and_beside_none_is_not():
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    with pytest.raises(UsageError, match="is all 0, but there is an answer"):
        read_usage(zero, answer_is_empty=False)
    assert read_usage(zero, answer_is_empty=True).tokens == tokens(0)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ({"prompt_tokens": 13, "completion_tokens": 0}, kinds.ZERO_OUTPUT),
        ({"prompt_tokens": 0, "completion_tokens": 3}, kinds.ZERO_PROMPT),
        (OPENAI | {"completion_tokens_details": {"reasoning_tokens": 60}}, kinds.ODD_REASONING),
        (OPENAI | {"total_tokens": 1110, "completion_tokens_details": {"reasoning_tokens": 60}}, kinds.OTHER_READING),
        (OPENAI | {"total_tokens": 0}, kinds.NO_TOTAL),
        (OPENAI | {"prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 9}, kinds.ODD_CACHE),
        (OPENAI | {"prompt_tokens_details": {"audio_tokens": 9}}, kinds.OTHER_PRICE),
        (OPENAI | {"server_tool_use": {"web_search_requests": 2}}, kinds.SERVER_TOOLS),
        (OPENAI | {"service_tier": "flex"}, kinds.SERVICE_TIER),
        (OPENAI | {"is_byok": True, "cost": 0.01}, kinds.NO_UPSTREAM),
        (OPENAI | {"cost": -1}, kinds.BAD_COST),
        (OPENAI | {"cost": "NaN"}, kinds.BAD_COST),
        (OPENAI | {"prompt_tokens": "1000"}, kinds.AS_TEXT),
        (
            {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": 5}},
            kinds.HOUR_CACHE,
        ),
    ],
)
def test_what_is_to_be_known(raw, kind):
    assert kind in dict(read_usage(raw, answer_is_empty=False).notes)


def test_more_tokens_than_the_window_holds():
    assert dict(read_usage(OPENAI, context_tokens=1049).notes) == {
        kinds.OVER_WINDOW: "1050 tokens, the window holds 1049"
    }
    assert read_usage(OPENAI, context_tokens=1050).notes == ()


@pytest.mark.parametrize(
    ("raw", "cost_usd"),
    [
        ({}, None),
        ({"cost": 0.5}, 0.5),
        ({"cost": {"total_cost": 0.25, "input_tokens_cost": 0.2}}, 0.25),
        ({"is_byok": True, "cost": 0.01, "cost_details": {"upstream_inference_cost": 0.2}}, 0.2),
        ({"is_byok": False, "cost": 0.2, "cost_details": {"upstream_inference_cost": 0.19}}, 0.2),
        ({"cost": 0, "cost_details": {"upstream_inference_cost": 0.2}}, 0.2),
        ({"is_byok": True, "cost": 0.01}, None),
    ],
)
def test_the_cost_is_never_a_fee_alone(raw, cost_usd):
    assert read_usage(OPENAI | raw).cost_usd == cost_usd


def test_keys_that_are_not_understood_are_named():
    raw = OPENAI | {
        "novel_tokens": 7,
        "details": {"deep": {"er": 1}, "none": None},
        "prompt_tokens_details": {"new": 2},
    }
    assert read_usage(raw).unread == ("details.deep.er", "novel_tokens", "prompt_tokens_details.new")


def test_tokens_that_are_known_already():
    reading = known_tokens(tokens(5), cost_usd=0.5)
    assert (reading.tokens, reading.cost_usd, reading.notes, reading.unread) == (tokens(5), 0.5, (), ())
