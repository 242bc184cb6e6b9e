"""Whose usage has which names, and what a number of theirs includes.

Sources: the published API references of OpenAI (chat completions, responses), Anthropic (messages), Google (Gemini API
`UsageMetadata`), DeepSeek, OpenRouter (usage accounting), xAI, AWS Bedrock (Converse), Ollama, llama.cpp (server),
LiteLLM (`Usage`), LangChain (`UsageMetadata`), Inspect (`ModelUsage`) and Vercel's AI SDK.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Names of one form of usage; several names of a count say the same and must agree.

    Attributes:
        name: Whose form it is.
        prompt: Prompt tokens; the first that is there counts.
        output: Generated tokens; the first that is there counts.
        marks: One of these keys must be there.
        total: All tokens of the call.
        cached: Prompt tokens read from the cache.
        written: Prompt tokens written to the cache.
        beside: Further prompt tokens that no other count includes.
        reasoning: Hidden tokens of thinking.
        has_cache_inside: Whether the prompt includes cached and written tokens.
        has_reasoning_inside: Whether the output includes reasoning.
        leaves_out_zeros: Whether an output that is missing is none.
    """

    name: str
    prompt: tuple[str, ...]
    output: tuple[str, ...]
    marks: tuple[str, ...] = ()
    total: tuple[str, ...] = ("total_tokens",)
    cached: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    has_cache_inside: bool = True
    has_reasoning_inside: bool = True
    leaves_out_zeros: bool = False


_GEMINI = {
    "prompt": ("promptTokenCount", "prompt_token_count"),
    "output": ("candidatesTokenCount", "candidates_token_count", "responseTokenCount", "response_token_count"),
}
DIALECTS = (
    Dialect(
        name="gemini",
        marks=("promptTokenCount", "prompt_token_count", "candidatesTokenCount", "candidates_token_count"),
        prompt=_GEMINI["prompt"],
        output=_GEMINI["output"],
        total=("totalTokenCount", "total_token_count"),
        cached=("cachedContentTokenCount", "cached_content_token_count"),
        beside=("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
        reasoning=("thoughtsTokenCount", "thoughts_token_count"),
        has_reasoning_inside=False,
        leaves_out_zeros=True,
    ),
    Dialect(
        name="deepseek",
        marks=("prompt_cache_hit_tokens",),
        prompt=("prompt_tokens",),
        output=("completion_tokens",),
        cached=("prompt_cache_hit_tokens", "prompt_tokens_details.cached_tokens"),
        reasoning=("completion_tokens_details.reasoning_tokens",),
    ),
    Dialect(
        name="openai-chat",
        marks=("prompt_tokens", "completion_tokens"),
        prompt=("prompt_tokens",),
        output=("completion_tokens",),
        cached=(
            "prompt_tokens_details.cached_tokens",
            "prompt_tokens_details.cache_read_tokens",
            "prompt_tokens_details.cache_read_input_tokens",
            "cache_read_input_tokens",
            "cache_read_tokens",
            "cached_tokens",
            "input_tokens_details.cached_tokens",
        ),
        written=(
            "prompt_tokens_details.cache_write_tokens",
            "prompt_tokens_details.cache_creation_tokens",
            "prompt_tokens_details.cache_creation_input_tokens",
            "cache_creation_input_tokens",
            "cache_write_tokens",
        ),
        reasoning=(
            "completion_tokens_details.reasoning_tokens",
            "output_tokens_details.reasoning_tokens",
            "reasoning_tokens",
        ),
    ),
    Dialect(
        name="inspect",
        marks=("input_tokens_cache_read", "input_tokens_cache_write"),
        prompt=("input_tokens",),
        output=("output_tokens",),
        cached=("input_tokens_cache_read",),
        written=("input_tokens_cache_write",),
        reasoning=("reasoning_tokens",),
        has_cache_inside=False,
    ),
    Dialect(
        name="langchain",
        marks=("input_token_details", "output_token_details"),
        prompt=("input_tokens",),
        output=("output_tokens",),
        cached=("input_token_details.cache_read",),
        written=("input_token_details.cache_creation",),
        reasoning=("output_token_details.reasoning",),
    ),
    Dialect(
        name="openai-responses",
        marks=("input_tokens_details", "output_tokens_details"),
        prompt=("input_tokens",),
        output=("output_tokens",),
        cached=("input_tokens_details.cached_tokens", "cache_read_input_tokens"),
        written=(
            "input_tokens_details.cache_write_tokens",
            "input_tokens_details.cache_creation_tokens",
            "cache_creation_input_tokens",
        ),
        reasoning=("output_tokens_details.reasoning_tokens",),
    ),
    Dialect(
        name="anthropic",
        marks=("input_tokens", "output_tokens"),
        prompt=("input_tokens",),
        output=("output_tokens",),
        cached=("cache_read_input_tokens", "cache_read_tokens"),
        written=("cache_creation_input_tokens", "cache_creation_tokens"),
        reasoning=("reasoning_tokens",),
        has_cache_inside=False,
    ),
    Dialect(
        name="ai-sdk",
        marks=("promptTokens", "completionTokens", "cachedInputTokens", "reasoningTokens"),
        prompt=("promptTokens", "inputTokens"),
        output=("completionTokens", "outputTokens"),
        total=("totalTokens",),
        cached=("cachedInputTokens",),
        reasoning=("reasoningTokens",),
    ),
    Dialect(
        name="bedrock",
        marks=("inputTokens", "outputTokens"),
        prompt=("inputTokens",),
        output=("outputTokens",),
        total=("totalTokens",),
        cached=("cacheReadInputTokens", "cacheReadInputTokenCount"),
        written=("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
        has_cache_inside=False,
    ),
    Dialect(
        name="ollama",
        marks=("prompt_eval_count", "eval_count"),
        prompt=("prompt_eval_count",),
        output=("eval_count",),
        total=(),
        leaves_out_zeros=True,
    ),
    Dialect(
        name="llama.cpp",
        marks=("prompt_n", "predicted_n"),
        prompt=("prompt_n",),
        output=("predicted_n",),
        total=(),
        cached=("cache_n",),
        has_cache_inside=False,
    ),
)
"""In the order in which they are looked for: the first of which a mark is there is read."""
