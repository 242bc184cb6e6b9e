"""What the importers of logged calls share: session ids, what a log says of a session, models, and the loop over files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from mtrouter_rl.datasets.importers.base import Amount, ChatImporter, ImportSource, ModelNames, UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import (
    BrokenRecord,
    Record,
    SessionFacts,
    SessionStatus,
)
from mtrouter_rl.datasets.importers.chat import BAD_PROPENSITY, BAD_SHAPE, ChatMessage
from mtrouter_rl.datasets.importers.formats.rows import Object, as_number, as_text
from mtrouter_rl.datasets.importers.query_table import is_missing, read_score
from mtrouter_rl.datasets.importers.sessions import SessionAssembler, SessionOptions
from mtrouter_rl.errors import DatasetError, UsageError
from mtrouter_rl.pools.usage import read_usage
from mtrouter_rl.records import Episode, Frozen, JsonValue

FAILED_CALL = "request that failed and has no tokens"
OTHER_CALL = "call that is no chat (embedding, moderation, sound, picture)"
BY_PREFIX = "call without a session id, put to the session whose conversation it goes on"
STATUSES = ("completed", "truncated", "failed")
SESSION_KEYS = ("session_id", "sessionId", "conversation_id", "conversationId", "thread_id", "trace_id", "traceId")
_DIGEST_BYTES = 12


class CallLogOptions(SessionOptions):
    """Options of the importers of logged calls.

    Attributes:
        propensities: Whether every call must have a propensity.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="exact: a call without propensity is left out with its session; unknown: it may lack one"),
    ] = "unknown"


class CallLogImporter(ChatImporter[CallLogOptions]):
    """Base of the importers of logged calls; a subclass gives `records` and says what it looks for."""

    options_model: ClassVar[type[Frozen]] = CallLogOptions
    takes_scores: ClassVar[bool] = True
    wanted: ClassVar[str] = ""
    """What to give where nothing of the format is found."""
    assumptions: tuple[str, ...] = (
        "a score is booked on the last turn",
        "every model of the pool could be chosen where the log has no candidates",
        "no prompt cache was warm before a turn, as far as a router could know; cached tokens are billed as logged",
        "a session without instance is an instance of its own; variation is a 48-bit hash of the instance",
        "turns and budget are unlimited where the log has no limits",
        "a session without status was ended by the task itself",
    )

    def records(self, source: ImportSource) -> Iterator[Record]:  # pragma: no cover
        """Records of all paths, in any order."""
        raise NotImplementedError

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes of all sessions; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds a call of the format.
        """
        assembler = SessionAssembler(source, self._options)
        n_records = 0
        for record in self.records(source):
            n_records += 1
            yield from assembler.take(record)
        yield from assembler.finish()
        if not n_records:
            raise DatasetError(f"no call of the format in {', '.join(map(str, source.paths))}; give {self.wanted}")


class Models:
    """Which model was chosen and which answered, by names of the pool where it knows them."""

    def __init__(self, source: ImportSource) -> None:
        self._names = ModelNames(source.pool)

    def pair(self, requested: Iterable[str], answered: Iterable[str]) -> tuple[str, str]:
        """Chosen and served model.

        Args:
            requested: Names that the request had, best first.
            answered: Names that the answer had, best first.

        Returns:
            The chosen one is the requested one if the pool has it, else the one that answered (a gateway's "auto"). The
            served one is empty if it is the chosen one, or if the pool does not have its name.
        """
        asked, said = [name for name in requested if name], [name for name in answered if name]
        chosen = self._names.find(*asked) if asked else None
        served = self._names.find(*said) if said else None
        if chosen is None:
            return served or next(iter([*asked, *said]), ""), ""
        return chosen, served if served is not None and served != chosen else ""


def session_of(*places: Object) -> str:
    """Session id of a call, from the first of these objects that has one under a usual name; empty if none has."""
    for key in SESSION_KEYS:
        for place in places:
            found = as_text(place.get(key))
            if found:
                return found
    return ""


def facts_of(*places: Object) -> SessionFacts:
    """What a log says of a session, in this project's own names (`score`, `status`, `task`...), wherever the caller put them.

    Raises:
        UnusableEpisodeError: If a value breaks its rule; names the field.
    """
    given: dict[str, JsonValue] = {}
    for place in reversed(places):
        given |= {name: value for name, value in place.items() if value is not None}
    values: dict[str, object] = {}
    if not is_missing(given.get("score")) and not isinstance(given.get("score"), dict | list):
        values["score"] = read_score(given["score"])
    status = given.get("status")
    if status in STATUSES:
        values["status"] = cast("SessionStatus", status)
    for name in ("task", "instance", "behavior_policy", "status_detail"):
        if as_text(given.get(name)):
            values[name] = as_text(given[name])
    for name in ("seed", "max_turns"):
        number = as_number(given.get(name))
        if number is not None:
            values[name] = _whole(name, number)
    if (budget := as_number(given.get("budget_usd"))) is not None:
        values["budget_usd"] = budget
    return SessionFacts(**values)  # type: ignore[arg-type]


def _whole(name: str, number: float) -> int:
    if number < 0 or not number.is_integer():
        raise UnusableEpisodeError(BAD_SHAPE, f"{name} is {number:g}, must be a whole number >= 0")
    return int(number)


def propensity_of(*places: Object) -> float | None:
    """Probability of the chosen model, if the log has it.

    Raises:
        UnusableEpisodeError: If it is no probability.
    """
    given = next((place["propensity"] for place in places if not is_missing(place.get("propensity"))), None)
    if given is None:
        return None
    number = as_number(given)
    if number is None or not 0 < number <= 1:
        raise UnusableEpisodeError(BAD_PROPENSITY, f"propensity is {given!r:.60}, must be in (0, 1]")
    return number


def candidates_of(*places: Object) -> tuple[str, ...] | None:
    """Models that could be chosen, if the log has them."""
    given = next((place["candidates"] for place in places if isinstance(place.get("candidates"), list)), None)
    return None if given is None else tuple(map(as_text, cast("list[JsonValue]", given)))


def broken(source: str, session_id: str, error: UnusableEpisodeError, usage: object = None) -> BrokenRecord:
    """Record of a call that cannot be read."""
    return BrokenRecord(
        source=source, session_id=session_id or source, reason=error.reason, detail=error.detail, amount=_amount(usage)
    )


def _amount(usage: object) -> Amount:
    if not isinstance(usage, Mapping):
        return Amount.of_call(None, None)
    try:
        reading = read_usage(usage)
    except UsageError:
        return Amount.of_call(None, None)
    return Amount.of_call(reading.tokens, reading.cost_usd)


class PrefixSessions:
    """Puts calls without a session id to the session whose conversation their prompt goes on."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, str] = {}

    def session(self, messages: Sequence[ChatMessage], response: ChatMessage | None, *, fresh: str) -> tuple[str, bool]:
        """Session of a call, and whether it was known; call this in the order of time.

        Args:
            messages: The whole prompt.
            response: The answer.
            fresh: Id of a session that begins with this call.
        """
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        found = ""
        for message in messages:
            _add(digest, message)
            if message.role == "assistant":
                found = self._sessions.get(digest.digest(), found)
        session_id = found or fresh
        if response is not None:
            _add(digest, response)
            self._sessions.setdefault(digest.digest(), session_id)
        return session_id, bool(found)


def _add(digest: "hashlib.blake2b", message: ChatMessage) -> None:
    role = "system" if message.role == "developer" else message.role
    digest.update(f"{role}\0{message.action_text.strip()}\0".encode("utf-8", errors="surrogatepass"))


def fingerprint(row: object) -> bytes:
    """Hash of all that a row says."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()
