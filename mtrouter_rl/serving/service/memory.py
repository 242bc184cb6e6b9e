"""What a replica keeps of sessions between two turns, and how it is made anew from the store."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.serving.service.rows import DecisionRow, SessionRow
from mtrouter_rl.serving.service.talk import PastCall, Prompt, Raw, Talk, digest_of

ValueT = TypeVar("ValueT")


class Recent(Generic[ValueT]):
    """The values that were used last, by key."""

    def __init__(self, size: int) -> None:
        """Keep so many."""
        self._size = size
        self._kept: OrderedDict[object, ValueT] = OrderedDict()

    def get(self, key: object) -> ValueT | None:
        """A value; None if it is not kept."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: object, value: ValueT) -> None:
        """Keep a value."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def forget(self, key: object) -> None:
        """Keep it no longer."""
        self._kept.pop(key, None)


def talk_of(session: SessionRow, past: Sequence[DecisionRow], pool: PoolCard) -> Talk:
    """A session up to its last answer, from what the store holds of it."""
    messages: tuple[Raw, ...] = ()
    talk = Talk(version=session.version, task=session.task_text, first_observation=session.first_observation)
    for row in past:
        prompt = Prompt((*messages[: row.n_kept], *row.messages))
        answer = row.answer or {"role": "assistant", "content": ""}
        call = PastCall(
            model=pool.index(row.model),
            action=row.action or "",
            error=row.error or "",
            prompt=row.prompt,
            answer=digest_of(answer),
        )
        talk = talk.after(prompt, row.observation or "", call, model=row.model, version=session.version)
        messages = (*prompt.messages, answer)
    return talk
