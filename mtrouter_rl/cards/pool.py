"""The action space: models, their prices and limits, and who answers for them.

A pool card is read into frozen models that forbid unknown keys. A price that is missing is an error: no number here has
a silent default that stands in for money.
"""

import datetime
import json
import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mtrouter_rl.errors import unknown_name
from mtrouter_rl.records import Frozen, Message, TokenUsage

TOKENS_PER_PRICE_UNIT = 1_000_000
_COUNTED_KEYS = ("role", "content", "tool_calls", "refusal", "annotations")

UsdPerMillionTokens = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Prices(Frozen):
    """Prices of one model, in USD per million tokens.

    Attributes:
        input: Fresh prompt tokens.
        cached_input: Prompt tokens read from a warm cache. Equal to `input` where the vendor gives no discount.
        cache_write: Prompt tokens written to the cache; None where writing costs nothing beyond `input`.
        output: Generated tokens.
    """

    input: UsdPerMillionTokens
    cached_input: UsdPerMillionTokens
    cache_write: UsdPerMillionTokens | None = None
    output: UsdPerMillionTokens

    def cost_usd(self, usage: TokenUsage) -> float:
        """Price of a call, USD: every kind of token times its price.

        Example:
            >>> prices = Prices(input=1.0, cached_input=0.1, output=10.0)
            >>> prices.cost_usd(TokenUsage(n_fresh=1000, n_cached=1000, n_output=100))
            0.0021
        """
        write = self.input if self.cache_write is None else self.cache_write
        total = (
            usage.n_fresh * self.input
            + usage.n_cached * self.cached_input
            + usage.n_written * write
            + usage.n_output * self.output
        )
        return total / TOKENS_PER_PRICE_UNIT

    def worst_case_usd(self, *, n_prompt: int, n_output: int) -> float:
        """Upper bound of a call's price, USD: no token is cached, the dearest way to bill the prompt, the longest output."""
        dearest_input = max(self.input, self.cached_input, self.cache_write or 0.0)
        return (n_prompt * dearest_input + n_output * self.output) / TOKENS_PER_PRICE_UNIT


class HandoverCard(Frozen):
    """Which histories of other models a model can take over; see `mtrouter_rl.pools.handover`.

    Attributes:
        family: Models of one family read each other's thinking and signatures; None for a model that shares with its variants
            alone.
        images: Whether it takes pictures; None where nobody says, which rules nothing out.
        tool_calls: Whether it takes tool calls; else they are handed over as text.
        tool_call_ids: Whose form of ids its endpoint takes: up to 40 characters ("openai"), letters, digits, "_" and "-"
            ("anthropic"), or nine letters and digits ("mistral"). Others are renamed.
        needs_own_thinking: Whether it refuses to go on in the middle of tool calls whose thinking is not its own.
    """

    family: Annotated[str, Field(min_length=1)] | None = None
    images: bool | None = None
    tool_calls: bool = True
    tool_call_ids: Literal["openai", "anthropic", "mistral"] = "openai"
    needs_own_thinking: bool = False


class ModelCard(Frozen):
    """One model of a pool.

    Attributes:
        name: Name in logs and tables.
        prices: USD per million tokens.
        context_tokens: Size of the context window: prompt and output together.
        max_output_tokens: Longest output that the model can give.
        knowledge_cutoff: Date up to which it was trained, a feature of the model; None where nobody says, for all models of
            a pool or for none.
        aliases: Other names of the model in logs; importers look for them.
        variant_of: Model of the pool that this is a setting of, such as another reasoning effort: both share one prompt cache.
        handover: Which histories it can take over.
    """

    name: Annotated[str, Field(min_length=1)]
    prices: Prices
    context_tokens: Annotated[int, Field(gt=0)]
    max_output_tokens: Annotated[int, Field(gt=0)]
    knowledge_cutoff: datetime.date | None = None
    aliases: tuple[str, ...] = ()
    variant_of: str | None = None
    handover: HandoverCard = HandoverCard()

    @property
    def base(self) -> str:
        """Name of the model whose prompt cache and thinking it shares: its own, unless it is a variant."""
        return self.variant_of or self.name


def _same(one: ModelCard, other: ModelCard) -> bool:
    """Whether a learned router cannot tell two models apart."""
    what = ("prices", "context_tokens", "max_output_tokens", "knowledge_cutoff")
    return all(getattr(one, field) == getattr(other, field) for field in what)


class PromptCacheCard(Frozen):
    """How long the vendor keeps a prompt prefix warm for a model.

    Attributes:
        ttl_s: Time to live since the last call of the model, seconds.
        min_tokens: Prompts shorter than this are not cached.
    """

    ttl_s: Annotated[float, Field(gt=0)]
    min_tokens: Annotated[int, Field(ge=0)]


class TokenCounter(Frozen):
    """Counts prompt tokens before a call is made.

    Attributes:
        kind: "characters": length divided by `characters_per_token`, exact for simulated models, which are billed by it.
            "utf8_bytes": one token a byte, an upper bound for every byte-level tokenizer, for endpoints.
        characters_per_token: Used by "characters" only.
        tokens_per_message: Added for the frame of every message.
    """

    kind: Literal["characters", "utf8_bytes"]
    characters_per_token: Annotated[float, Field(gt=0)] = 4.0
    tokens_per_message: Annotated[int, Field(ge=0)] = 4

    def count(self, text: str) -> int:
        """Tokens of one message.

        Example:
            >>> TokenCounter(kind="characters").count("open door")
            7
        """
        if self.kind == "utf8_bytes":
            return len(text.encode()) + self.tokens_per_message
        return math.ceil(len(text) / self.characters_per_token) + self.tokens_per_message

    def count_message(self, message: Message) -> int:
        """Tokens of a message with its tool calls, and with the thinking that goes back to the model that wrote it."""
        n_calls = sum(self.count(call.name + call.arguments + call.id) for call in message.tool_calls)
        beside = {key: value for key, value in (message.raw or {}).items() if key not in _COUNTED_KEYS and value}
        n_beside = self.count(json.dumps(beside, ensure_ascii=False)) if beside else 0
        return self.count(message.content) + n_calls + n_beside


class BackendCard(Frozen):
    """Who answers the calls.

    Attributes:
        kind: Registered name of the backend, such as "simulated".
        settings: Checked by that backend.
    """

    kind: str
    settings: dict[str, object] = Field(default_factory=dict)


class PoolCard(Frozen):
    """A pool of models: the action space of a router, in this order.

    Attributes:
        name: Name of the card.
        description: What the pool is and where its numbers are from; a simulation says so here.
        models: The M models; the action is an index into this list.
        token_counter: How prompt tokens are counted before a call; by default an upper bound that holds for every model.
        prompt_cache: None where no vendor discount for warm prompts is modelled.
        backend: Who answers; by default nobody, as for the models of a log.
    """

    name: str
    description: str = ""
    models: Annotated[tuple[ModelCard, ...], Field(min_length=1)]
    token_counter: TokenCounter = TokenCounter(kind="utf8_bytes")
    prompt_cache: PromptCacheCard | None = None
    backend: BackendCard = BackendCard(kind="none")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "PoolCard":
        names = [model.name for model in self.models]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"models: name(s) {repeated} appear more than once; every model needs its own name")
        everything = [name for model in self.models for name in {model.name, *model.aliases}]
        ambiguous = sorted({name for name in everything if everything.count(name) > 1})
        if ambiguous:
            raise ValueError(f"models: alias(es) {ambiguous} stand for more than one model; leave them to one")
        return self

    @model_validator(mode="after")
    def _variants_have_a_base(self) -> "PoolCard":
        known = {model.name: model for model in self.models}
        for model in self.models:
            if model.variant_of is None:
                continue
            base = known.get(model.variant_of)
            if base is None or base.variant_of is not None:
                whole = [name for name, one in known.items() if one.variant_of is None and name != model.name]
                raise ValueError(
                    f"models: {model.name}.variant_of is '{model.variant_of}', must be a model of the pool that is no variant "
                    f"itself: {', '.join(whole) or '(there is none)'}"
                )
            alike = [o.name for o in self.models if o is not model and o.base == base.name and _same(o, model)]
            if alike:
                raise ValueError(
                    f"models: {model.name} and {alike[0]} have the same prices, limits and cut-off, by which routers tell "
                    "models apart; say the max_output_tokens that each really has"
                )
        return self

    @model_validator(mode="after")
    def _cutoffs_are_complete(self) -> "PoolCard":
        without = [model.name for model in self.models if model.knowledge_cutoff is None]
        if without and len(without) < len(self.models):
            raise ValueError(
                f"models: {', '.join(without)} have no knowledge_cutoff and the others do; a date of all of them, or of none, "
                "since it is a feature that models are told apart by"
            )
        return self

    @property
    def bases(self) -> dict[str, str]:
        """Model -> model whose prompt cache it shares, itself for most."""
        return {model.name: model.base for model in self.models}

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names in action order, length M."""
        # Kept beside the models that they were read from: a copy with other models must not inherit them.
        kept = self.__dict__.get("_names")
        if kept is None or kept[0] is not self.models:
            kept = (self.models, tuple(model.name for model in self.models))
            self.__dict__["_names"] = kept
        names: tuple[str, ...] = kept[1]
        return names

    def index(self, model: str) -> int:
        """Action of a model.

        Raises:
            UnknownNameError: If the pool has no such model.
        """
        if model not in self.model_names:
            raise unknown_name(f"model of pool '{self.name}'", model, self.model_names)
        return self.model_names.index(model)

    def model(self, name: str) -> ModelCard:
        """Card of a model.

        Raises:
            UnknownNameError: If the pool has no such model.
        """
        return self.models[self.index(name)]
