"""A conversation of an agent that is routed: it keeps who was called and what was spent, and writes a log to learn from.

Every call becomes a line of the `openai-jsonl` format as soon as it is recorded, with its propensity; the score may come
later. So `mtrouter-rl import openai-jsonl FILE` makes a dataset of what the router did, and the next router can learn from it.
"""

import asyncio
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from mtrouter_rl.datasets.importers.base import ModelNames
from mtrouter_rl.errors import CallOrderError, InvalidConfigError, unknown_name
from mtrouter_rl.pools.prompt_cache import PromptCache
from mtrouter_rl.pools.usage import read_usage
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.serving.live import Decision, LiveRouter, load_router

logger = logging.getLogger(__name__)

Status = Literal["completed", "truncated", "failed"]


class RoutingSession:
    """One conversation. It may be shared between threads; its calls come one after another all the same.

    Attributes:
        session_id: Its name in the log.
        router: Who chooses.
        models: Who gave every answer so far.
        spent_usd: What was recorded so far, USD, decisions that cost money included.
    """

    def __init__(
        self,
        router: LiveRouter | str | PathLike[str],
        *,
        budget_usd: float | None = None,
        log: str | PathLike[str] | None = None,
        session_id: str | None = None,
        task: str | None = None,
        max_turns: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Begin.

        Args:
            router: A router, or the folder of one.
            budget_usd: What the conversation may cost, USD; None sets no limit.
            log: File that gets a line for every call; several sessions and processes may share it. None writes nothing.
            session_id: Its name in the log; None makes one.
            task: Name of the kind of task, for the log.
            max_turns: Turn limit; None takes that of the router's training.
            now: Clock, seconds since 1970.

        Raises:
            InvalidConfigError: If the budget is not above 0.
            RouterError, ResultsError: If the folder holds no router that can be loaded.
        """
        if budget_usd is not None and not 0 < budget_usd < float("inf"):
            raise InvalidConfigError(f"budget_usd is {budget_usd}, must be a number above 0; leave it out for no limit")
        self.router = router if isinstance(router, LiveRouter) else load_router(router)
        self.session_id = session_id or uuid.uuid4().hex
        self.models: list[str] = []
        self.spent_usd = 0.0
        self._errors: list[str] = []
        self._decided_usd = 0.0
        self._budget_usd = budget_usd
        self._max_turns = max_turns
        self._task = task
        self._log = None if log is None else Path(log)
        self._now = now
        self._names = ModelNames(self.router.pool)
        self._cache = PromptCache(self.router.pool.prompt_cache, self.router.pool.bases)
        self._open: tuple[Decision, list[Mapping[str, object]], float] | None = None
        self._is_finished = False
        self._lock = threading.RLock()

    def choose(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        candidates: Sequence[str] | None = None,
        max_output_tokens: int | None = None,
    ) -> Decision:
        """Choose the model of the next call; call it, then `record` what it used.

        Args:
            messages: The whole conversation so far, as you would send it.
            candidates: Models that may be called now; None allows every model of the pool.
            max_output_tokens: Output limit of the call; see `LiveRouter.choose`.

        Raises:
            CallOrderError: If the call before it was not recorded, or the session is finished.
            InvalidConfigError, UnknownNameError, NoModelAllowedError, BackendError: As `LiveRouter.choose`.
        """
        with self._lock:
            self._check_open()
            if self._open is not None:
                raise CallOrderError(
                    f"session {self.session_id}: turn {len(self.models)} was decided and not recorded; call record(usage) "
                    "after the model has answered, or skip() if it was not called"
                )
            left = None if self._budget_usd is None else max(self._budget_usd - self.spent_usd, 0.0)
            decision = self.router.choose(
                messages,
                models=self.models,
                errors=self._errors,
                budget_left_usd=left,
                budget_usd=self._budget_usd,
                max_turns=self._max_turns,
                max_output_tokens=max_output_tokens,
                candidates=candidates,
                cached_tokens=self._cached_tokens(),
            )
            self._open = (decision, list(messages), self._now())
            self.spent_usd += decision.cost_usd
            self._decided_usd += decision.cost_usd
            return decision

    def record(
        self,
        usage: Mapping[str, object],
        *,
        answer: str | Mapping[str, object],
        served_model: str | None = None,
        error: str = "",
    ) -> float:
        """Book the call that was decided last, and write its line.

        Args:
            usage: Its usage, in the form of any vendor.
            answer: What the model wrote: text, or the assistant's message.
            served_model: Who answered, if a fall-back took over.
            error: Kind of error that the answer was; empty if none.

        Returns:
            What the call cost by the pool's prices, USD.

        Raises:
            CallOrderError: If nothing was decided.
            UsageError: If the usage cannot be read; the call is then still to be recorded.
            UnknownNameError: If `served_model` is not in the pool.
        """
        with self._lock:
            self._check_open()
            if self._open is None:
                raise CallOrderError(f"session {self.session_id}: nothing was decided; call choose(messages) first")
            decision, messages, started = self._open
            served = decision.model if served_model is None else self._known(served_model)
            reading = read_usage(usage, context_tokens=self.router.pool.model(served).context_tokens)
            cost_usd = self.router.pool.model(served).prices.cost_usd(reading.tokens)
            line: dict[str, object] = {
                "session_id": self.session_id,
                "request_id": f"{self.session_id}/{len(self.models)}",
                "timestamp": started,
                "latency_s": max(self._now() - started, 0.0),
                "model": decision.model,
                "propensity": decision.probability,
                "candidates": [name for name in self.router.pool.model_names if name not in decision.not_allowed],
                "messages": messages,
                "response": answer if isinstance(answer, str) else dict(answer),
                "usage": _as_openai(reading.tokens),
            }
            line |= {"served_model": served} if served != decision.model else {}
            line |= {"error": error} if error else {}
            line |= {"router_cost_usd": self._decided_usd} if self._decided_usd else {}
            line |= {"task": self._task} if self._task else {}
            line |= {"budget_usd": self._budget_usd} if self._budget_usd is not None else {}
            line |= {"max_turns": self._max_turns} if self._max_turns is not None else {}
            self._write(line)
            self._open, self._decided_usd = None, 0.0
            self._cache.record(served, n_prompt=reading.tokens.n_prompt, now_s=started)
            self.models.append(decision.model)
            self._errors.append(error)
            self.spent_usd += cost_usd
            return cost_usd

    def skip(self) -> None:
        """Forget the last decision: its model was not called, so that no call is billed and none is logged.

        What the decision itself cost stays spent; it is logged with the next call.
        """
        with self._lock:
            self._open = None

    def finish(self, score: float | None = None, *, status: Status = "completed") -> None:
        """End the conversation.

        Args:
            score: Score divided by its maximum; None if it is not known yet: give it to the import with `--scores`.
            status: "completed", "truncated" (a limit stopped it) or "failed" (it broke for outside reasons).

        Raises:
            CallOrderError: If the last decision was not recorded, or the session is finished.
            InvalidConfigError: If the score is not in [-1, 1].
        """
        with self._lock:
            self._check_open()
            if self._open is not None:
                raise CallOrderError(
                    f"session {self.session_id}: the last decision was not recorded; record or skip it"
                )
            if score is not None and not -1 <= score <= 1:
                raise InvalidConfigError(f"score is {score}, must be from -1 to 1: divide it by its maximum")
            self._is_finished = True
            if self._decided_usd:
                logger.warning(
                    "session %s: %.6f USD were spent on decisions that no call followed; no line of the log holds them",
                    self.session_id,
                    self._decided_usd,
                )
            line: dict[str, object] = {"session_id": self.session_id, "status": status}
            line |= {} if score is None else {"score": score}
            if self.models:
                self._write(line)

    async def achoose(self, messages: Sequence[Mapping[str, object]], **options: object) -> Decision:
        """`choose` without holding up an event loop."""
        return await asyncio.to_thread(self.choose, messages, **options)  # type: ignore[arg-type]

    async def arecord(self, usage: Mapping[str, object], **options: object) -> float:
        """`record` without holding up an event loop."""
        return await asyncio.to_thread(self.record, usage, **options)  # type: ignore[arg-type]

    def _cached_tokens(self) -> dict[str, int] | None:
        """What each model's prompt cache holds now, if the pool card says how long vendors keep it."""
        if self.router.pool.prompt_cache is None:
            return None
        now_s, most = self._now(), max(model.context_tokens for model in self.router.pool.models)
        return {name: self._cache.n_cached(name, n_prompt=most, now_s=now_s) for name in self.router.pool.model_names}

    def _check_open(self) -> None:
        if self._is_finished:
            raise CallOrderError(f"session {self.session_id} is finished; begin another one")

    def _known(self, name: str) -> str:
        found = self._names.find(name)
        if found is None:
            raise unknown_name(f"model of pool '{self.router.pool.name}'", name, self.router.pool.model_names)
        return found

    def _write(self, line: Mapping[str, object]) -> None:
        """Append a line whole: sessions of other threads and processes write to the same file."""
        if self._log is None:
            return
        data = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", errors="replace")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _as_openai(tokens: TokenUsage) -> dict[str, object]:
    """Tokens in the one form that cannot be misread."""
    return {
        "prompt_tokens": tokens.n_prompt,
        "completion_tokens": tokens.n_output,
        "prompt_tokens_details": {"cached_tokens": tokens.n_cached},
        "cache_creation_input_tokens": tokens.n_written,
    }
