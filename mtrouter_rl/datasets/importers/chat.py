"""From logged calls to turns: what the importers of conversations share beside the messages (see `messages`)."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from mtrouter_rl.datasets.importers.archives import ARCHIVE_SUFFIXES, LogFile, read_files
from mtrouter_rl.datasets.importers.base import (
    Amount,
    ImportReport,
    ImportSource,
    ModelNames,
    UnusableEpisodeError,
    cut,
)
from mtrouter_rl.datasets.importers.messages import BAD_ORDER as BAD_ORDER
from mtrouter_rl.datasets.importers.messages import BAD_SHAPE as BAD_SHAPE
from mtrouter_rl.datasets.importers.messages import NO_ANSWER as NO_ANSWER
from mtrouter_rl.datasets.importers.messages import NO_TASK as NO_TASK
from mtrouter_rl.datasets.importers.messages import OTHER_PARTS as OTHER_PARTS
from mtrouter_rl.datasets.importers.messages import ROLES as ROLES
from mtrouter_rl.datasets.importers.messages import SYSTEM_ROLES as SYSTEM_ROLES
from mtrouter_rl.datasets.importers.messages import Answer as Answer
from mtrouter_rl.datasets.importers.messages import ChatMessage as ChatMessage
from mtrouter_rl.datasets.importers.messages import Conversation as Conversation
from mtrouter_rl.datasets.importers.messages import LogModel as LogModel
from mtrouter_rl.datasets.importers.messages import ToolCall as ToolCall
from mtrouter_rl.datasets.importers.messages import check_roles as check_roles
from mtrouter_rl.datasets.importers.messages import explain, furthest
from mtrouter_rl.datasets.importers.messages import join_texts as join_texts
from mtrouter_rl.datasets.importers.messages import open_conversation as open_conversation
from mtrouter_rl.datasets.importers.messages import read_message as read_message
from mtrouter_rl.datasets.importers.messages import read_messages as read_messages
from mtrouter_rl.datasets.importers.messages import split_conversation as split_conversation
from mtrouter_rl.datasets.importers.messages import split_opening as split_opening
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT, BAD_SCORE, NO_LOGGED_COST, UNKNOWN_MODEL
from mtrouter_rl.errors import UsageError
from mtrouter_rl.pools.usage import OVER_WINDOW, ZERO_OUTPUT, UsageReading, read_usage
from mtrouter_rl.records import JsonValue, TokenUsage, Turn

BROKEN_JSON = "text that is no JSON object"
BAD_MODEL = "model that is missing"
BAD_PROPENSITY = "propensity that is missing or out of range"
COST_NOTE = "logged cost that differs from tokens times the pool's prices by more than 1%"
COST_TOLERANCE = 0.01
UNREAD_USAGE = "key of usage that is not understood: {}"

_ROUNDING = 1e-9
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


def _in_unit_range(value: object) -> object:
    """Names both ends of the range of a probability, which is where percents and logarithms fall out."""
    if isinstance(value, float) and 1 < value <= 1 + _ROUNDING:
        return 1.0
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value <= 1:
        raise ValueError(f"must be a probability in (0, 1], no percent and no logarithm (is {value!r:.40})")
    return value


Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), BeforeValidator(_in_unit_range)]
Score = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class LoggedCall:
    """What a log says of one call, beside its texts.

    Attributes:
        model: Name in the pool of the chosen model.
        served_model: Name in the pool of the one that answered.
        usage: Tokens, and what is to be known of them.
        propensity: Probability of `model`, None if it is not known.
        error: Kind of error that the action was.
        latency_s: Duration, seconds.
        candidates: Names in the pool of the models that could be chosen; empty if the log does not say.
        logged_cost_usd: Cost of the call by the log, USD, None if it does not say.
        router_cost_usd: What the decision itself cost, USD.
    """

    model: str
    served_model: str
    usage: UsageReading
    propensity: float | None
    error: str = ""
    latency_s: float | None = None
    candidates: tuple[str, ...] = ()
    logged_cost_usd: float | None = None
    router_cost_usd: float = 0.0


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
                usage=call.usage.tokens,
                cost_usd=self.cost_usd(call) + call.router_cost_usd,
                utility_gain=gain,
                propensity=call.propensity,
                action_mask=tuple(not call.candidates or name in call.candidates for name in self._pool.model_names),
                warm=(False,) * len(self._pool.models),
                error=call.error,
                latency_s=call.latency_s,
                terminated=index == last and ending == "terminated",
                truncated=index == last and ending == "truncated",
                router_cost_usd=call.router_cost_usd,
            )
            for index, ((action, observation), call, gain) in enumerate(zip(answers, calls, gains, strict=True))
        )

    def cost_usd(self, call: LoggedCall) -> float:
        """Price of a call: its tokens times the prices of the model that answered, USD."""
        return self.price_usd(call.served_model, call.usage.tokens)

    def price_usd(self, model: str, tokens: TokenUsage) -> float:
        """Price of tokens at a model of the pool, USD."""
        return self._pool.model(model).prices.cost_usd(tokens)

    def amount(self, calls: Sequence[LoggedCall]) -> Amount:
        """Tokens and money of calls, for the report."""
        priced = ((call.usage.tokens, self.cost_usd(call) + call.router_cost_usd) for call in calls)
        return sum((Amount.of_call(tokens, cost_usd) for tokens, cost_usd in priced), Amount())

    def note_usage(self, turns: Sequence[Turn], calls: Sequence[LoggedCall], *, source: str) -> None:
        """Note what is to be known of the tokens of calls, and every key that was not understood, with the money at stake."""
        for turn, call in zip(turns, calls, strict=True):
            n_all = turn.usage.n_prompt + turn.usage.n_output
            window = self._pool.model(turn.served_model).context_tokens
            notes = dict(call.usage.notes)
            if n_all > window:
                notes[OVER_WINDOW] = f"{n_all} tokens, the window of '{turn.served_model}' holds {window}"
            if turn.action_text and not turn.usage.n_output:
                notes[ZERO_OUTPUT] = f"{len(turn.action_text)} characters"
            for kind, detail in notes.items():
                self.report.note(kind, source=source, detail=detail, usd=turn.cost_usd)
            for name in call.usage.unread:
                self.report.note(UNREAD_USAGE.format(name), source=source, usd=turn.cost_usd)

    def note_costs(self, turns: Sequence[Turn], calls: Sequence[LoggedCall], *, source: str) -> None:
        """Note where a logged cost is missing or differs by more than 1% from that of the turn; and see `note_usage`."""
        self.note_usage(turns, calls, source=source)
        n_missing = sum(call.logged_cost_usd is None for call in calls)
        if n_missing:
            self.report.note(NO_LOGGED_COST, source=source, detail=f"{n_missing} of {len(calls)} answers", n=n_missing)
        both = [
            (turn.cost_usd - turn.router_cost_usd, call.logged_cost_usd)
            for turn, call in zip(turns, calls, strict=True)
            if call.logged_cost_usd is not None
        ]
        n_different = sum(differs(logged, computed) for computed, logged in both)
        if n_different:
            computed, logged = (sum(costs) for costs in zip(*both, strict=True))
            detail = (
                f"{n_different} of {len(both)} answers; in all logged {logged:.6g} USD, computed {computed:.6g} USD"
                f"{_factor(logged, computed)}"
            )
            self.report.note(COST_NOTE, source=source, detail=detail, n=n_different)


def _factor(logged: float, computed: float) -> str:
    """A word on two sums whose ratio is a power of 1000: prices of another unit."""
    for factor in (1e3, 1e6):
        for ratio, unit in ((factor, "more"), (1 / factor, "less")):
            if computed and math.isclose(logged / computed, ratio, rel_tol=COST_TOLERANCE):
                return f"; {factor:g} times {unit}, as prices of another unit (per 1K, per token, cents) would make it"
    return ""


def call_usage(raw: object, *, answer_is_empty: bool | None = None, where: str = "usage") -> UsageReading:
    """Tokens of a call of a log; see `read_usage`.

    Args:
        raw: The usage as it was logged.
        answer_is_empty: Whether the answer has neither text nor calls.
        where: Name of the field, for messages.

    Raises:
        UnusableEpisodeError: If it is missing or cannot be read; names the field.
    """
    if not isinstance(raw, Mapping):
        given = "missing" if raw is None else f"{cut(repr(raw))}, no object"
        raise UnusableEpisodeError(
            BAD_COUNT, f"{where} is {given}; the tokens of the call are not known, log its usage"
        )
    try:
        return read_usage(cast("Mapping[str, object]", raw), answer_is_empty=answer_is_empty)
    except UsageError as error:
        raise UnusableEpisodeError(BAD_COUNT, str(error).replace("usage", where, 1)) from error


def note_left_out(report: ImportReport, left_out: Sequence[tuple[str, str]], *, source: str) -> None:
    """Note what the messages of an episode held besides texts and calls, once a kind."""
    for kind, n in Counter(kind for kind, _ in left_out).items():
        first = next(detail for other, detail in left_out if other == kind)
        report.note(kind, source=source, detail=first, n=n)


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
        first, _ = furthest(error)
        reason = next((_REASONS[part] for part in map(str, reversed(first["loc"])) if part in _REASONS), otherwise)
        raise UnusableEpisodeError(reason, explain(error)) from error


def read_log_files(path: Path, report: ImportReport, *, suffixes: tuple[str, ...]) -> Iterator[LogFile]:
    """Files of a folder or archive that end in one of the suffixes, or the given file whatever its name is.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    is_bundle = path.is_dir() or path.name.lower().endswith(ARCHIVE_SUFFIXES)
    yield from read_files(path, report, suffixes=suffixes if is_bundle else ())
