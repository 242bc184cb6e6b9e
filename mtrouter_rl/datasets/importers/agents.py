"""Calls of all agents of a session as the turns of one episode, and which call comes from which.

A log says which agent called which, and when; it does not say which answer a prompt used. So the links are these: a call comes
from the one before it of its own agent, and from the last call of each agent that its own one had called and that came to its
end since. The first call of a sub-agent comes from the last call that the agent above it had made by then. Where a line names
its parents itself, they count instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import CallRecord
from mtrouter_rl.datasets.importers.threads import PlacedCall, Tell, Thread

BAD_PARENTS = "call that names a parent which is no earlier call of its session"
LEFT_PARENT = "parent that is a call of another agent, left out of the episode"


@dataclass(frozen=True, kw_only=True)
class LinkedCalls:
    """Calls of all agents.

    Attributes:
        calls: In the order in which they began, length T.
        agents: Agent of every call, as the log names it, length T; empty for the main one, and where the log names none.
        parents: For every call the indices of those that it comes from, smallest first, length T.
    """

    calls: tuple[PlacedCall, ...]
    agents: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]


def link_agents(threads: Sequence[Thread], records: Sequence[CallRecord]) -> LinkedCalls:
    """Put the conversations of agents together.

    Args:
        threads: One of each agent, that of the main one first.
        records: All calls of the session, in the order in which they began.
    """
    begun = {id(record): index for index, record in enumerate(records)}
    placed: list[tuple[int, int, PlacedCall]] = []
    for number, thread in enumerate(threads):
        rank = 0
        for call in thread.calls:
            rank = max(rank, begun[id(call.record)])  # an answer that was put last stays behind those before it
            placed.append((rank, number, call))
    placed.sort(key=lambda one: one[0])
    owners = [number for _, number, _ in placed]
    above = _agents_above(threads)
    calls = tuple(call for _, _, call in placed)
    return LinkedCalls(
        calls=calls,
        agents=tuple(call.record.agent_id if number else "" for call, number in zip(calls, owners, strict=True)),
        parents=tuple(_parents(index, owners, above) for index in range(len(owners))),
    )


def _agents_above(threads: Sequence[Thread]) -> Mapping[int, int]:
    """Number of the agent that called each sub-agent: the one that the log names, else the main one."""
    numbers = {thread.calls[0].record.agent_id: number for number, thread in enumerate(threads)}
    found: dict[int, int] = {}
    for number, thread in enumerate(threads[1:], start=1):
        named = next((call.record.parent_id for call in thread.calls if call.record.parent_id), "")
        parent = numbers.get(named, 0)
        found[number] = 0 if parent == number else parent
    return found


def _parents(index: int, owners: Sequence[int], above: Mapping[int, int]) -> tuple[int, ...]:
    """The calls that a call comes from; `owners` says whose each call is."""
    own = owners[index]
    before = [place for place in range(index) if owners[place] == own]
    if not before:
        over = [place for place in range(index) if own in above and owners[place] == above[own]]
        return (over[-1],) if over else ()
    lasts = {number: len(owners) - 1 - owners[::-1].index(number) for number, parent in above.items() if parent == own}
    ended = [last for last in lasts.values() if before[-1] < last < index]
    return tuple(sorted({before[-1], *ended}))


def named_parents(
    calls: Sequence[PlacedCall], records: Sequence[CallRecord], tell: Tell
) -> tuple[tuple[int, ...] | None, ...]:
    """Parents that the lines of a log name themselves, by request id; None at calls that name none, length T.

    Args:
        calls: The calls of the episode, in order, length T.
        records: All calls of the session, those that are left out of the episode among them.
        tell: Counts parents that are left out of the episode.

    Raises:
        UnusableEpisodeError: If one is unknown, the call itself or a later one; names line, id and fix.
    """
    left_out = {one.request_id for one in records} - {one.record.request_id for one in calls}
    later = {one.record.request_id for one in calls}
    places: dict[str, int] = {}
    found: list[tuple[int, ...] | None] = []
    for index, record in enumerate(one.record for one in calls):
        own = set[int]()
        for name in record.parents or ():
            if name and name in places:
                own.add(places[name])
            elif name and name in left_out:
                tell(LEFT_PARENT, record.source, f"'{name}'")
            else:
                raise _bad_parent(record, name, is_later=name in later)
        # Where all that it names is left out, nothing is known but that it comes after the turn before.
        found.append(None if record.parents is None or (record.parents and not own) else tuple(sorted(own)))
        places[record.request_id] = index
    return tuple(found)


def _bad_parent(record: CallRecord, name: str, *, is_later: bool) -> UnusableEpisodeError:
    if name and name == record.request_id:
        what = "the call itself"
    else:
        what = "a later call" if is_later and name else "no call of the session"
    detail = f"parents names '{name}', which is {what}; name earlier calls of the session by their request_id"
    return UnusableEpisodeError(BAD_PARENTS, detail, source=record.source)
