"""Which calls of a session are one conversation, in which order, and what came back to each.

A log may hold a call twice, in the wrong order, sent again, or beside the calls of other agents; a prompt may hold the whole
conversation so far, only what is new, or a summary of what was. Everything that is mended here is told to `tell`, which
counts it.
"""

import datetime
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import CallRecord
from mtrouter_rl.datasets.importers.messages import (
    SYSTEM_ROLES,
    ChatMessage,
    Note,
    join_texts,
    merge,
    split_opening,
)

LOST_CALL = "session with a call that no line logs"
DOUBLED = "call that is logged twice, counted once"
IN_PIECES = "call that is logged in pieces under one id, of which the fullest counts"
REORDERED = "session whose calls were not in the order of their time, put in order"
REGROWN = "session whose calls were not in the order of their prompts, put in order"
REWORDED = "answer that the next prompt shows in other words"
REPEATED = "prompt that was sent again, so that nothing came back to the answer before it"
SILENT = "answer to which nothing came back"
OTHER_BRANCH = "prompt that goes on from an earlier answer than the last one, which is put last"
REWOUND = "prompt that goes back behind answers that were given, whose observations are empty"
REWRITTEN = "history that was rewritten or cut (compaction): what is new in the prompt is the observation"
REUSED_ID = "session id that was used again for another conversation, kept as a session of its own"
UNCLEAR_ID = "session that goes on after its end, or whose id was used again: the log does not say which"
ODD_TIMES = "session whose times contradict its prompts, which only grow: the order of the file is kept"

_MS_PER_S = 1000.0
_CHARACTERS_PER_TOKEN = 4.0
_FIRST_MS = 1e11
"""A number above this is a time in milliseconds: as seconds it would lie beyond the year 5000."""

Tell = Callable[[str, str, str], None]
"""Takes kind, source and detail of what was mended."""


@dataclass(kw_only=True)
class PlacedCall:
    """A call and what came back to it."""

    record: CallRecord
    observation: str


@dataclass(kw_only=True)
class Thread:
    """One conversation.

    Attributes:
        opening: System text, task text, first observation.
        calls: Its calls, with what came back.
        left_out: (kind, detail) of what the messages held besides text and calls.
    """

    opening: tuple[str, str, str]
    calls: list[PlacedCall]
    left_out: list[Note] = field(default_factory=list)


def seconds_of(timestamp: str | float | None) -> float | None:
    """Time of a record, seconds since 1970; a text without a zone is taken as UTC; None if it is no time.

    Example:
        >>> seconds_of("2025-01-01T00:00:00Z") == seconds_of(1735689600) == seconds_of(1735689600000)
        True
    """
    if isinstance(timestamp, str):
        try:
            return seconds_of(float(timestamp))
        except ValueError:
            pass
        try:
            moment = datetime.datetime.fromisoformat(timestamp.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if timestamp is None or not math.isfinite(timestamp):
        return None
    return timestamp / _MS_PER_S if abs(timestamp) > _FIRST_MS else float(timestamp)


@dataclass(frozen=True, kw_only=True)
class Double:
    """A line that is left out because its call is logged elsewhere as well."""

    record: CallRecord
    kind: str
    detail: str


def without_doubles(records: Sequence[CallRecord]) -> tuple[list[CallRecord], list[Double]]:
    """Calls without those that are logged twice, and the lines that were dropped.

    Two lines are one call if they are equal in everything but the score and status of the session, or have one request id and
    say the same of the call. Of lines of one id and one prompt, of which one answer goes on from the other, the fullest counts.
    """
    kept: list[CallRecord] = []
    dropped: list[Double] = []
    by_print: dict[bytes, CallRecord] = {}
    by_id: dict[tuple[str, str], int] = {}
    for record in records:
        twin = by_print.get(record.fingerprint) if record.fingerprint else None
        if twin is not None and _is_one_line(twin, record):
            dropped.append(Double(record=record, kind=DOUBLED, detail=f"equal to {twin.source}"))
            continue
        by_print.setdefault(record.fingerprint, record)
        place = by_id.get((record.request_id, record.model)) if record.request_id else None
        if place is None:
            by_id[record.request_id, record.model] = len(kept)
            kept.append(record)
        elif not _is_same_prompt(record, kept[place]) or not _goes_on(record, kept[place]):
            kept.append(record)
        else:
            less, more = sorted((kept[place], record), key=_fullness)
            kind = DOUBLED if _fullness(less) == _fullness(more) else IN_PIECES
            detail = f"as {more.source}, id '{record.request_id}'"
            dropped.append(Double(record=less, kind=kind, detail=detail))
            kept[place] = more
    return kept, dropped


def _is_one_line(twin: CallRecord, record: CallRecord) -> bool:
    """Whether two lines that say the same of a call are one: a prompt of what is new alone may say the same twice."""
    is_whole = bool(_answers(record.messages)) or _file(twin) != _file(record)
    return is_whole or twin.facts == record.facts


def _fullness(record: CallRecord) -> tuple[int, int]:
    return record.usage.tokens.n_output, len(record.action_text)


def _goes_on(one: CallRecord, other: CallRecord) -> bool:
    short, long = sorted((one.action_text.strip(), other.action_text.strip()), key=len)
    return long.startswith(short)


def _is_same_prompt(one: CallRecord, other: CallRecord) -> bool:
    return len(one.messages) == len(other.messages) and all(
        _key(a) == _key(b) for a, b in zip(one.messages, other.messages, strict=True)
    )


def _key(message: ChatMessage) -> tuple[str, str]:
    return message.role, message.action_text


def in_order(records: Sequence[CallRecord], tell: Tell) -> list[CallRecord]:
    """Calls in the order of their times; where those are not all known, in that of the file, or of prompts that only grow."""
    times = [seconds_of(record.timestamp) for record in records]
    shown = [len(_answers(record.messages)) for record in records]
    if all(time is not None for time in times) and len({_has_zone(record.timestamp) for record in records}) <= 1:
        order = sorted(range(len(records)), key=lambda index: times[index] or 0.0)
        if order == list(range(len(records))):
            return list(records)
        if all(before < after for before, after in pairwise(shown)):
            tell(ODD_TIMES, records[0].source, f"{len(records)} calls")
            return list(records)
        tell(REORDERED, records[0].source, f"{len(records)} calls")
        return [records[index] for index in order]
    first = min(shown, default=0)
    if sorted(shown) == list(range(first, first + len(shown))) and shown != sorted(shown):
        tell(REGROWN, records[0].source, f"{len(records)} calls without a time")
        return sorted(records, key=lambda record: len(_answers(record.messages)))
    return list(records)


def _has_zone(timestamp: str | float | None) -> bool:
    """Whether a time says where it is meant: a number, or a text with a zone. Others cannot be compared with those."""
    if not isinstance(timestamp, str):
        return True
    try:
        return datetime.datetime.fromisoformat(timestamp.strip()).tzinfo is not None
    except ValueError:
        return True


def _answers(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    return [message for message in messages if message.role == "assistant"]


def _system(messages: Sequence[ChatMessage]) -> str | None:
    texts = [message.text for message in messages if message.role in SYSTEM_ROLES]
    return "\n\n".join(texts) if texts else None


def _task(messages: Sequence[ChatMessage]) -> str | None:
    return next((message.text for message in messages if message.role == "user"), None)


def _knows(record: CallRecord, earlier: Iterable[CallRecord]) -> bool:
    """Whether a prompt shows the answer of one of the earlier calls."""
    shown = {message.action_text.strip() for message in _answers(record.messages)}
    return any(one.action_text.strip() in shown for one in earlier)


def by_conversation(records: Sequence[CallRecord], tell: Tell) -> list[list[CallRecord]]:
    """Calls under one session id, parted where the id was used again for another conversation.

    That is so where a prompt opens another task, shows no answer of the conversation before, and nothing goes back to that
    one later; and where it is of another file after a session that had ended, or repeats the system prompt.

    Raises:
        UnusableEpisodeError: If that may be so in one file after an end, which a prompt of what is new alone looks like too.
    """
    parts: list[list[CallRecord]] = []
    for index, record in enumerate(records):
        if not parts or _opens_another(parts[-1], record, records[index + 1 :]):
            if parts:
                tell(REUSED_ID, record.source, f"'{record.session_id}' was used before in {parts[-1][0].source}")
            parts.append([])
        parts[-1].append(record)
    return parts


def _opens_another(part: Sequence[CallRecord], record: CallRecord, later: Sequence[CallRecord]) -> bool:
    first, before = part[0], part[-1]
    task = _task(record.messages)
    if record.is_opening:
        return True
    if task is None or record.agent_id or record.parent_id or _answers(record.messages):
        return False
    has_ended = before.facts.is_end
    if task == _task(first.messages):
        if has_ended and _is_same_prompt(record, first) and _scores_differ(before, record):
            raise _unclear(before, record, "repeats the first prompt and has another score")
        return False
    system = _system(record.messages)
    repeats_system = system is not None and system == _system(first.messages)
    if _is_named_alike(first, record) or not (has_ended or repeats_system):
        return False
    if system is not None and not repeats_system and not record.facts.is_end:
        return False  # a call of another agent
    if any(_knows(one, part) or _task(one.messages) == _task(first.messages) for one in later):
        return False
    if _file(record) != _file(before):
        return True
    if has_ended and (repeats_system or not _holds_history(before, record)):
        raise _unclear(before, record, "begins with another task")
    return False


def _unclear(before: CallRecord, record: CallRecord, what: str) -> UnusableEpisodeError:
    detail = (
        f"{before.source} ends '{record.session_id}', and {record.source} {what}; give each conversation an id of its own, or "
        "the whole conversation in every prompt, or the score on the last line alone"
    )
    return UnusableEpisodeError(UNCLEAR_ID, detail, source=record.source)


def _scores_differ(one: CallRecord, other: CallRecord) -> bool:
    return one.facts.score is not None and other.facts.score is not None and one.facts.score != other.facts.score


def _holds_history(before: CallRecord, record: CallRecord) -> bool:
    """Whether a prompt of which only what is new was logged was billed with the history before it.

    With it, the prompt grows by the answer before and the new text; without it, by the difference of the two texts. Which of
    the two the billed tokens are nearer to decides, at four characters a token.
    """
    grown = record.usage.tokens.n_prompt - before.usage.tokens.n_prompt - _n_characters(record) / _CHARACTERS_PER_TOKEN
    with_history = before.usage.tokens.n_output
    without_history = -_n_characters(before) / _CHARACTERS_PER_TOKEN
    return grown > (with_history + without_history) / 2


def _n_characters(record: CallRecord) -> int:
    return sum(len(message.text) for message in record.messages)


def _is_named_alike(one: CallRecord, other: CallRecord) -> bool:
    return one.facts.instance is not None and one.facts.instance == other.facts.instance


def _file(record: CallRecord) -> str:
    return record.source.rpartition(":")[0] or record.source


def by_agent(records: Sequence[CallRecord]) -> list[list[CallRecord]]:
    """Calls of one session, parted into the conversations of its agents: the main one first, the others as they come.

    The main one is that which the log names so, or that which lasts longest: others lie within it, or are short calls before or
    after it, such as for a title. Where the log names no agents, a conversation with another system prompt is another agent's,
    and so is a prompt of another task whose answer no later prompt shows, while those of the conversation before go on.
    """
    if any(record.agent_id or record.parent_id for record in records):
        threads: dict[str, list[CallRecord]] = {}
        for record in records:
            threads.setdefault(record.agent_id, []).append(record)
        roots = [name for name, thread in threads.items() if not any(record.parent_id for record in thread)]
        main = "" if "" in threads else (roots or list(threads))[0]
        return [threads.pop(main), *threads.values()]
    found: list[list[CallRecord]] = []
    places: list[int] = []
    for index, record in enumerate(records):
        place = _thread_of(record, found, records[index + 1 :], places[-1] if places else 0)
        if place == len(found):
            found.append([])
        found[place].append(record)
        places.append(place)
    ends = {place for place, record in zip(places, records, strict=True) if record.facts.is_end}

    def rank(place: int) -> tuple[int, bool, int]:
        lasts = len(places) - 1 - places[::-1].index(place) - places.index(place)
        return lasts, ends == {place}, -place

    main_place = max(range(len(found)), key=rank)
    return [found.pop(main_place), *found]


def _thread_of(
    record: CallRecord, threads: Sequence[Sequence[CallRecord]], later: Sequence[CallRecord], current: int
) -> int:
    """Index of the conversation that a call belongs to; the number of them if it is a new one."""
    if not threads:
        return 0
    new = len(threads)
    answers = _answers(record.messages)
    if answers:
        last = answers[-1].action_text.strip()
        known = [
            place for place, thread in enumerate(threads) if any(one.action_text.strip() == last for one in thread)
        ]
        if current in known:
            return current
        if known:
            return known[-1]
    system, task = _system(record.messages), _task(record.messages)
    for place, thread in enumerate(threads):
        if (_system(thread[0].messages), _task(thread[0].messages)) == (system, task):
            return place
    if system is not None and all(_system(thread[0].messages) != system for thread in threads):
        return new
    if answers or (system is None and _system(threads[current][0].messages) is not None):
        return current
    # No answers, another first message, no system prompt of its own: what is new, a summary, or a call beside.
    goes_on_without = any(_knows(one, threads[current][-1:]) and not _knows(one, [record]) for one in later)
    is_cumulative = any(_answers(one.messages) for thread in threads for one in thread) or goes_on_without
    return new if is_cumulative and goes_on_without else current


class Placer:
    """Finds what came back to each call of one conversation, from the prompts that follow it."""

    def __init__(self, records: Sequence[CallRecord], tell: Tell, *, keeps_examples: bool) -> None:
        self._tell = tell
        self._placed: list[PlacedCall] = []
        self._seen: set[tuple[str, str]] = set()
        self._n_shown = 0
        self._is_cumulative = False
        first = records[0]
        n_earlier = len(_answers(first.messages))
        if n_earlier and not keeps_examples:
            detail = f"{first.source}: the first prompt shows {n_earlier}; if those are examples, --option earlier_answers=keep"
            raise UnusableEpisodeError(LOST_CALL, detail)
        self.thread = Thread(opening=split_opening(first.messages), calls=self._placed)
        for record in records:
            self._place(record)

    def _place(self, record: CallRecord) -> None:
        prompt = record.messages
        if self._placed:
            self._observe(record)
        for message in prompt:
            if _key(message) not in self._seen:
                self.thread.left_out += message.left_out
        if record.response is not None:
            self.thread.left_out += record.response.left_out
        self._seen |= set(map(_key, prompt))
        if record.response is not None:
            self._seen.add(_key(record.response))
        self._n_shown = len(_answers(prompt))
        self._placed.append(PlacedCall(record=record, observation=record.observation))

    def _observe(self, record: CallRecord) -> None:
        prompt, before = record.messages, self._placed[-1].record
        places = [index for index, message in enumerate(prompt) if message.role == "assistant"]
        # Prompts of what is new alone may say the same twice ("Go on."); the first one is never a repetition of them.
        is_opening = _is_same_prompt(record, self._placed[0].record)
        if _is_same_prompt(record, before) and (places or is_opening):
            self._tell(REPEATED, record.source, f"after {before.source}")
            return
        if places:
            self._check_lost(record, places)
            self._is_cumulative = True
            self._after_answers(record, places)
        else:
            self._after_none(record)

    def _check_lost(self, record: CallRecord, places: Sequence[int]) -> None:
        """See that the prompt shows no answer that no line logs."""
        actions = {placed.record.action_text.strip() for placed in self._placed}
        last = self._placed[-1].record.action_text.strip()
        if len(places) > self._n_shown + 1 and not _ends_as(record.messages[: places[-1] + 1], last):
            new = [record.messages[place] for place in places if _key(record.messages[place]) not in self._seen]
            unknown = [message for message in new if message.action_text.strip() not in actions]
            if unknown:
                detail = (
                    f"the prompt shows {len(places)} answers, the one before it {self._n_shown}; one call is between"
                )
                raise UnusableEpisodeError(LOST_CALL, detail, source=record.source)

    def _after_answers(self, record: CallRecord, places: Sequence[int]) -> None:
        prompt, last = record.messages, self._placed[-1]
        shown = prompt[places[-1]].action_text.strip()
        new = join_texts(prompt[places[-1] + 1 :])
        if shown == last.record.action_text.strip() or _ends_as(
            prompt[: places[-1] + 1], last.record.action_text.strip()
        ):
            if len(places) < self._n_shown:
                self._tell(REWRITTEN, record.source, f"{len(places)} answers, {self._n_shown} before")
            last.observation = last.observation or new
            if not last.observation:
                self._tell(SILENT, last.record.source, f"before {record.source}")
            return
        place = next(
            (
                index
                for index in reversed(range(len(self._placed)))
                if self._placed[index].record.action_text.strip() == shown
            ),
            None,
        )
        if place is None:
            self._tell(REWORDED, record.source, "")
            last.observation = last.observation or new
        elif all(_is_same_prompt(one.record, self._placed[place].record) for one in self._placed[place:]):
            self._tell(OTHER_BRANCH, record.source, f"answer of {self._placed[place].record.source}")
            chosen = self._placed.pop(place)
            chosen.observation = chosen.observation or new
            self._placed.append(chosen)
        else:
            self._tell(REWOUND, record.source, f"to the answer of {self._placed[place].record.source}")

    def _after_none(self, record: CallRecord) -> None:
        """A prompt without answers: only what is new, or a history that was rewritten."""
        last = self._placed[-1]
        spoken = [message for message in record.messages if message.role not in SYSTEM_ROLES]
        first = _key(spoken[0]) if spoken else None
        opening = next((m for m in self._placed[0].record.messages if m.role not in SYSTEM_ROLES), None)
        is_whole = opening is not None and first == _key(opening) and len(spoken) > 1
        if self._is_cumulative or is_whole:
            self._tell(REWRITTEN, record.source, f"no answer in the prompt, {self._n_shown} before")
            spoken = [message for message in spoken if _key(message) not in self._seen]
        last.observation = last.observation or join_texts(spoken)


def _ends_as(messages: Sequence[ChatMessage], action: str) -> bool:
    """Whether the answers at the end, one after the other, are the parts of one action."""
    run: list[ChatMessage] = []
    for message in reversed(messages):
        if message.role != "assistant":
            break
        run.insert(0, message)
        if len(run) > 1 and merge(run).action_text.strip() == action:
            return True
    return False
