"""Settings of the backend "openai_compatible" in a pool card: where each model answers, and how it is called."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import CardError
from mtrouter_rl.records import Frozen, Positive, PositiveInt

_OWN_FIELDS = frozenset({"model", "messages", "stream", "stream_options", "tools", "tool_choice", "n"})
_SNAPSHOT = re.compile(r"-\d{4}(-?\d{2}){0,2}")


class RemoteModel(Frozen):
    """Where one model of the pool answers, and how it is called.

    Attributes:
        base_url: Address up to and with the version, such as "http://127.0.0.1:8080/v1".
        model: Its name there; None takes the name in the pool.
        served_as: Further names under which its replies may come. A reply under any other name is an error: some servers answer
            with whatever model they have loaded.
        key_variable: Environment variable that holds the key; None for an endpoint without one. Keys are never in cards.
        temperature: Of the draws; None leaves it to the endpoint.
        reasoning_effort: Such as "low"; None leaves it to the endpoint.
        extra_body: Further fields of the request.
        limit_field: Field of the request that holds the output limit.
        stream: Whether answers are streamed; the usage is then asked for and comes at the end.
        usage_estimate: What stands in for usage that is missing: "token_counter" takes the pool's counter for the prompt and
            for the text that came, and the turn is marked. None makes it an error.
        requests_per_minute: Rate at which this process calls it; None for no limit.
        max_concurrent: Calls of it at the same time in this process; None for no limit.
    """

    base_url: str
    model: str | None = None
    served_as: tuple[str, ...] = ()
    key_variable: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream: bool = False
    usage_estimate: Literal["token_counter"] | None = None
    requests_per_minute: Positive | None = None
    max_concurrent: PositiveInt | None = None

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_conversation_alone(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        taken = sorted(_OWN_FIELDS & set(body))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set here; the backend writes it itself")
        return body

    @property
    def set_fields(self) -> dict[str, JsonValue]:
        """Fields that the card sets in every request."""
        own: dict[str, JsonValue] = {"temperature": self.temperature, "reasoning_effort": self.reasoning_effort}
        return self.extra_body | {name: value for name, value in own.items() if value is not None}

    def is_served_by(self, told: str, *, names: tuple[str, ...]) -> bool:
        """Whether a reply under a name is the model's own.

        Args:
            told: Name in the reply.
            names: Names of the model in the pool.
        """
        asked = self.model or names[0]
        if told in (asked, *names, *self.served_as):
            return True
        return told.startswith(asked) and _SNAPSHOT.fullmatch(told[len(asked) :]) is not None


class BreakerCard(Frozen):
    """When a model is left alone for a while.

    Attributes:
        failures: Failures one after another (5xx, no reply, a reply that breaks off) after which it is.
        pause_s: For how long, seconds; then one call is let through, and decides.
    """

    failures: PositiveInt = 8
    pause_s: Positive = 30.0


class RemotePool(Frozen):
    """Settings of the backend "openai_compatible" in a pool card.

    Attributes:
        models: One entry for every model of the pool.
        deadline_s: Deadline of a call with all its tries, seconds.
        try_s: Deadline of one try, seconds.
        pause_s: First pause between tries where the endpoint asks for none, seconds; it doubles, and is drawn a half around.
        breaker: When a model is left alone for a while.
        session_header: Header that names the episode to the endpoint, as TASK|VARIATION|SEED|RUN; None for none.
    """

    models: dict[str, RemoteModel]
    deadline_s: Positive = 300.0
    try_s: Positive = 120.0
    pause_s: Positive = 0.5
    breaker: BreakerCard = BreakerCard()
    session_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None


def read_settings(pool: PoolCard) -> RemotePool:
    """Settings of a pool card.

    Raises:
        CardError: If they break their rules, or a model of the pool has no entry.
    """
    try:
        settings = RemotePool.model_validate(pool.backend.settings)
    except ValidationError as error:
        raise CardError(f"pool '{pool.name}', backend.settings: {error}") from error
    missing = [name for name in pool.model_names if name not in settings.models]
    if missing:
        raise CardError(
            f"pool '{pool.name}', backend.settings.models: no entry for {', '.join(missing)}; add one for each"
        )
    return settings


_HOW_OF_POOL = frozenset({"deadline_s", "try_s", "pause_s", "breaker"})
_HOW_OF_MODEL = frozenset({"key_variable", "requests_per_minute", "max_concurrent"})


def what_is_called(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings without those that say how patiently and how often models are called, which change no answer.

    Example:
        >>> what_is_called({"deadline_s": 9, "models": {"m": {"base_url": "http://h/v1", "max_concurrent": 2}}})
        {'models': {'m': {'base_url': 'http://h/v1'}}}
    """
    kept = {name: value for name, value in settings.items() if name not in _HOW_OF_POOL}
    models = kept.get("models")
    if isinstance(models, Mapping):
        kept["models"] = {
            name: {key: value for key, value in one.items() if key not in _HOW_OF_MODEL}
            if isinstance(one, Mapping)
            else one
            for name, one in models.items()
        }
    return kept
