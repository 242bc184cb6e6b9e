"""Simulated models over the protocol: the double plays the same task, and says what the pool would say in one process.

A client names its episode in a header. The double keeps a copy of the text task for it, steps it along the answers that the
conversation holds, and asks the simulated pool. Copies are few, since a simulator may be heavy: one that is needed for another
episode is taken from the one that waited longest, and that one is played again from the start when it comes back.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.harness import Harness
from mtrouter_rl.errors import InvalidConfigError, MTRouterError
from mtrouter_rl.pools.remote.replies import read_tool_calls
from mtrouter_rl.pools.simulated.backend import PastCall, SimulatedBackend, make_backend
from mtrouter_rl.protocols import Reply, TextTask
from mtrouter_rl.records import JsonValue, Message, TokenUsage
from mtrouter_rl.registry import TASK_FAMILIES
from mtrouter_rl.testing.fake_llm.answers import Answer
from mtrouter_rl.testing.fake_llm.conversation import ChatRequest, RefusedError, text_of

_KEPT_SESSIONS = 20_000
_NOTHING = TokenUsage(n_fresh=0, n_output=0)


@dataclass(frozen=True, kw_only=True)
class EpisodeName:
    """Which episode a session plays."""

    task: str
    variation: int
    seed: int

    @classmethod
    def of(cls, header: str) -> "EpisodeName":
        """Episode of the header `TASK|VARIATION|SEED`, after which more may follow that tells sessions of it apart.

        Raises:
            RefusedError: If the header is none.
        """
        parts = header.split("|")
        if len(parts) < 3 or not parts[1].isdecimal() or not parts[2].isdecimal():
            raise RefusedError(400, f"session is {header[:80]!r}, must be TASK|VARIATION|SEED")
        return cls(task=parts[0], variation=int(parts[1]), seed=int(parts[2]))


def is_episode(text: str) -> bool:
    """Whether a text names an episode."""
    try:
        EpisodeName.of(text)
    except RefusedError:
        return False
    return True


@dataclass(frozen=True)
class _Given:
    """An answer that was given at a turn."""

    model: str
    text: str
    latency_s: float
    is_failure: bool = False

    @classmethod
    def of(cls, model: str, reply: Reply) -> "_Given":
        return cls(model, reply.text, reply.latency_s, is_failure=bool(reply.hidden.get("failure")))


@dataclass(frozen=True)
class _Said:
    """What an answer in a conversation did: its action at its turn, None for none; whether the turn ended with it."""

    turn: int
    action: str | None
    ends_turn: bool = True


@dataclass
class _Copy:
    """A copy of the task, and how far it was played for whom."""

    task: TextTask
    backend: SimulatedBackend
    session: str = ""
    actions: list[str | None] = field(default_factory=list)
    is_over: bool = True
    is_busy: bool = False


class SimulatedAnswers:
    """Answers as the simulated pool of an environment does; see the module."""

    def __init__(self, config: EnvConfig, *, n_copies: int) -> None:
        """Create it; no simulator is started before the first request.

        Raises:
            InvalidConfigError: If the pool is not simulated, or there is no copy.
            CardError: If the cards break their rules.
        """
        if config.pool.backend.kind != "simulated":
            raise InvalidConfigError(
                f"pool '{config.pool.name}' has the backend '{config.pool.backend.kind}'; the double plays simulated models: "
                "give --pool with a simulated one"
            )
        if n_copies < 1:
            raise InvalidConfigError(f"copies of the task are {n_copies}, must be at least 1")
        self._config = config
        card = config.card
        self._harness = Harness(card.harness, card.system_prompt, config.pool.token_counter) if card.harness else None
        self._free = threading.Condition()
        self._copies = [self._make_copy() for _ in range(n_copies)]
        self._given: OrderedDict[str, dict[int, list[_Given]]] = OrderedDict()

    def answer(self, request: ChatRequest, session: str) -> Answer:
        """Answer what the simulated pool answers at this turn of the episode."""
        pool = self._config.pool
        if request.model not in pool.model_names:
            raise RefusedError(404, f"the model '{request.model[:80]}' does not exist", kind="model_not_found")
        name = EpisodeName.of(session)
        said = self._said(request)
        actions = [one.action for one in said if one.ends_turn]
        past = self._past_calls(session, request, said)
        with self._copy_for(session) as copy:
            try:
                self._bring(copy, name, actions)
                copy.backend.start_episode(
                    task=copy.task, task_name=name.task, variation=name.variation, seed=name.seed
                )
                copy.backend.take_up(past)
                if request.model in copy.backend.out_of_order(len(actions)):
                    raise RefusedError(503, f"the model '{request.model}' is out of order", kind="server_error")
                reply = copy.backend.reply(
                    request.model, plain(request), turn=len(actions), max_output_tokens=request.max_tokens
                )
            except MTRouterError as error:
                copy.session = ""
                raise RefusedError(400, str(error)) from error
        self._keep(session, len(actions), _Given.of(request.model, reply))
        return Answer(text=reply.text, usage=reply.usage, latency_s=reply.latency_s)

    def close(self) -> None:
        """Close every copy of the task."""
        for copy in self._copies:
            copy.task.close()

    def _make_copy(self) -> _Copy:
        make_task = cast("type[TextTask]", TASK_FAMILIES.load(self._config.card.family))
        task: TextTask = make_task(self._config.card)  # type: ignore[call-arg]
        return _Copy(task=task, backend=make_backend(self._config.pool, self._config.card))

    @contextmanager
    def _copy_for(self, session: str) -> Iterator[_Copy]:
        """The copy that plays a session, else the one that was used least recently; waits where all are in use."""
        with self._free:
            while True:
                mine = next((one for one in self._copies if one.session == session), None)
                if mine is None:
                    mine = next((one for one in self._copies if not one.is_busy), None)
                if mine is not None and not mine.is_busy:
                    break
                self._free.wait()
            mine.is_busy = True
            if mine.session != session:
                mine.session, mine.is_over, mine.actions = session, True, []
            self._copies.remove(mine)
            self._copies.append(mine)
        try:
            yield mine
        finally:
            with self._free:
                mine.is_busy = False
                self._free.notify_all()

    @staticmethod
    def _bring(copy: _Copy, name: EpisodeName, actions: Sequence[str | None]) -> None:
        """Bring a copy to where a conversation is; None is a turn that did not move the task."""
        if copy.is_over or copy.actions != list(actions[: len(copy.actions)]):
            copy.task.reset(name.task, name.variation, name.seed)
            copy.actions, copy.is_over = [], False
        for action in actions[len(copy.actions) :]:
            copy.is_over = action is not None and copy.task.step(action).ending != ""
            copy.actions.append(action)
            if copy.is_over:
                raise RefusedError(400, "the episode is over; nothing follows its last action")

    def _said(self, request: ChatRequest) -> list["_Said"]:
        """What every answer in a conversation did. With a harness one without an action was reminded, once a turn."""
        if self._harness is None:
            return [_Said(turn, action) for turn, action in enumerate(request.actions)]
        said: list[_Said] = []
        turn, is_reminded = 0, False
        for message in request.messages:
            if message.get("role") != "assistant":
                continue
            read = self._harness.read(_as_reply(message))
            is_first_slip = bool(read.problem) and not is_reminded
            said.append(_Said(turn, None if read.problem else read.action, ends_turn=not is_first_slip))
            turn, is_reminded = (turn, True) if is_first_slip else (turn + 1, False)
        return said

    def _past_calls(self, session: str, request: ChatRequest, said: Sequence["_Said"]) -> list[PastCall]:
        """The calls behind the answers in a conversation: which model gave each, how long it took, how long its prompt was.

        An answer that the double has not given stands for no call.
        """
        with self._free:
            given = {turn: list(answers) for turn, answers in self._given.get(session, {}).items()}
        counter, calls, n_prompt, answers_left = self._config.pool.token_counter, [], 0, iter(said)
        for message in request.messages:
            if message.get("role") == "assistant":
                one = next(answers_left)
                found = next((g for g in reversed(given.get(one.turn, ())) if g.text == one.action), None)
                if found is not None:
                    calls.append(
                        PastCall(
                            model=found.model,
                            n_prompt=n_prompt,
                            latency_s=found.latency_s,
                            is_failure=found.is_failure,
                        )
                    )
            n_prompt += counter.count(text_of(message))
        return calls

    def _keep(self, session: str, turn: int, given: _Given) -> None:
        with self._free:
            turns = self._given.setdefault(session, {})
            self._given.move_to_end(session)
            turns.setdefault(turn, []).append(given)
            if len(self._given) > _KEPT_SESSIONS:
                self._given.popitem(last=False)


def _as_reply(message: Mapping[str, object]) -> Reply:
    """An assistant message as a backend would have given it."""
    calls = read_tool_calls(cast("JsonValue", message.get("tool_calls")))
    kept = Message(role="assistant", content=text_of(message), tool_calls=calls)
    return Reply(text=text_of(message), usage=_NOTHING, latency_s=0.0, served_model="", message=kept)


def plain(request: ChatRequest) -> list[Message]:
    """The conversation as records; roles that the records do not know are the user's."""
    roles: Mapping[str, str] = {"system": "system", "developer": "system", "assistant": "assistant"}
    return [
        Message(role=roles.get(str(one.get("role")), "user"), content=text_of(one))  # type: ignore[arg-type]
        for one in request.messages
    ]
