"""One turn after the other: finds the session, asks the router, draws, writes the decision, and books what came of it."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.pools.handover import prepare
from mtrouter_rl.records import UNLIMITED_TURNS, FloatArray, Observation
from mtrouter_rl.serving.service.brain import Brain, BrainBox
from mtrouter_rl.serving.service.database import BusyError
from mtrouter_rl.serving.service.limits import Allowed, Money, allowed_models
from mtrouter_rl.serving.service.memory import Recent, talk_of
from mtrouter_rl.serving.service.policy import Chances, default_chances, draw, one_hot
from mtrouter_rl.serving.service.problems import RequestError, bad_request
from mtrouter_rl.serving.service.requests import Asked
from mtrouter_rl.serving.service.rows import DecisionRow, Found, Outcome, SessionRow
from mtrouter_rl.serving.service.settings import ServiceSettings
from mtrouter_rl.serving.service.store import AccountError, ConflictError, Opening, Store
from mtrouter_rl.serving.service.talk import PastCall, Prompt, Talk, digest_of, extended
from mtrouter_rl.serving.service.turns import (
    Decided,
    Maker,
    Turn,
    Weighed,
    authors_of,
    day_of,
    decision_of,
    facts_of,
    failed_of,
    new_texts_of,
    nothing_allowed,
    texts_of,
)

logger = logging.getLogger(__name__)
ValueT = TypeVar("ValueT")

_N_SESSIONS = 20_000
_N_CONFLICTS = 5


class Desk:
    """Decides and books. One for a process; its methods run in one event loop.

    Attributes:
        box: The router.
        store: Where everything is kept.
        settings: Limits and rules.
    """

    def __init__(
        self,
        box: BrainBox,
        store: Store,
        settings: ServiceSettings,
        *,
        seed: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take a router and a store.

        Args:
            box: The router.
            store: Where everything is kept.
            settings: Limits and rules.
            seed: Seed of the draws; None takes one of the operating system.
            now: Clock, seconds since 1970.
        """
        self.box, self.store, self.settings = box, store, settings
        self.pool: PoolCard = box.brain.live.pool
        self._rng = np.random.default_rng(seed)
        self._now = now
        self._talks: Recent[Talk] = Recent(_N_SESSIONS)
        self._sessions: Recent[SessionRow] = Recent(_N_SESSIONS)
        self._store_threads = ThreadPoolExecutor(store.n_threads, thread_name_prefix="store")
        self._router_threads = ThreadPoolExecutor(1, thread_name_prefix="router")

    def close(self) -> None:
        """End the threads."""
        self._router_threads.shutdown(wait=False, cancel_futures=True)
        self._store_threads.shutdown(wait=True)

    async def in_store(self, call: Callable[..., ValueT], *args: object, **named: object) -> ValueT:
        """Run a method of the store without holding up the others."""
        return await asyncio.get_running_loop().run_in_executor(self._store_threads, lambda: call(*args, **named))

    async def in_store_now(self, call: Callable[..., ValueT], *args: object) -> ValueT:
        """The same for a short write: here and now if nobody else writes, since another thread takes longer to wake up."""
        try:
            with self.store.no_wait():
                return call(*args)
        except BusyError:
            return await self.in_store(call, *args)

    async def decide(self, asked: Asked, *, source: str) -> Decided:
        """Choose the model of a turn and write it down.

        Args:
            asked: The request.
            source: "chat" where the service calls the model, "route" where the client does.

        Raises:
            RequestError: If no model may be called, the session is busy, or the conversation is none.
            StoreError: If the store cannot be written.
        """
        self._encode_early(asked.prompt)
        for number in range(_N_CONFLICTS):
            with contextlib.suppress(ConflictError):
                return await self._decided(asked, source, asks_store=number > 0)
        raise RequestError(
            409, "the session is being changed by other requests; send one after the other", code="session_busy"
        )

    async def settle(self, decided: Decided, outcome: Outcome) -> None:
        """Write what came of a call; the session goes on from it.

        Raises:
            StoreError: If the store cannot be written.
        """
        decision = decided.decision
        try:
            session = await self.in_store_now(self.store.close, decision, outcome, decided.session)
        except ConflictError:
            logger.error("decision %s: its session was closed by another replica, so its outcome is lost", decision.id)
            return
        self._remember(decided, outcome, session)

    async def settle_reported(self, decision: DecisionRow, outcome: Outcome, session: SessionRow) -> SessionRow:
        """Write what a client says of a call that it made; gives the session as it is now.

        Raises:
            RequestError: If somebody else has closed it meanwhile.
            StoreError: If the store cannot be written.
        """
        if outcome.answer is not None:
            outcome = replace(outcome, head=extended(decision.prompt, digest_of(outcome.answer)))
        try:
            now = await self.in_store(self.store.close, decision, outcome, session)
        except ConflictError as error:
            raise RequestError(409, "the session has gone on without this outcome", code="outcome_too_late") from error
        if outcome.action is not None:
            self.box.brain.ahead([outcome.action])
        return now

    def _remember(self, decided: Decided, outcome: Outcome, session: SessionRow) -> None:
        decision = decided.decision
        if outcome.state != "done":
            self._talks.put(session.id, replace(decided.talk, version=session.version))
            return
        call = PastCall(
            model=self.pool.index(decision.model),
            action=outcome.action or "",
            error=outcome.error,
            prompt=decision.prompt,
            answer=digest_of(outcome.answer or {}),
        )
        talk = decided.talk.after(decided.prompt, decided.news, call, model=decision.model, version=session.version)
        self._talks.put(session.id, talk)
        if outcome.head is not None:
            self._sessions.put((session.key_id, outcome.head), session)
        self.box.brain.ahead([call.action])

    def head_of(self, decided: Decided, answer: Mapping[str, object]) -> bytes:
        """Name of the conversation with its answer."""
        return extended(decided.prompt.name, digest_of(answer))

    async def _decided(self, asked: Asked, source: str, *, asks_store: bool) -> Decided:
        prompt = asked.prompt
        found = None if asks_store else self._known(asked)
        if found is None:
            found = await self.in_store(
                self.store.find, asked.key_id, asked.session_name, prompt.name, prompt.heads, asked.request_id
            )
        if found.same is not None and (found.same.state == "done" or _is_known(found.same, asked, source)):
            return self._replay(asked, found)
        if found.same is not None and found.same.prompt != prompt.name:
            raise RequestError(
                409,
                "the request id was used for another conversation; give each request its own",
                code="request_id_taken",
            )
        session, known_version = await self._session(asked, found)
        same = found.same
        if same is not None and same.state == "open":  # it was buried just now
            return await self._decided(asked, source, asks_store=True)
        talk = await self._talk(session, known_version)
        news = talk.news(prompt) if talk.calls else ""
        if same is not None and (asked.model is not None or len(same.tries) < self.settings.tries_of_a_draw):
            return await self._again(same, session, talk, prompt, news)
        failed = {} if same is None else failed_of(same)
        turn = Turn(
            asked=asked,
            session=session,
            known_version=known_version,
            talk=talk,
            news=news,
            draw=found.n_draws,
            request_id=None if same is not None and same.request_id == asked.request_id else asked.request_id,
            failed=failed,
        )
        return await self._drawn(turn, source)

    def _known(self, asked: Asked) -> Found | None:
        """The session that a request goes on from, as this replica saw it last; if it has moved on, the store refuses it."""
        heads = asked.prompt.heads
        session = self._sessions.get((asked.key_id, heads[0])) if heads else None
        if session is None or (asked.session_name is not None and asked.session_name != session.name):
            return None
        return Found(session=session)

    def _replay(self, asked: Asked, found: Found) -> Decided:
        assert found.same is not None
        assert found.session is not None
        if found.same.prompt != asked.prompt.name:
            raise RequestError(
                409,
                "the request id was used for another conversation; give each request its own",
                code="request_id_taken",
            )
        talk = Talk(version=-1, task="", first_observation="")
        return Decided(
            session=found.session, decision=found.same, talk=talk, prompt=asked.prompt, news="", is_replay=True
        )

    async def _session(self, asked: Asked, found: Found) -> tuple[SessionRow, int | None]:
        """The session of a request, free of calls that are lost; a new one if it begins one."""
        if found.session is None:
            return self._new_session(asked), None
        session = found.session
        if session.open_id is not None:
            buried = await self.in_store(self.store.bury, session)
            if buried is None:
                raise RequestError(
                    409,
                    f"session '{session.name}' waits for the answer of its last turn; send one request after the other",
                    code="session_busy",
                    headers={"retry-after": "1"},
                )
            session = buried
        return session, session.version

    def _new_session(self, asked: Asked) -> SessionRow:
        session_id = secrets.token_hex(12)
        name = asked.session_name or session_id
        _, task, first = asked.prompt.opening()
        policy = self.settings.policy
        budget = [one for one in (asked.budget_usd, self.settings.session_budget_usd) if one is not None]
        return SessionRow(
            id=session_id,
            key_id=asked.key_id,
            name=name,
            created_at=self._now(),
            task=asked.task,
            task_text=task,
            first_observation=first,
            arm=policy.arm_of(session_id),
            router_weight=policy.router_weight,
            budget_usd=min(budget, default=None),
            max_turns=self.settings.max_turns or self.box.brain.live.turn_limit or UNLIMITED_TURNS,
        )

    async def _talk(self, session: SessionRow, known_version: int | None) -> Talk:
        if known_version is None:
            return Talk(version=0, task=session.task_text, first_observation=session.first_observation)
        kept = self._talks.get(session.id)
        if kept is not None and (kept.version == session.version or len(kept.calls) == session.n_turns):
            return kept
        past = await self.in_store(self.store.past, session.id)
        return talk_of(session, past, self.pool)

    async def _again(self, same: DecisionRow, session: SessionRow, talk: Talk, prompt: Prompt, news: str) -> Decided:
        """Call the model of a decision again that was made before and has no answer."""
        left = None if session.budget_usd is None else session.budget_usd - session.spent_usd
        if left is not None and same.held_usd > left:
            what = f"its call may cost {same.held_usd:.4g} USD, the session has {max(left, 0.0):.4g} USD left"
            raise RequestError(402, f"{same.model} cannot be called again: {what}", code="budget_exhausted")
        decision = replace(same, state="open", replica=self.store.replica, day=self._day())
        opening = Opening(
            session=replace(session, held_usd=decision.held_usd, last_at=self._now()),
            known_version=session.version,
            decision=decision,
            again=True,
            key_budget_usd=self.settings.key_budget_usd,
        )
        return self._ready(await self._opened(opening), decision, talk, prompt, news)

    def _ready(self, session: SessionRow, decision: DecisionRow, talk: Talk, prompt: Prompt, news: str) -> Decided:
        """A decision with the messages that its model may be handed."""
        messages = prompt.messages
        if decision.source == "chat":
            messages = prepare(messages, authors_of(talk, prompt), decision.model, self.pool).messages
        return Decided(session=session, decision=decision, talk=talk, prompt=prompt, news=news, messages=messages)

    async def _opened(self, opening: Opening) -> SessionRow:
        try:
            return await self.in_store_now(self.store.open, opening)
        except AccountError as error:
            most = opening.decision.held_usd
            raise RequestError(
                402,
                f"the call may cost {most:.4g} USD, and the key has {error.left_usd:.4g} USD left for today",
                code="key_budget",
            ) from error

    async def _drawn(self, turn: Turn, source: str) -> Decided:
        asked, session = turn.asked, turn.session
        brain = self.box.brain
        n_expected = brain.live.prompt_tokens(texts_of(turn))
        allowed = allowed_models(
            asked,
            self.pool,
            authors=authors_of(turn.talk, asked.prompt),
            money=await self._money(session),
            n_expected=n_expected,
            failed=turn.failed,
        )
        mask = np.array([float(name not in allowed.not_allowed) for name in self.pool.model_names])
        if not mask.any():
            raise nothing_allowed(allowed, len(turn.talk.calls))
        observation = self._observation(turn, brain, allowed)
        weighed = await self._chances(turn, brain, observation, mask)
        policy = self.settings.policy
        drawn = draw(
            weighed.chances,
            mask,
            arm=session.arm,
            router_weight=session.router_weight,
            is_shadow=policy.is_shadow,
            rng=self._rng,
        )
        if asked.model is not None:
            drawn = replace(drawn, kind="asked", router_weight=session.router_weight)
        model = self.pool.model_names[drawn.model]
        facts = facts_of(turn, self.pool, brain=brain, allowed=allowed, drawn=drawn, weighed=weighed)
        maker = Maker(source="route" if source == "route" else "chat", replica=self.store.replica, now=self._now())
        decision = decision_of(turn, model, drawn, facts, held_usd=allowed.most_usd[model], maker=maker)
        opening = Opening(
            session=replace(
                session, router_weight=drawn.router_weight, held_usd=decision.held_usd, last_at=decision.created_at
            ),
            known_version=turn.known_version,
            decision=decision,
            key_budget_usd=self.settings.key_budget_usd,
        )
        return self._ready(await self._opened(opening), decision, turn.talk, asked.prompt, turn.news)

    def _observation(self, turn: Turn, brain: Brain, allowed: Allowed) -> Observation:
        session = turn.session
        left = None if session.budget_usd is None else max(session.budget_usd - session.spent_usd, 0.0)
        try:
            return brain.live.observation_of(
                turn.talk.history(turn.news),
                opening=(turn.talk.task, turn.talk.first_observation),
                budget_left_usd=left,
                budget_usd=session.budget_usd,
                max_turns=session.max_turns,
                not_allowed=allowed.not_allowed,
            )
        except InvalidConfigError as error:
            raise bad_request(str(error)) from error

    async def _chances(self, turn: Turn, brain: Brain, observation: Observation, mask: FloatArray) -> Weighed:
        """What router and default would do; the fall-back stands in for a router that fails or is late."""
        policy = self.settings.policy
        default = default_chances(self.pool, policy.default, mask)
        if turn.asked.model is not None:
            only = one_hot(self.pool.index(turn.asked.model), len(mask))
            return Weighed(chances=Chances(router=only, default=only))
        trouble = ""
        try:
            async with asyncio.timeout(policy.decide_within_s):
                router, values = await self._weighed(turn, brain, observation)
            return Weighed(chances=Chances(router=router, default=default), values=values)
        except TimeoutError:
            trouble = f"the router did not decide within {policy.decide_within_s:g} s"
        except Exception as error:  # whatever a router raises, the fall-back answers, and the log says why
            logger.exception("the router failed")
            trouble = f"the router failed: {type(error).__name__}"
        if policy.is_shadow:
            return Weighed(chances=Chances(router=None, default=default), trouble=trouble)
        if policy.fallback is None:
            raise RequestError(503, f"{trouble}, and no fall-back is set", code="router_failed")
        stand_in = default_chances(self.pool, policy.fallback, mask)
        return Weighed(chances=Chances(router=stand_in, default=default, is_fallback=True), trouble=trouble)

    async def _weighed(
        self, turn: Turn, brain: Brain, observation: Observation
    ) -> tuple[FloatArray, dict[str, float] | None]:
        await brain.known(new_texts_of(turn))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._router_threads, brain.weigh, observation)

    async def _money(self, session: SessionRow) -> Money:
        budget = self.settings.key_budget_usd
        used = 0.0
        if budget is not None:
            used = await self.in_store(self.store.account_usd, session.key_id, self._day())
        return Money(
            session_usd=None if session.budget_usd is None else session.budget_usd - session.spent_usd,
            key_usd=None if budget is None else budget - used,
        )

    def _encode_early(self, prompt: Prompt) -> None:
        if not self.box.brain.encoders:
            return
        with contextlib.suppress(InvalidConfigError):
            self.box.brain.ahead(prompt.last_texts)

    def _day(self) -> str:
        return day_of(self._now())


def _is_known(same: DecisionRow, asked: Asked, source: str) -> bool:
    """Whether a gateway asks again for what it was told and has not reported yet."""
    return same.source == source == "route" and same.state == "open" and same.prompt == asked.prompt.name
