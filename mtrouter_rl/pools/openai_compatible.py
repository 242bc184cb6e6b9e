"""Real models behind any endpoint that speaks OpenAI's chat completions: hosted, vLLM, llama.cpp, Ollama.

Every call goes through the one HTTP client of `mtrouter_rl.pools.endpoint`, and is made again after what may pass (429, 5xx,
time-outs, streams that break off), as long as the endpoint asks or with growing pauses, until one deadline for all tries.

No try that was billed is forgotten. One whose bill is known and whose answer is of no use is raised as `WastedCallError`, and
the environment books it. One whose bill cannot be known, because nothing came back that says it, is counted in the reply's
`hidden`, with the most that it can have cost. What a try may cost is reserved before it is made where a run has limits.
"""

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mtrouter_rl.cards import EnvCard, HarnessCard
from mtrouter_rl.cards.pool import ModelCard, PoolCard
from mtrouter_rl.errors import BackendError, UsageError, unknown_name
from mtrouter_rl.pools import handover
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError
from mtrouter_rl.pools.remote.breaker import CircuitBreakers
from mtrouter_rl.pools.remote.rates import RateLimit
from mtrouter_rl.pools.remote.replies import ModelReply, read_reply
from mtrouter_rl.pools.remote.requests import episode_header, request_body
from mtrouter_rl.pools.remote.settings import RemoteModel, RemotePool, read_settings
from mtrouter_rl.pools.spend import NO_LEDGER, Spending, open_spending
from mtrouter_rl.pools.usage import ZERO_OUTPUT, ZERO_PROMPT, UsageReading, read_usage
from mtrouter_rl.protocols import Reply, TextTask, WastedCallError
from mtrouter_rl.records import JsonValue, Message, TokenUsage

__all__ = ["OpenAICompatibleBackend", "RemoteModel", "RemotePool", "action_of", "make_backend"]

logger = logging.getLogger(__name__)

REQUEST_HEADER = "X-Client-Request-Id"
"""Names every try to the endpoint, so that its bill can be found in the ledgers of both sides."""

MAX_UNKNOWN_BILLS = 3
"""Tries of one call whose bills cannot be known, after which it has failed."""

COST_TOLERANCE = 0.01
"""Relative difference between the provider's cost and the card's from which it is told."""

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_RETRIED = (408, 409, 425, 429)
_PASSING_REDIRECTS = (302, 303, 307)
_MAX_REDIRECTS = 2
_LONGEST_PAUSE_S = 20.0


def make_backend(pool: PoolCard, env: EnvCard | None = None) -> "OpenAICompatibleBackend":
    """Backend of a pool card of kind "openai_compatible".

    Raises:
        CardError: If the settings break their rules, or a model of the pool has no entry.
        InvalidConfigError: If an address is none, or a key is missing or is no key.
    """
    harness = env.harness if env is not None else None
    return OpenAICompatibleBackend(pool, read_settings(pool), harness=harness, spending=open_spending())


@dataclass(kw_only=True)
class _Call:
    """One call with all its tries."""

    model: str
    turn: int
    body: dict[str, JsonValue]
    n_prompt: int
    most_usd: float
    ends_s: float
    n_tries: int = 0
    pause_s: float
    n_unknown: int = 0
    n_redirects: int = 0
    hidden: dict[str, JsonValue] = field(default_factory=dict)

    def told(self, text: object) -> str:
        """An error of this call, with where it is and what its tries may have cost."""
        unknown = ""
        if self.n_unknown:
            most = self.n_unknown * self.most_usd
            unknown = f"; the bills of {self.n_unknown} tries are not known, together at most {most:.6f} USD"
        return f"model '{self.model}', turn {self.turn}: {text} ({self.n_tries} tries{unknown})"


class OpenAICompatibleBackend:
    """Calls the endpoints of a pool card; one instance may serve many episodes, one after another."""

    def __init__(
        self,
        pool: PoolCard,
        settings: RemotePool,
        *,
        harness: HarnessCard | None = None,
        spending: Spending = NO_LEDGER,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        seed: int = 0,
    ) -> None:
        """Check every address and key; nothing is called yet.

        Args:
            pool: The models.
            settings: Where they answer.
            harness: Form of the action; None for replies that are the action, or hold it in a fenced block.
            spending: Where money is reserved and booked.
            sleep: Waits so many seconds.
            clock: Seconds that only grow.
            seed: Seed of the pauses' lengths.

        Raises:
            InvalidConfigError: If an address is none, or a key is missing or is no key.
        """
        self._pool = pool
        self._settings = settings
        self._harness = harness
        self._spending = spending
        self._sleep, self._clock = sleep, clock
        self._rng, self._rng_lock = np.random.default_rng(seed), threading.Lock()
        self._headers: dict[str, str] = {}
        self._told_costs: set[str] = set()
        self._breakers = CircuitBreakers(settings.breaker, settings.models, clock=clock)
        self._rates = {
            name: RateLimit(per_minute=one.requests_per_minute, at_once=one.max_concurrent, sleep=sleep, clock=clock)
            for name, one in settings.models.items()
        }
        self._endpoints = {
            name: Endpoint.of_environment(
                one.base_url,
                one.key_variable,
                field=f"pool '{pool.name}', backend.settings.models.{name}.key_variable",
                timeout_s=settings.try_s,
            )
            for name, one in settings.models.items()
        }

    def start_episode(self, *, task: TextTask, task_name: str, variation: int, seed: int) -> None:
        """An endpoint knows nothing but the messages, unless the card names a header for the episode."""
        name = self._settings.session_header
        self._headers = {} if name is None else {name: episode_header(task_name, variation, seed)}

    def not_callable(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Models that are left alone for a while, or that cannot take over this conversation; see `SelectiveBackend`."""
        raw, authors = handover.as_raw(messages)
        found = {name: handover.hindrance(raw, authors, name, self._pool) for name in self._pool.model_names}
        return {name: why for name, why in found.items() if why} | dict(self._breakers.opened())

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """Call a model; see `ModelBackend`.

        Raises:
            UnknownNameError: If the model is not in the pool.
            BackendError: If no try gave a usable reply before the deadline.
            WastedCallError: If a try was billed and its answer cannot be used.
            SpendLimitError: If the next try could pass a limit of the run or the day.
        """
        if model not in self._settings.models:
            raise unknown_name(f"model of pool '{self._pool.name}'", model, self._settings.models)
        call = self._begin(model, messages, turn=turn, max_output_tokens=max_output_tokens)
        started_s = self._clock()
        while True:
            reply = self._tried(call)
            if reply is not None:
                return replace(reply, latency_s=max(self._clock() - started_s, 0.0))

    def _begin(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> _Call:
        raw, authors = handover.as_raw(messages)
        prepared = handover.prepare(raw, authors, model, self._pool)
        remote, card = self._settings.models[model], self._pool.model(model)
        body = request_body(
            remote, model, prepared.messages, max_output_tokens=max_output_tokens, harness=self._harness
        )
        n_prompt = self._count(messages)
        call = _Call(
            model=model,
            turn=turn,
            body=body,
            n_prompt=n_prompt,
            most_usd=card.prices.worst_case_usd(n_prompt=n_prompt, n_output=max_output_tokens),
            ends_s=self._clock() + self._settings.deadline_s,
            pause_s=self._settings.pause_s,
        )
        if prepared.stripped:
            call.hidden["stripped"] = dict(prepared.stripped)
        return call

    def _count(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt by the pool's counter, the tool's description included."""
        counter = self._pool.token_counter
        tool = self._harness.tool_definition if self._harness else None
        return sum(map(counter.count_message, messages)) + (counter.count(json.dumps(tool)) if tool else 0)

    def _tried(self, call: _Call) -> Reply | None:
        """The reply of one try; None if another has to be made.

        Raises:
            BackendError: If none is to be made any more.
            WastedCallError: If it was billed and its answer cannot be used.
        """
        with self._rates[call.model].turn(within_s=call.ends_s - self._clock()) as is_free:
            if not is_free:
                raise BackendError(call.told("its rate or its places leave no room before the deadline"))
            ident = uuid.uuid4().hex
            self._spending.reserve(ident, model=call.model, most_usd=call.most_usd)
            call.n_tries += 1
            try:
                received = self._endpoints[call.model].send(
                    "POST",
                    "chat/completions",
                    call.body,
                    timeout_s=max(call.ends_s - self._clock(), 0.001),
                    headers={**self._headers, REQUEST_HEADER: ident},
                )
            except EndpointError as error:
                self._failed(call, ident, error)
                return None
        said = read_reply(received.text, is_stream=call.body.get("stream") is True, problem=received.problem)
        return self._judged(call, ident, said)

    def _failed(self, call: _Call, ident: str, error: EndpointError) -> None:
        """After a try without a reply: wait for the next one.

        Raises:
            BackendError: If there is to be none.
        """
        is_unknown = error.status is None and error.was_sent
        self._spending.settle(ident, None if is_unknown else 0.0)
        if error.status is None or error.status >= 500:
            self._breakers.failed(call.model)
        if not self._may_pass(call, error.status):
            raise BackendError(call.told(error)) from error
        self._wait(call, error, is_unknown=is_unknown, asked_s=error.retry_after_s)

    @staticmethod
    def _may_pass(call: _Call, status: int | None) -> bool:
        """Whether another try may help. A redirect is never followed; one that is said to pass is waited for, twice at most."""
        if status in _PASSING_REDIRECTS:
            call.n_redirects += 1
            return call.n_redirects <= _MAX_REDIRECTS
        return status is None or status in _RETRIED or status >= 500

    def _wait(self, call: _Call, problem: object, *, is_unknown: bool, asked_s: float | None = None) -> None:
        """Wait for the next try, as long as the endpoint asks for, else longer each time.

        Raises:
            BackendError: If there is to be none.
        """
        call.n_unknown += is_unknown
        if call.n_unknown >= MAX_UNKNOWN_BILLS:
            raise BackendError(call.told(problem))
        with self._rng_lock:
            jitter = float(self._rng.random())
        wait_s = call.pause_s * (0.5 + jitter) if asked_s is None else asked_s + 0.1 * call.pause_s * jitter
        if self._clock() + wait_s > call.ends_s:
            raise BackendError(call.told(f"{problem}; the next try would be in {wait_s:.1f} s, after the deadline"))
        if self._breakers.is_open(call.model):
            raise BackendError(call.told(f"{problem}; it is left alone for a while"))
        self._sleep(wait_s)
        call.pause_s = min(2 * call.pause_s, _LONGEST_PAUSE_S)

    def _judged(self, call: _Call, ident: str, said: ModelReply) -> Reply | None:
        """What is made of a reply that came: the answer, a call in vain, or another try."""
        card = self._pool.model(call.model)
        try:
            bill = self._bill(call, said, card)
        except BackendError:
            self._spending.settle(ident, None)
            raise
        problem = said.problem or self._foreign(call.model, card, said)
        if said.problem:
            self._breakers.failed(call.model)
        else:
            self._breakers.succeeded(call.model)
        if bill is None:
            self._spending.settle(ident, None)
            if not problem:
                call.n_unknown += 1
                raise BackendError(
                    call.told(
                        f"the reply has no usage{' but zeros' if said.usage else ''}, so nobody can say what it cost; turn "
                        "usage on at the endpoint, or allow an estimate with usage_estimate"
                    )
                )
            self._wait(call, problem, is_unknown=True)
            return None
        cost_usd = card.prices.cost_usd(bill.tokens)
        is_estimate = "usage_estimate" in call.hidden
        self._spending.settle(ident, cost_usd, is_estimate=is_estimate)
        if problem:
            bill_told = "are the estimate of what it cost" if is_estimate else "were billed for it"
            raise WastedCallError(
                call.told(f"{problem}; {cost_usd:.6f} USD {bill_told}"),
                usage=bill.tokens,
                served_model=said.model,
            )
        self._compare_cost(call, bill, cost_usd)
        return self._as_reply(call, said, bill.tokens)

    def _bill(self, call: _Call, said: ModelReply, card: ModelCard) -> UsageReading | None:
        """Tokens of a reply, or their estimate; None if nobody can say.

        Raises:
            BackendError: If its usage cannot be read.
        """
        call.hidden.pop("usage_estimate", None)
        is_empty = not said.text and not said.tool_calls
        if said.usage is not None and not _is_all_zero(said.usage):
            try:
                reading = read_usage(said.usage, answer_is_empty=is_empty, context_tokens=card.context_tokens)
            except UsageError as error:
                call.n_unknown += 1
                raise BackendError(call.told(f"the reply's usage cannot be read: {error}")) from error
            kinds = {kind for kind, _ in reading.notes}
            if not {ZERO_PROMPT, ZERO_OUTPUT} & kinds:
                if kinds:
                    call.hidden["usage_notes"] = [*sorted(kinds)]
                return reading
        estimate = self._settings.models[call.model].usage_estimate
        if estimate is None:
            return None
        call.hidden["usage_estimate"] = estimate
        n_output = min(self._pool.token_counter.count(said.text), card.max_output_tokens)
        is_written = (card.prices.cache_write or 0.0) > card.prices.input  # the dearest way to bill it
        n_fresh, n_written = (0, call.n_prompt) if is_written else (call.n_prompt, 0)
        return UsageReading(tokens=TokenUsage(n_fresh=n_fresh, n_written=n_written, n_output=n_output))

    def _foreign(self, model: str, card: ModelCard, said: ModelReply) -> str:
        """Why a reply is not the model's own; empty if it is, or does not say."""
        remote = self._settings.models[model]
        if not said.model or remote.is_served_by(said.model, names=(model, *card.aliases)):
            return ""
        return (
            f"it was answered by '{said.model[:200]}', and '{remote.model or model}' was asked; correct its name, or allow "
            "this one with served_as"
        )

    def _compare_cost(self, call: _Call, bill: UsageReading, cost_usd: float) -> None:
        """Keep what the provider says of the cost, and tell once a model if the card says otherwise."""
        told_usd = bill.cost_usd
        if told_usd is None:
            return
        call.hidden["reported_cost_usd"] = told_usd
        if abs(told_usd - cost_usd) <= COST_TOLERANCE * max(told_usd, cost_usd):
            return
        call.hidden["cost_differs"] = True
        if call.model not in self._told_costs:
            self._told_costs.add(call.model)
            logger.warning(
                "model '%s': the provider says that a call cost %.6f USD, by the card's prices it is %.6f; correct the "
                "prices of pool '%s'",
                *(call.model, told_usd, cost_usd, self._pool.name),
            )

    def _as_reply(self, call: _Call, said: ModelReply, usage: TokenUsage) -> Reply:
        """The reply as the environment takes it. Without a harness the action is all that the history keeps of a plain text."""
        if call.n_tries > 1:
            call.hidden["n_tries"] = call.n_tries
        if call.n_unknown:
            call.hidden |= {"unknown_bills": call.n_unknown, "unknown_bills_most_usd": call.n_unknown * call.most_usd}
        if said.fingerprint:
            call.hidden["system_fingerprint"] = said.fingerprint
        text = said.text if self._harness is not None else action_of(said.text)
        is_plain = set(said.message) <= {"role", "content", "refusal", "annotations"}
        raw = None if is_plain and isinstance(said.message.get("content"), str) else said.message
        message: Message | None = Message(
            role="assistant",
            content=text if raw is None else said.text,
            tool_calls=said.tool_calls,
            author=call.model,
            raw=raw,
        )
        return Reply(
            text=text,
            usage=usage,
            latency_s=0.0,
            served_model=call.model,
            message=None if raw is None and not said.tool_calls else message,
            hidden=call.hidden,
        )


def _is_all_zero(usage: JsonValue | Mapping[str, JsonValue]) -> bool:
    """Whether a usage says nothing but zeros, which is as good as none."""
    if isinstance(usage, Mapping):
        return all(map(_is_all_zero, usage.values()))
    return not usage


def action_of(text: str) -> str:
    r"""The action in a reply: what stands in its first fenced block, else all of it, without white space around.

    Example:
        >>> action_of("I open it.\n```\nopen door\n```"), action_of(" open door\n")
        ('open door', 'open door')
    """
    fenced = _FENCE.search(text)
    return (fenced[1] if fenced else text).strip()
