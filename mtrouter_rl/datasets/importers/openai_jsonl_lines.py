"""What a line of the format `openai-jsonl` may hold, and its JSON Schema, which is generated from the models here."""

import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import Count, Probability, Seconds, Usd, validated
from mtrouter_rl.datasets.importers.messages import ChatMessage, LogModel, read_message, read_messages
from mtrouter_rl.datasets.importers.score_files import score_value

SCHEMA_FILE = "openai_jsonl.schema.json"


def whole_number(value: object) -> object:
    """A whole number that was written as 100.0, as pandas does where a column has gaps."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value


def _prompt(value: object) -> object:
    return read_messages(value) if isinstance(value, list) else value


def _answer(value: object) -> object:
    """An answer as a message: a message of any form, a list of blocks or items, or a text."""
    if isinstance(value, list):
        items = [item for item in value if isinstance(item, dict) and "role" not in item]
        is_items = any(str(item.get("type", "")).endswith("_call") or item.get("type") == "message" for item in items)
        if is_items or len(items) < len(value):
            messages = read_messages(value)
            if len(messages) == 1:
                return messages[0]
            raise ValueError(f"must be one answer, is {len(messages)} messages")
        value = {"content": value}
    if not isinstance(value, Mapping | str) and value is not None:
        raise ValueError("must be a text, a message, or a list of its parts")
    if not isinstance(value, Mapping):
        return value
    try:
        return read_message({"role": "assistant"} | dict(value))
    except UnusableEpisodeError as error:
        raise UnusableEpisodeError(error.reason, f"response.{error.detail}") from error


WholeCount = Annotated[Count, BeforeValidator(whole_number)]
LoggedScore = Annotated[float, Field(ge=-1, le=1), BeforeValidator(score_value)]


class CallFields(LogModel):
    """What a log says of one call beside its texts; the same in a line of a call and at an assistant message."""

    model: Annotated[str, Field(min_length=1, description="model that was chosen: a name or alias of the pool card")]
    usage: Annotated[
        dict[str, object],
        Field(
            description="tokens as billed, in the form of OpenAI (prompt_tokens, completion_tokens, "
            "prompt_tokens_details.cached_tokens) or of another vendor; cost is compared"
        ),
    ]
    served_model: Annotated[
        str | None, Field(description="model that answered, if a fall-back took over; default: model")
    ] = None
    propensity: Annotated[Probability | None, Field(description="probability with which model was chosen")] = None
    candidates: Annotated[
        list[str] | None, Field(description="models that could have been chosen; default: all of the pool")
    ] = None
    latency_s: Annotated[Seconds | None, Field(description="duration of the call, seconds")] = None
    router_cost_usd: Annotated[
        Usd | None, Field(description="what the choice of the model itself cost, USD, if a model was asked; default: 0")
    ] = None
    error: Annotated[
        str | None, Field(description="kind of error that the answer was, such as 'unknown_action'; default: none")
    ] = None
    utility_gain: Annotated[
        LoggedScore | None,
        Field(description="how much of the score this call earned; at every call of the session or at none"),
    ] = None


class SessionFields(BaseModel):
    """What a log says of a session; in a line of a call, the last one that has a field counts."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    session_id: Annotated[str, Field(min_length=1, description="which conversation; becomes the episode's id")]
    score: Annotated[
        LoggedScore | None,
        Field(description="score of the session divided by its maximum; true and false are 1 and 0"),
    ] = None
    status: Annotated[
        Literal["completed", "truncated", "failed"] | None,
        Field(
            description="completed: the task itself ended; truncated: a limit stopped it; failed: it broke for outside "
            "reasons and has no score"
        ),
    ] = None
    status_detail: Annotated[str | None, Field(description="why it failed")] = None
    task: Annotated[str | None, Field(min_length=1, description="name of the kind of task; default: unnamed")] = None
    instance: Annotated[
        str | None,
        Field(min_length=1, description="which instance of the task (ticket, question); default: session_id"),
    ] = None
    seed: Annotated[WholeCount | None, Field(description="which run of the instance; default: 0")] = None
    behavior_policy: Annotated[
        str | None, Field(min_length=1, description="name of what chose the models; default: logged")
    ] = None
    max_turns: Annotated[WholeCount | None, Field(ge=1, description="turn limit; default: none")] = None
    budget_usd: Annotated[Usd | None, Field(gt=0, description="cost limit, USD; default: none")] = None
    timestamp: Annotated[
        str | float | None,
        Field(description="when: ISO 8601, or seconds since 1970. Orders the calls; kept in Episode.extra"),
    ] = None


class CallLine(SessionFields, CallFields):
    """One call: the prompt, the answer, tokens, and what is known of the session."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    messages: Annotated[
        list[ChatMessage],
        BeforeValidator(_prompt),
        Field(description="the prompt: the whole conversation so far, or what is new since the last call"),
    ]
    response: Annotated[
        str | ChatMessage | None,
        BeforeValidator(_answer),
        Field(description="the answer: its text or message; may be missing where error says why"),
    ] = None
    request_id: Annotated[
        str | None, Field(description="id of the call (id is read as well), by which one that is logged twice is found")
    ] = None
    agent_id: Annotated[str | None, Field(description="agent that made the call; default: the main one")] = None
    parent_id: Annotated[str | None, Field(description="agent that called that one; default: none")] = None
    parents: Annotated[
        list[str] | None,
        Field(
            description="request_id of the earlier calls that this one comes from, such as several sub-agents' last calls; [] "
            "for the task alone; default: the call before"
        ),
    ] = None
    observation: Annotated[
        str | None,
        Field(description="what came back after the answer; needed for the last call only, others show it in the next"),
    ] = None

    @model_validator(mode="after")
    def _is_answered(self) -> Self:
        if self.response is None and not self.error and "response" not in self.model_fields_set:
            raise ValueError("must have a response, or an error that says why there is none")
        return self

    @property
    def answer(self) -> ChatMessage | None:
        """What the model wrote."""
        if isinstance(self.response, str):
            return ChatMessage(role="assistant", content=self.response)
        return self.response


class EpisodeMessage(ChatMessage):
    """Message of a whole episode; an answer says which call it was."""

    model: Annotated[str | None, Field(description="at every answer, see the line of a call")] = None
    usage: Annotated[dict[str, object] | None, Field(description="at every answer, see the line of a call")] = None
    served_model: str | None = None
    propensity: Probability | None = None
    candidates: list[str] | None = None
    latency_s: Seconds | None = None
    router_cost_usd: Usd | None = None
    error: str | None = None
    utility_gain: LoggedScore | None = None
    timestamp: str | float | None = None

    def call(self, index: int) -> CallFields:
        """The call behind an answer.

        Raises:
            UnusableEpisodeError: If model or tokens are missing.
        """
        fields = self.model_dump(exclude={"role", "content", "tool_calls", "left_out", "timestamp"}, exclude_none=True)
        try:
            return validated(CallFields, fields)
        except UnusableEpisodeError as error:
            raise UnusableEpisodeError(error.reason, f"messages.{index}: {error.detail}") from error


class ScoreLine(SessionFields):
    """What is known of a session after its last call: its score, its status."""


class EpisodeLine(SessionFields):
    """One whole episode."""

    messages: Annotated[
        list[EpisodeMessage], Field(min_length=1, description="the whole conversation; answers with model and usage")
    ]


def schema_text() -> str:
    """JSON Schema of one line, from the models; what `openai_jsonl.schema.json` has to hold."""
    adapter: TypeAdapter[CallLine | EpisodeLine | ScoreLine] = TypeAdapter(CallLine | EpisodeLine | ScoreLine)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "One line of an openai-jsonl log"}
    schema = adapter.json_schema(mode="validation")
    for definition in schema["$defs"].values():
        definition.get("properties", {}).pop("left_out", None)  # what the converter says, no field of a log
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def published_schema() -> str:
    """Text of the JSON Schema file that comes with the package."""
    return importlib.resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
