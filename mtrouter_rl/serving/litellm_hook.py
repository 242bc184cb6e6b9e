"""A hook for LiteLLM's proxy: a router chooses the model of every call to one name, and what it used is logged to learn from.

In a file beside the proxy's configuration, such as `routing.py`:

    from mtrouter_rl.serving.litellm_hook import make_hook
    hook = make_hook("runs/router", log="calls.jsonl")

and in the configuration `litellm_settings: {callbacks: routing.hook}`. The models of the pool are those of `model_list`; the
name "router" has to be in it too, as the proxy looks for it before hooks are called. The log is of the format openai-jsonl.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import MissingDependencyError, MTRouterError
from mtrouter_rl.serving.live import LiveRouter, load_router
from mtrouter_rl.serving.service.memory import Recent
from mtrouter_rl.serving.service.talk import Prompt, digest_of, extended
from mtrouter_rl.serving.session import RoutingSession

if TYPE_CHECKING:
    from litellm.integrations.custom_logger import CustomLogger

logger = logging.getLogger(__name__)
MARK = "mtrouter_decision"
"""Key of a request's metadata that the hook finds its decision by."""
_N_SESSIONS = 10_000
_BOOKED_WITHIN_S = 5.0
_CALLS = ("completion", "acompletion", "text_completion", "atext_completion")


class Routing:
    """Sessions of the proxy's clients. May be shared between threads.

    Attributes:
        router: Who chooses.
        routed_name: Name that clients ask for.
    """

    def __init__(
        self, router: LiveRouter, *, routed_name: str, log: Path | None, budget_usd: float | None, max_turns: int | None
    ) -> None:
        """Begin without a session; arguments as `make_hook`."""
        self.router, self.routed_name = router, routed_name
        self._log, self._budget_usd, self._max_turns = log, budget_usd, max_turns
        self._lock = threading.Lock()
        self._named: Recent[RoutingSession] = Recent(_N_SESSIONS)
        self._heads: Recent[RoutingSession] = Recent(_N_SESSIONS)
        self._asked: Recent[RoutingSession] = Recent(_N_SESSIONS)
        self._under_way: set[str] = set()
        self._open: Recent[tuple[RoutingSession, str, Prompt]] = Recent(_N_SESSIONS)

    async def choose(self, key: str, data: dict[str, Any]) -> dict[str, Any]:
        """The request with the chosen model, and a mark by which its usage finds the decision.

        Raises:
            MTRouterError: If no model may be called, or the call before it in its session is not over.
        """
        prompt = Prompt(tuple(data.get("messages") or ()))
        metadata = dict(data.get("metadata") or {})
        session = self._session(key, metadata.get("session_id") or data.get("litellm_session_id"), prompt)
        await self._booked(session)
        limit = data.get("max_completion_tokens") or data.get("max_tokens")
        decision = await session.achoose(prompt.messages, max_output_tokens=limit)
        mark = f"{session.session_id}/{decision.turn}"
        told = {MARK: mark, "mtrouter_session": session.session_id, "mtrouter_propensity": decision.probability}
        with self._lock:
            self._open.put(mark, (session, key, prompt))
            self._asked.put((key, prompt.name), session)
            self._under_way.add(session.session_id)
        return {**data, "model": decision.model, "metadata": {**metadata, **told}}

    async def record(self, mark: str, usage: Mapping[str, object], answer: Mapping[str, object]) -> None:
        """Book a call that succeeded."""
        found = self._take(mark)
        if found is None:
            return
        session, key, prompt = found
        with self._lock:
            self._heads.put((key, extended(prompt.name, digest_of(answer))), session)
        try:
            await session.arecord(usage, answer=answer)
        except MTRouterError as error:
            session.skip()
            logger.error("session %s: the call cannot be booked, so its line is missing from the log: %s", mark, error)
        finally:
            self._under_way.discard(session.session_id)

    def forget(self, mark: str) -> None:
        """Leave a decision out whose call failed."""
        found = self._take(mark)
        if found is not None:
            found[0].skip()
            self._under_way.discard(found[0].session_id)

    async def _booked(self, session: RoutingSession) -> None:
        """Wait for the last call of a session to be booked: LiteLLM does that after its client has the answer."""
        ends = time.monotonic() + _BOOKED_WITHIN_S
        while session.session_id in self._under_way and time.monotonic() < ends:
            await asyncio.sleep(0.005)

    def _take(self, mark: str) -> "tuple[RoutingSession, str, Prompt] | None":
        with self._lock:
            found = self._open.get(mark)
            self._open.forget(mark)
        return found

    def _session(self, key: str, name: object, prompt: Prompt) -> RoutingSession:
        """By the name that the client gives, else by the conversation that it goes on from."""
        with self._lock:
            is_named = isinstance(name, str) and bool(name)
            found = self._named.get((key, name)) if is_named else self._by_conversation(key, prompt)
            if found is None:
                found = RoutingSession(
                    self.router, budget_usd=self._budget_usd, log=self._log, max_turns=self._max_turns
                )
            if is_named:
                self._named.put((key, name), found)
            return found

    def _by_conversation(self, key: str, prompt: Prompt) -> RoutingSession | None:
        """By the answers that it shows, else by the prompt before its last answer, which may not be booked yet."""
        found = next(filter(None, (self._heads.get((key, head)) for head in prompt.heads)), None)
        if found is None and prompt.answers:
            found = self._asked.get((key, prompt.chain[prompt.answers[-1]]))
        return found


def make_hook(
    router: str | PathLike[str] | LiveRouter,
    *,
    pool: str | PathLike[str] | PoolCard | None = None,
    routed_name: str = "router",
    log: str | PathLike[str] | None = None,
    explore: float = 0.0,
    budget_usd: float | None = None,
    max_turns: int | None = None,
) -> "CustomLogger":
    """The hook, for `litellm_settings.callbacks`.

    Args:
        router: A router, or the folder of one.
        pool: Its pool; None takes the one that was saved with it. Its models are called by these names in the proxy.
        routed_name: Model name by which clients ask for a choice; other names are left alone.
        log: File that gets a line for every call, in the format openai-jsonl.
        explore: Share of the turns whose model is drawn at random from those that may be called.
        budget_usd: What a session may cost, USD.
        max_turns: Turn limit that the router is shown; None takes that of its training.

    Raises:
        MissingDependencyError: If LiteLLM is not installed.
        RouterError, CardError, InvalidConfigError: As `load_router`.
    """
    try:
        from litellm.integrations.custom_logger import CustomLogger
    except ImportError as error:
        raise MissingDependencyError(
            "the hook needs LiteLLM, which is not installed; run: pip install 'mtrouter-rl[litellm]'"
        ) from error
    live = router if isinstance(router, LiveRouter) else load_router(router, pool=pool, explore=explore)
    routing = Routing(
        live,
        routed_name=routed_name,
        log=None if log is None else Path(log),
        budget_usd=budget_usd,
        max_turns=max_turns,
    )

    class RoutingHook(CustomLogger):
        """Chooses before the call, books after it."""

        async def async_pre_call_hook(
            self,
            user_api_key_dict: Any,  # noqa: ANN401
            cache: Any,  # noqa: ANN401
            data: dict[str, Any],
            call_type: Any,  # noqa: ANN401
        ) -> dict[str, Any]:
            """Put the chosen model in the place of the routed name."""
            del cache
            if call_type not in _CALLS or data.get("model") != routing.routed_name:
                return data
            return await routing.choose(str(getattr(user_api_key_dict, "api_key", None) or ""), data)

        async def async_log_success_event(
            self,
            kwargs: dict[str, Any],
            response_obj: Any,  # noqa: ANN401
            start_time: Any,  # noqa: ANN401
            end_time: Any,  # noqa: ANN401
        ) -> None:
            """Book what the call used."""
            del start_time, end_time
            mark = _mark_of(kwargs)
            whole = kwargs.get("async_complete_streaming_response") or kwargs.get("complete_streaming_response")
            told = _plain(whole or response_obj)
            if mark is None or (kwargs.get("stream") and whole is None):
                return
            choices = told.get("choices") or [{}]
            await routing.record(mark, told.get("usage") or {}, _without_empty(choices[0].get("message") or {}))

        async def async_log_failure_event(
            self,
            kwargs: dict[str, Any],
            response_obj: Any,  # noqa: ANN401
            start_time: Any,  # noqa: ANN401
            end_time: Any,  # noqa: ANN401
        ) -> None:
            """Leave the decision out."""
            del response_obj, start_time, end_time
            mark = _mark_of(kwargs)
            if mark is not None:
                routing.forget(mark)

    return RoutingHook()


def _mark_of(kwargs: Mapping[str, Any]) -> str | None:
    metadata = (kwargs.get("litellm_params") or {}).get("metadata") or kwargs.get("metadata") or {}
    mark = metadata.get(MARK) if isinstance(metadata, Mapping) else None
    return mark if isinstance(mark, str) else None


def _plain(response: Any) -> dict[str, Any]:  # noqa: ANN401
    """A response of LiteLLM as JSON has it."""
    return cast("dict[str, Any]", response.model_dump() if hasattr(response, "model_dump") else dict(response))


def _without_empty(message: Mapping[str, object]) -> dict[str, object]:
    return {"role": "assistant"} | {name: value for name, value in message.items() if value is not None}
