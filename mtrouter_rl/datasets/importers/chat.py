"""From OpenAI-style chat messages to turns: what the importers of conversations share.

A turn is one assistant message. Its action is that message; its observation is everything that came back before the next
assistant message. The first user message is the task, what follows it before the first answer is the first observation,
and what the system said before it is neither: it is kept in `Episode.extra` as `system_prompt`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, LogFile, read_files
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, ModelNames, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT, BAD_SCORE, NO_LOGGED_COST, UNKNOWN_MODEL
from mtrouter_rl.records import JsonValue, TokenUsage, Turn

BROKEN_JSON = "text that is no JSON object"
BAD_SHAPE = "field that is missing or breaks its rule"
BAD_MODEL = "model that is missing"
BAD_PROPENSITY = "propensity that is missing or out of range"
BAD_ORDER = "messages that do not alternate"
NO_TASK = "conversation without a user message before its first answer"
NO_ANSWER = "conversation without any answer of a model"
OTHER_PARTS = "part of a message that is no text, left out"
COST_NOTE = "logged cost that differs from tokens times the pool's prices by more than 1%"
COST_TOLERANCE = 0.01

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool", "function")

_MAX_INT64 = 2**63 - 1
_DECODER = json.JSONDecoder(parse_constant=str)
_REASONS = {
    "score": BAD_SCORE,
    "reward": BAD_SCORE,
    "final_score": BAD_SCORE,
    "utility_gain": BAD_SCORE,
    "usage": BAD_COUNT,
    "propensity": BAD_PROPENSITY,
    "model": BAD_MODEL,
}

ModelT = TypeVar("ModelT", bound=BaseModel)

Count = Annotated[int, Field(ge=0, le=_MAX_INT64)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class LogModel(BaseModel):
    """Base of what is read from a log of another program: keys that the importer does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class PromptTokensDetails(LogModel):
    """Part of `usage`.

    Attributes:
        cached_tokens: Prompt tokens read from a warm prompt cache; part of `prompt_tokens`.
    """

    cached_tokens: Annotated[
        Count | None, Field(description="prompt tokens read from a warm prompt cache; part of prompt_tokens")
    ] = None


class Usage(LogModel):
    """Tokens of a call as OpenAI's chat completions give them (and LiteLLM for every vendor).

    Attributes:
        prompt_tokens: All prompt tokens, cached and written ones included.
        completion_tokens: All generated tokens, hidden reasoning included.
        prompt_tokens_details: Which of the prompt tokens were cached.
        cache_creation_input_tokens: Prompt tokens written to the cache and billed for that; part of `prompt_tokens`.
        cost: What a gateway says it billed, USD; only compared.
    """

    prompt_tokens: Annotated[Count, Field(description="all prompt tokens, cached and written ones included")]
    completion_tokens: Annotated[Count, Field(description="all generated tokens, hidden reasoning included")]
    prompt_tokens_details: PromptTokensDetails | None = None
    cache_creation_input_tokens: Annotated[
        Count | None,
        Field(description="prompt tokens written to the cache and billed for that; part of prompt_tokens"),
    ] = None
    cost: Annotated[Usd | None, Field(description="what was billed, USD; compared and not used")] = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self._n_cached + self._n_written > self.prompt_tokens:
            raise ValueError(
                f"cached ({self._n_cached}) and written ({self._n_written}) tokens are more than prompt_tokens "
                f"({self.prompt_tokens}), which they are part of"
            )
        return self

    @property
    def _n_cached(self) -> int:
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def _n_written(self) -> int:
        return self.cache_creation_input_tokens or 0

    def tokens(self) -> TokenUsage:
        """The same tokens, split the way they are billed.

        Example:
            >>> details = PromptTokensDetails(cached_tokens=80)
            >>> Usage(prompt_tokens=100, completion_tokens=7, prompt_tokens_details=details).tokens()
            TokenUsage(n_fresh=20, n_cached=80, n_written=0, n_output=7)
        """
        return TokenUsage(
            n_fresh=self.prompt_tokens - self._n_cached - self._n_written,
            n_cached=self._n_cached,
            n_written=self._n_written,
            n_output=self.completion_tokens,
        )


class FunctionCall(LogModel):
    """Function that a model called.

    Attributes:
        name: Its name.
        arguments: Its arguments: JSON text as OpenAI writes them, or the object itself.
    """

    name: str
    arguments: str | dict[str, object] | None = None

    def plain(self) -> dict[str, object]:
        """Name and arguments, the latter parsed if they are JSON."""
        arguments: object = self.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments, parse_constant=str)
            except (ValueError, RecursionError):
                arguments = self.arguments
        return {"name": self.name, "arguments": arguments}


class ToolCall(LogModel):
    """One tool call, in OpenAI's form (`function`) or flat (`name`, `arguments`).

    Attributes:
        function: Function that was called.
        name: Name of the function, flat form.
        arguments: Arguments, flat form.
    """

    function: FunctionCall | None = None
    name: str | None = None
    arguments: str | dict[str, object] | None = None

    @model_validator(mode="after")
    def _has_a_function(self) -> Self:
        if self.function is None and self.name is None:
            raise ValueError("must have a 'function', or a 'name' and 'arguments'")
        return self

    def plain(self) -> dict[str, object]:
        """Name and arguments; the id of the call says nothing."""
        return (self.function or FunctionCall(name=self.name or "", arguments=self.arguments)).plain()


class ChatMessage(LogModel):
    """One chat message.

    Attributes:
        role: "system", "developer", "user", "assistant", "tool" or "function".
        content: Text, or a list of parts of which those of text count; None where there are only tool calls.
        tool_calls: Tools that an answer calls.
    """

    role: Annotated[str, Field(description="system, developer, user, assistant, tool or function")]
    content: Annotated[
        str | list[str | dict[str, object]] | None,
        Field(description="text, or a list of parts, of which those of text are joined"),
    ] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(description="tools that an answer calls")] = None

    @property
    def text(self) -> str:
        """Content as text: parts joined by line breaks, others than text left out."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(text for text in map(_part_text, self.content) if text is not None)

    @property
    def n_other_parts(self) -> int:
        """How many parts are no text."""
        parts = self.content if isinstance(self.content, list) else []
        return sum(_part_text(part) is None for part in parts)

    @property
    def action_text(self) -> str:
        r"""Text of an answer, with its tool calls as a JSON list in a line of their own.

        Example:
            >>> call = ToolCall(name="look", arguments={"at": "door"})
            >>> ChatMessage(role="assistant", content="I look.", tool_calls=[call]).action_text
            'I look.\n[{"name": "look", "arguments": {"at": "door"}}]'
        """
        if not self.tool_calls:
            return self.text
        calls = json.dumps([call.plain() for call in self.tool_calls], ensure_ascii=False)
        return f"{self.text}\n{calls}" if self.text else calls


def _part_text(part: str | dict[str, object]) -> str | None:
    if isinstance(part, str):
        return part
    text = part.get("text")
    return text if isinstance(text, str) and part.get("type", "text") in ("text", "input_text", "output_text") else None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One assistant message and what came of it.

    Attributes:
        index: Its place in the list of messages.
        action_text: What the model wrote.
        observation_text: Everything that came back before the next answer; empty after the last one if nothing did.
    """

    index: int
    action_text: str
    observation_text: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages as an episode has them.

    Attributes:
        system_text: What the system said before the task.
        task_text: First user message.
        first_observation: What followed it before the first answer.
        answers: The T answers.
        n_other_parts: Parts of messages that are no text and left out.
    """

    system_text: str
    task_text: str
    first_observation: str
    answers: tuple[Answer, ...]
    n_other_parts: int


def join_texts(messages: Sequence[ChatMessage]) -> str:
    """Texts of several messages as one observation."""
    return "\n\n".join(message.text for message in messages)


def check_roles(messages: Sequence[ChatMessage]) -> None:
    """See that every role is one of a chat.

    Raises:
        UnusableEpisodeError: If one is not.
    """
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            detail = f"messages.{index}.role is {cut(repr(message.role))}, must be one of {', '.join(ROLES)}"
            raise UnusableEpisodeError(BAD_SHAPE, detail)


def split_opening(messages: Sequence[ChatMessage]) -> tuple[str, str, str]:
    """What was said before the first answer: system text, task text, first observation.

    Raises:
        UnusableEpisodeError: If there is no user message among them.
    """
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise UnusableEpisodeError(NO_TASK, f"{len(messages)} messages before the first answer, none of role 'user'")
    task = users[0]
    before, after = messages[:task], messages[task + 1 :]
    return join_texts(before), messages[task].text, join_texts(after)


def split_conversation(messages: Sequence[ChatMessage], *, may_be_silent: bool = False) -> Conversation:
    """Messages of a whole episode as task and answers.

    Args:
        messages: In order.
        may_be_silent: Whether two answers in a row are an answer to which nothing came back; otherwise that is an error.

    Raises:
        UnusableEpisodeError: If a role is unknown, there is no task or no answer, or answers follow each other.
    """
    check_roles(messages)
    places = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not places:
        raise UnusableEpisodeError(NO_ANSWER, f"{len(messages)} messages, none of role 'assistant'")
    system_text, task_text, first_observation = split_opening(messages[: places[0]])
    answers = []
    for index, following in zip(places, [*places[1:], len(messages)], strict=True):
        if following == index + 1 < len(messages) and not may_be_silent:
            raise UnusableEpisodeError(BAD_ORDER, f"messages {index} and {following} are both answers of a model")
        observation = join_texts(messages[index + 1 : following])
        answers.append(Answer(index=index, action_text=messages[index].action_text, observation_text=observation))
    return Conversation(
        system_text=system_text,
        task_text=task_text,
        first_observation=first_observation,
        answers=tuple(answers),
        n_other_parts=sum(message.n_other_parts for message in messages),
    )


@dataclass(frozen=True, kw_only=True)
class LoggedCall:
    """What a log says of one call, beside its texts.

    Attributes:
        model: Name in the pool of the chosen model.
        served_model: Name in the pool of the one that answered.
        usage: Tokens.
        propensity: Probability of `model`, None if it is not known.
        error: Kind of error that the action was.
        latency_s: Duration, seconds.
        candidates: Names in the pool of the models that could be chosen; empty if the log does not say.
        logged_cost_usd: Cost by the log, USD, None if it does not say.
    """

    model: str
    served_model: str
    usage: TokenUsage
    propensity: float | None
    error: str = ""
    latency_s: float | None = None
    candidates: tuple[str, ...] = ()
    logged_cost_usd: float | None = None


Ending = Literal["terminated", "truncated", "failed"]


class TurnBuilder:
    """Makes turns of calls: costs at the pool's prices, compared with the logged ones; masks in pool order."""

    def __init__(self, source: ImportSource) -> None:
        self.report: ImportReport = source.report
        self._pool = source.pool
        self._names = ModelNames(source.pool)

    def model(self, *candidates: str | None) -> str:
        """Name in the pool of a model of the log.

        Raises:
            UnusableEpisodeError: If no name is given, or the pool has none of them.
        """
        given = [name for name in candidates if name]
        if not given:
            raise UnusableEpisodeError(BAD_MODEL, "no name of a model at an answer")
        found = self._names.find(*given)
        if found is None:
            raise UnusableEpisodeError(UNKNOWN_MODEL, self._names.explain(given[0]))
        return found

    def find(self, name: str | None) -> str | None:
        """Name in the pool, or None if the pool does not have it."""
        return self._names.find(name) if name else None

    def turns(
        self, answers: Sequence[tuple[str, str]], calls: Sequence[LoggedCall], gains: Sequence[float], ending: Ending
    ) -> tuple[Turn, ...]:
        """Turns of an episode.

        Args:
            answers: (action, observation) of every turn, length T.
            calls: Calls, length T.
            gains: Utility gain of every turn, length T.
            ending: How the last turn ended; a failed episode neither terminated nor was truncated.
        """
        last = len(calls) - 1
        return tuple(
            Turn(
                model=call.model,
                served_model=call.served_model,
                action_text=action,
                observation_text=observation,
                usage=call.usage,
                cost_usd=self._pool.model(call.served_model).prices.cost_usd(call.usage),
                utility_gain=gain,
                propensity=call.propensity,
                action_mask=tuple(not call.candidates or name in call.candidates for name in self._pool.model_names),
                warm=(False,) * len(self._pool.models),
                error=call.error,
                latency_s=call.latency_s,
                terminated=index == last and ending == "terminated",
                truncated=index == last and ending == "truncated",
            )
            for index, ((action, observation), call, gain) in enumerate(zip(answers, calls, gains, strict=True))
        )

    def note_costs(self, turns: Sequence[Turn], calls: Sequence[LoggedCall], *, source: str) -> None:
        """Note where a logged cost is missing or differs by more than 1% from that of the turn."""
        n_missing = sum(call.logged_cost_usd is None for call in calls)
        if n_missing:
            self.report.note(NO_LOGGED_COST, source=source, detail=f"{n_missing} of {len(calls)} answers", n=n_missing)
        both = [
            (turn.cost_usd, call.logged_cost_usd)
            for turn, call in zip(turns, calls, strict=True)
            if call.logged_cost_usd is not None
        ]
        n_different = sum(differs(logged, computed) for computed, logged in both)
        if n_different:
            computed, logged = (sum(costs) for costs in zip(*both, strict=True))
            detail = (
                f"{n_different} of {len(both)} answers; in all logged {logged:.6g} USD, computed {computed:.6g} USD"
            )
            self.report.note(COST_NOTE, source=source, detail=detail, n=n_different)


def differs(logged: float, computed: float) -> bool:
    """Whether two costs differ by more than 1% of the computed one.

    Example:
        >>> differs(1.005, 1.0), differs(0.0, 1.0), differs(0.0, 0.0)
        (False, True, False)
    """
    return abs(logged - computed) > COST_TOLERANCE * computed


def last_turn_gains(score: float, n_turns: int) -> list[float]:
    """Gains with the whole score on the last turn, where no other is logged.

    Example:
        >>> last_turn_gains(0.5, 3)
        [0.0, 0.0, 0.5]
    """
    return [0.0] * (n_turns - 1) + [score]


def parse_object(data: bytes) -> dict[str, JsonValue]:
    """JSON object of a text; NaN and infinities become texts, which no rule for a number takes.

    Raises:
        UnusableEpisodeError: If it is none.
    """
    try:
        value: object = _DECODER.decode(data.decode(json.detect_encoding(data)))
    except (ValueError, RecursionError) as error:
        detail = f"{error}; begins with {cut(repr(data[:60]))}" if data.strip() else "is empty"
        raise UnusableEpisodeError(BROKEN_JSON, detail) from error
    if not isinstance(value, dict):
        raise UnusableEpisodeError(BROKEN_JSON, f"is a {type(value).__name__}: {cut(repr(value))}")
    return cast("dict[str, JsonValue]", value)


def validated(model: type[ModelT], value: object, *, otherwise: str = BAD_SHAPE) -> ModelT:
    """A part of a log, checked.

    Args:
        model: Its rules.
        value: As it was read from JSON.
        otherwise: Reason where no field that breaks a rule has one of its own.

    Raises:
        UnusableEpisodeError: Names the first field that breaks its rule, and how many do.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        issues = error.errors(include_url=False)
        first = issues[0]
        reason = next((_REASONS[part] for part in map(str, reversed(first["loc"])) if part in _REASONS), otherwise)
        given = "" if first["type"] == "missing" else f" (is {cut(repr(first['input']))})"
        more = f"; {len(issues) - 1} more" if len(issues) > 1 else ""
        where = ".".join(map(str, first["loc"])) or "it"
        raise UnusableEpisodeError(reason, f"{where}: {first['msg']}{given}{more}") from error


def read_log_files(path: Path, report: ImportReport, *, suffixes: tuple[str, ...]) -> Iterator[LogFile]:
    """Files of a folder or archive that end in one of the suffixes, or the given file whatever its name is.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    is_bundle = path.is_dir() or path.name.lower().endswith(ARCHIVE_SUFFIXES)
    yield from read_files(path, report, suffixes=suffixes if is_bundle else ())
