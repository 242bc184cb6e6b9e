"""One reader for what vendors, gateways and local servers say of the tokens of a call.

They count alike and name differently, and they differ in what a number includes. OpenAI's prompt includes what was read
from the cache, Anthropic's does not; Gemini's thoughts stand beside the answer, OpenAI's reasoning inside it, xAI's
beside it again under OpenAI's names. Where a total is given it decides between the readings; where it fits none, that is
an error. Nothing is passed over in silence: what is not understood is named in `UsageReading.unread`.

`usage_dialects` has the names.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mtrouter_rl.errors import UsageError
from mtrouter_rl.pools.usage_dialects import DIALECTS, Dialect
from mtrouter_rl.records import TokenUsage

OTHER_READING = "usage whose total says that it counts otherwise than its form usually does"
ODD_REASONING = "usage with more reasoning tokens than output tokens, of which its total says that they are no part"
ODD_CACHE = "usage that names the tokens of the prompt cache twice, one of them 0: the other counts"
NO_TOTAL = "usage with a total of 0 beside other counts, which is passed over"
HOUR_CACHE = "prompt tokens written to the cache for an hour, for which a pool card has no price of its own"
OTHER_PRICE = "tokens of sound or pictures, for which a pool card has no price of its own"
SERVER_TOOLS = "use of a vendor's own tools (web search), which costs money beside the tokens"
SERVICE_TIER = "call of another service tier than the usual one, whose prices differ"
ZERO_OUTPUT = "answer with a text and 0 output tokens, so that its cost is too low"
ZERO_PROMPT = "call with 0 prompt tokens, so that its cost is too low"
NO_UPSTREAM = "cost that is a gateway's fee alone (is_byok), which is not taken as the cost of the call"
BAD_COST = "reported cost that is no amount of money, which is passed over"
OVER_WINDOW = "call with more tokens than the context window of its model"
AS_TEXT = "usage whose counts are texts, read as numbers"

_MAX_COUNT = 2**63 - 1
_MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True)
class UsageReading:
    """Tokens of a call, and how they were found.

    Attributes:
        tokens: The tokens, split the way they are billed.
        cost_usd: What the provider says that the call cost, USD; None if it does not say. It is compared, never used.
        dialect: Whose names were read.
        notes: (kind, detail) of whatever a reader should know of it.
        unread: Dotted names of keys that were not understood.
    """

    tokens: TokenUsage
    cost_usd: float | None = None
    dialect: str = "tokens"
    notes: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


_EPHEMERAL = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_EPHEMERAL_PARENTS = (
    "cache_creation",
    "prompt_tokens_details.cache_creation_token_details",
    "prompt_tokens_details.cache_creation",
)
_COSTS = ("cost", "cost.total_cost", "total_cost", "cost_usd", "response_cost", "estimated_cost", "cost_total")
_UPSTREAM = "cost_details.upstream_inference_cost"
_UPSTREAM_PARTS = (
    "cost_details.upstream_inference_prompt_cost",
    "cost_details.upstream_inference_completions_cost",
    "cost_details.upstream_inference_input_cost",
    "cost_details.upstream_inference_output_cost",
)
_OTHER_KINDS = tuple(
    f"{parent}.{kind}_tokens"
    for parent in ("prompt_tokens_details", "completion_tokens_details", "input_tokens_details")
    for kind in ("audio", "image", "video")
)
_SERVER_TOOLS = (
    "server_tool_use.web_search_requests",
    "server_tool_use.web_fetch_requests",
    "server_tool_use_details.web_search_requests",
    "num_sources_used",
    "num_search_queries",
)
_TIERS = ("service_tier", "speed", "inference_geo")
_USUAL_TIERS = ("default", "standard", "auto", "not_available", "global", "on_demand", "")
_HARMLESS = frozenset(
    {
        "completion_tokens_details.accepted_prediction_tokens",
        "completion_tokens_details.rejected_prediction_tokens",
        "completion_tokens_details.text_tokens",
        "prompt_tokens_details.text_tokens",
        "prompt_cache_miss_tokens",
        "is_byok",
        "object",
        "trafficType",
        "traffic_type",
        "iterations",
        *(f"{part}_time" for part in ("queue", "prompt", "completion", "total")),
        *(f"{part}_duration" for part in ("total", "load", "prompt_eval", "eval")),
        *(f"{part}_{unit}" for part in ("prompt", "predicted") for unit in ("ms", "per_token_ms", "per_second")),
        *(f"{part}TokensDetails" for part in ("prompt", "candidates", "cache", "toolUsePrompt", "response")),
        *(f"{part}_tokens_details" for part in ("candidates", "cache", "tool_use_prompt", "response")),
    }
)
"""Keys that change neither tokens nor money: parts of other counts, and how long things took."""


def read_usage(
    raw: Mapping[str, object], *, answer_is_empty: bool | None = None, context_tokens: int | None = None
) -> UsageReading:
    """Tokens of a call from whatever form its usage has.

    Args:
        raw: The usage as it was logged or returned.
        answer_is_empty: Whether the answer has neither text nor tool calls; None if that is not known.
        context_tokens: Context window of the model that answered; None if it is not known.

    Raises:
        UsageError: If a count is missing, is no whole number of at least 0, or two counts contradict each other.

    Example:
        >>> read_usage({"input_tokens": 3, "cache_read_input_tokens": 900, "output_tokens": 25}).tokens
        TokenUsage(n_fresh=3, n_cached=900, n_written=0, n_output=25)
        >>> read_usage({"prompt_tokens": 903, "completion_tokens": 25, "prompt_tokens_details": {"cached_tokens": 900}}).tokens
        TokenUsage(n_fresh=3, n_cached=900, n_written=0, n_output=25)
    """
    return _Reading(raw).read(answer_is_empty, context_tokens)


def known_tokens(tokens: TokenUsage, *, cost_usd: float | None = None) -> UsageReading:
    """Reading of tokens that were worked out elsewhere, such as from totals of a session."""
    return UsageReading(tokens=tokens, cost_usd=cost_usd)


@dataclass
class _Reading:
    """One reading in progress.

    Attributes:
        raw: What is read.
        values: Its values by dotted name, without those that are null.
        read_keys: Names that were understood.
        notes: Kind and detail.
    """

    raw: Mapping[str, object]
    values: dict[str, object] = field(init=False)
    read_keys: set[str] = field(default_factory=set)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = dict(_flat(self.raw))

    def read(self, answer_is_empty: bool | None, context_tokens: int | None) -> UsageReading:
        dialect = self._dialect()
        tokens = self._tokens(dialect)
        self._check_zeros(tokens, answer_is_empty)
        cost_usd = self._cost()
        self._note_what_costs_more()
        n_all = tokens.n_prompt + tokens.n_output
        if context_tokens is not None and n_all > context_tokens:
            self.notes.append((OVER_WINDOW, f"{n_all} tokens, the window holds {context_tokens}"))
        return UsageReading(
            tokens=tokens,
            cost_usd=cost_usd,
            dialect=dialect.name,
            notes=tuple(self.notes),
            unread=tuple(sorted(name for name in self.values if not self._is_read(name))),
        )

    def _is_read(self, name: str) -> bool:
        return name in self.read_keys or name in _HARMLESS or name.partition(".")[0] in _HARMLESS

    def _dialect(self) -> Dialect:
        parents = {name.partition(".")[0] for name in self.values}
        for dialect in DIALECTS:
            if parents & set(dialect.marks):
                return dialect
        named = ", ".join(sorted(self.values)) or "nothing"
        raise _wrong(
            "",
            self.raw,
            f"has no count of tokens that is known (has {named:.120}); log prompt_tokens and completion_tokens",
        )

    def _tokens(self, dialect: Dialect) -> TokenUsage:
        n_output = self._first(dialect.output)
        n_cached = self._agreed(dialect.cached)
        n_written = self._written(dialect)
        n_prompt = self._first(dialect.prompt)
        n_missed = self._first(("prompt_cache_miss_tokens",))
        if n_missed is not None:
            n_prompt = self._hit_and_missed(n_prompt, n_cached, n_missed)
        if n_prompt is None:
            raise _wrong(dialect.prompt[0], None, "is missing; log the tokens of the prompt as billed")
        if n_output is None:
            if not dialect.leaves_out_zeros:
                raise _wrong(dialect.output[0], None, "is missing; log the tokens of the answer as billed")
            n_output = 0
        n_beside = self._first(dialect.beside) or 0
        n_reasoning = self._agreed(dialect.reasoning)
        has_cache_inside, has_reasoning_inside = self._decide(
            dialect,
            n_prompt=n_prompt + n_beside,
            n_output=n_output,
            n_cache=n_cached + n_written,
            n_reasoning=n_reasoning,
        )
        self._compare_other_names(dialect, n_prompt, n_output, n_cached + n_written)
        fresh = n_prompt - (n_cached + n_written if has_cache_inside else 0)
        if fresh < 0:
            raise _wrong(
                dialect.prompt[0],
                n_prompt,
                f"but cached ({n_cached}) and written ({n_written}) tokens are more than that, which they are part of; "
                "log total_tokens if they are not",
            )
        return TokenUsage(
            n_fresh=fresh + n_beside,
            n_cached=n_cached,
            n_written=n_written,
            n_output=n_output if has_reasoning_inside else n_output + n_reasoning,
        )

    def _hit_and_missed(self, n_prompt: int | None, n_hit: int, n_missed: int) -> int:
        if n_prompt is not None and n_prompt != n_hit + n_missed:
            raise _wrong(
                "prompt_tokens",
                n_prompt,
                f"but prompt_cache_hit_tokens and prompt_cache_miss_tokens add up to {n_hit + n_missed}",
            )
        return n_hit + n_missed

    def _decide(
        self, dialect: Dialect, *, n_prompt: int, n_output: int, n_cache: int, n_reasoning: int
    ) -> tuple[bool, bool]:
        """Whether the prompt includes the cache, and the output the reasoning: as its total says, else as its form does.

        Raises:
            UsageError: If the total fits no reading, or there is none where one is needed.
        """
        usual = (dialect.has_cache_inside, dialect.has_reasoning_inside)
        others = [(usual[0], not usual[1]), (not usual[0], usual[1]), (not usual[0], not usual[1])]
        total = self._first(dialect.total)
        if total == 0 and n_prompt + n_output:
            self.notes.append((NO_TOTAL, ""))
            total = None
        if total is None:
            if usual[1] and n_reasoning > n_output:
                raise _wrong(
                    dialect.output[0],
                    n_output,
                    f"but {n_reasoning} reasoning tokens are more than that: {n_output} or {n_output + n_reasoning} were "
                    "generated; log total_tokens, which decides",
                )
            return usual
        for reading in (usual, *others):
            cache_inside, reasoning_inside = reading
            n_all = n_prompt + n_output + (0 if cache_inside else n_cache) + (0 if reasoning_inside else n_reasoning)
            if n_all == total:
                self._note_reading(reading, usual, n_cache, n_reasoning, n_output)
                if reading != usual and not usual[0] and cache_inside and n_cache:
                    raise _wrong(
                        dialect.total[0],
                        total,
                        f"which leaves out {n_cache} cached and written tokens, or says that {dialect.prompt[0]} "
                        f"({n_prompt}) includes them: {n_prompt} or {n_prompt + n_cache} prompt tokens; log a total of all",
                    )
                return reading
        raise _wrong(
            dialect.total[0],
            total,
            f"but {dialect.prompt[0]} ({n_prompt}) and {dialect.output[0]} ({n_output}) add up to {n_prompt + n_output}; "
            "log the counts as billed",
        )

    def _note_reading(
        self, reading: tuple[bool, bool], usual: tuple[bool, bool], n_cache: int, n_reasoning: int, n_output: int
    ) -> None:
        if reading[1] and n_reasoning > n_output:
            self.notes.append((ODD_REASONING, f"{n_reasoning} reasoning, {n_output} output"))
        if reading[1] != usual[1] and n_reasoning:
            place = "inside" if reading[1] else "outside"
            self.notes.append(
                (OTHER_READING, f"{n_reasoning} reasoning tokens are {place} the {n_output} of the output")
            )
        if reading[0] != usual[0] and n_cache:
            place = "inside" if reading[0] else "outside"
            self.notes.append((OTHER_READING, f"{n_cache} cached and written tokens are {place} the prompt"))

    def _compare_other_names(self, dialect: Dialect, n_prompt: int, n_output: int, n_cache: int) -> None:
        """See that a second pair of names (input_tokens beside prompt_tokens) says the same."""
        if dialect.name not in ("openai-chat", "deepseek"):
            return
        n_input, n_out = self._first(("input_tokens",)), self._first(("output_tokens",))
        if n_input is not None and n_input not in (n_prompt, n_prompt - n_cache):
            raise _wrong("prompt_tokens", n_prompt, f"but input_tokens is {n_input}; log the one that was billed")
        if n_out is not None and n_out != n_output:
            raise _wrong("completion_tokens", n_output, f"but output_tokens is {n_out}; log the one that was billed")

    def _written(self, dialect: Dialect) -> int:
        """Tokens written to the cache; Anthropic splits them by how long they are kept."""
        parts = [self._first((f"{parent}.{part}",)) for parent in _EPHEMERAL_PARENTS for part in _EPHEMERAL]
        pairs = [(short or 0, long or 0) for short, long in zip(parts[::2], parts[1::2], strict=True)]
        short, long = max(pairs, key=sum)
        if long:
            self.notes.append((HOUR_CACHE, f"{long} tokens"))
        n_written = self._agreed(dialect.written)
        if n_written and short + long and n_written != short + long:
            raise _wrong(
                "cache_creation", short + long, f"but {dialect.written[0]} is {n_written}; log the tokens as billed"
            )
        return n_written or short + long

    def _first(self, names: tuple[str, ...]) -> int | None:
        for name in names:
            if name in self.values:
                return self._count(name)
        return None

    def _agreed(self, names: tuple[str, ...]) -> int:
        """A count that several names may give: 0 if none does.

        Raises:
            UsageError: If two of them differ and neither is 0.
        """
        given = [(name, self._count(name)) for name in names if name in self.values]
        most = max(given, key=lambda pair: pair[1], default=("", 0))
        for name, n in given:
            if n not in (0, most[1]):
                raise _wrong(name, n, f"but {most[0]} is {most[1]}; log the one that was billed")
        if most[1] and any(n == 0 for _, n in given):
            self.notes.append((ODD_CACHE, f"{most[0]} is {most[1]}"))
        return most[1]

    def _count(self, name: str) -> int:
        value = self.values[name]
        self.read_keys.add(name)
        if (
            isinstance(value, str)
            and value.strip().isascii()
            and value.strip().isdecimal()
            and len(value) < len(str(_MAX_COUNT))
        ):
            self.notes.append((AS_TEXT, name))
            return int(value)
        is_whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
        if isinstance(value, bool) or not is_whole or not 0 <= value <= _MAX_COUNT:  # type: ignore[operator]
            raise _wrong(name, value, "must be a whole number of tokens >= 0")
        return int(value)  # type: ignore[call-overload,no-any-return]

    def _check_zeros(self, tokens: TokenUsage, answer_is_empty: bool | None) -> None:
        if answer_is_empty is False and not tokens.n_prompt and not tokens.n_output:
            raise _wrong("", self.raw, "is all 0, but there is an answer; log the tokens as billed")
        if answer_is_empty is False and not tokens.n_output:
            self.notes.append((ZERO_OUTPUT, ""))
        if not tokens.n_prompt:
            self.notes.append((ZERO_PROMPT, ""))

    def _cost(self) -> float | None:
        given = [(name, self.values[name]) for name in _COSTS if name in self.values]
        self.read_keys |= {name for name, _ in given} | {_UPSTREAM, *_UPSTREAM_PARTS}
        cost = self._amount(*given[0]) if given else None
        upstream = self._amount(_UPSTREAM, self.values[_UPSTREAM]) if _UPSTREAM in self.values else None
        if self.values.get("is_byok") is True:
            if upstream is None:
                self.notes.append((NO_UPSTREAM, "" if cost is None else f"{cost:.6g} USD"))
            return upstream
        return upstream if not cost and upstream else cost

    def _amount(self, name: str, value: object) -> float | None:
        try:
            amount = None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            amount = None
        if amount is None or not math.isfinite(amount) or amount < 0:
            self.notes.append((BAD_COST, f"{name} is {value!r:.60}"))
            return None
        return amount

    def _note_what_costs_more(self) -> None:
        for names, kind in ((_OTHER_KINDS, OTHER_PRICE), (_SERVER_TOOLS, SERVER_TOOLS)):
            for name in names:
                if name in self.values:
                    self.read_keys.add(name)
                    if self.values[name]:
                        self.notes.append((kind, f"{name} is {self.values[name]!r:.40}"))
        for name in _TIERS:
            if name in self.values:
                self.read_keys.add(name)
                if str(self.values[name]).lower() not in _USUAL_TIERS:
                    self.notes.append((SERVICE_TIER, f"{name} is {self.values[name]!r:.40}"))


def _wrong(field: str, value: object, rule: str) -> UsageError:
    message = f"usage.{field} is {value!r:.80}, {rule}" if field else f"usage {rule}"
    return UsageError(message, field=field, value=value)


def _flat(raw: Mapping[str, object], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Values by dotted name; null and empty objects say nothing."""
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            yield from _flat(value, f"{name}.", depth + 1)
        elif value is not None:
            yield name, value
