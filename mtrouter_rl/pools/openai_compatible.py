"""Real models behind any endpoint that speaks OpenAI's chat completions: hosted, vLLM, llama.cpp, Ollama.

A call is made again after 429, 5xx and time-outs, with growing pauses, until one deadline for all tries. Tokens are those of
the reply, in whatever form the vendor gives them; a reply without usage is an error, since nobody could say what it cost.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import BackendError, CardError, UsageError, unknown_name
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError
from mtrouter_rl.pools.usage import read_usage
from mtrouter_rl.protocols import Reply, TextTask
from mtrouter_rl.records import Frozen, JsonValue, Message, Positive

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_RETRIED = (408, 409, 425, 429)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0


class RemoteModel(Frozen):
    """Where one model of the pool answers.

    Attributes:
        base_url: Address up to and with the version, such as "http://127.0.0.1:8080/v1".
        model: Its name there; None takes the name in the pool.
        key_variable: Environment variable that holds the key; None for an endpoint without one. Keys are never in cards.
        temperature: Of the draws; None leaves it to the endpoint.
    """

    base_url: str
    model: str | None = None
    key_variable: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


class RemotePool(Frozen):
    """Settings of the backend "openai_compatible" in a pool card.

    Attributes:
        models: One entry for every model of the pool.
        deadline_s: Deadline of a call with all its tries, seconds.
        try_s: Deadline of one try, seconds.
    """

    models: dict[str, RemoteModel]
    deadline_s: Positive = 300.0
    try_s: Positive = 120.0


def make_backend(pool: PoolCard, env: EnvCard | None = None) -> "OpenAICompatibleBackend":
    """Backend of a pool card of kind "openai_compatible".

    Raises:
        CardError: If the settings break their rules, or a model of the pool has no entry.
        InvalidConfigError: If an address is none, or a key is missing or is no key.
    """
    del env
    try:
        settings = RemotePool.model_validate(pool.backend.settings)
    except ValidationError as error:
        raise CardError(f"pool '{pool.name}', backend.settings: {error}") from error
    missing = [name for name in pool.model_names if name not in settings.models]
    if missing:
        raise CardError(
            f"pool '{pool.name}', backend.settings.models: no entry for {', '.join(missing)}; add one for each"
        )
    return OpenAICompatibleBackend(pool, settings)


class OpenAICompatibleBackend:
    """Calls the endpoints of a pool card; one instance may serve many episodes."""

    def __init__(
        self, pool: PoolCard, settings: RemotePool, *, sleep: Callable[[float], None] = time.sleep, seed: int = 0
    ) -> None:
        """Check every address and key; nothing is called yet.

        Args:
            pool: The models.
            settings: Where they answer.
            sleep: Waits so many seconds.
            seed: Seed of the pauses' lengths.

        Raises:
            InvalidConfigError: If an address is none, or a key is missing or is no key.
        """
        self._pool = pool
        self._settings = settings
        self._sleep = sleep
        self._rng = np.random.default_rng(seed)
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
        """Nothing to do: an endpoint knows nothing but the messages."""

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """Call a model; see `ModelBackend`.

        Raises:
            UnknownNameError: If the model is not in the pool.
            BackendError: If no try gave a usable reply before the deadline.
        """
        if model not in self._settings.models:
            raise unknown_name(f"model of pool '{self._pool.name}'", model, self._settings.models)
        remote = self._settings.models[model]
        body: dict[str, object] = {
            "model": remote.model or model,
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "max_tokens": max_output_tokens,
        }
        if remote.temperature is not None:
            body["temperature"] = remote.temperature
        started = time.monotonic()
        raw = self._called(model, body, turn=turn)
        text, usage = _parts(raw, model=model, turn=turn)
        try:
            reading = read_usage(usage, answer_is_empty=not text, context_tokens=self._pool.model(model).context_tokens)
        except UsageError as error:
            raise BackendError(f"model '{model}', turn {turn}: the reply's usage cannot be read: {error}") from error
        return Reply(
            text=action_of(text), usage=reading.tokens, latency_s=time.monotonic() - started, served_model=model
        )

    def _called(self, model: str, body: Mapping[str, object], *, turn: int) -> JsonValue:
        """The reply of the first try that gives one."""
        ends = time.monotonic() + self._settings.deadline_s
        pause_s, n_tries = _FIRST_PAUSE_S, 0
        while True:
            n_tries += 1
            try:
                return self._endpoints[model].post("chat/completions", body)
            except EndpointError as error:
                wait_s = pause_s * (0.5 + float(self._rng.random()))
                if not _is_passing(error) or time.monotonic() + wait_s > ends:
                    raise BackendError(f"model '{model}', turn {turn}: {error} ({n_tries} tries)") from error
            self._sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def action_of(text: str) -> str:
    r"""The action in a reply: what stands in its first fenced block, else all of it, without white space around.

    Example:
        >>> action_of("I open it.\n```\nopen door\n```"), action_of(" open door\n")
        ('open door', 'open door')
    """
    fenced = _FENCE.search(text)
    return (fenced[1] if fenced else text).strip()


def _is_passing(error: EndpointError) -> bool:
    """Whether the same call may well succeed a little later."""
    return error.status is None or error.status in _RETRIED or error.status >= 500


def _parts(raw: JsonValue, *, model: str, turn: int) -> tuple[str, Mapping[str, object]]:
    """Text and usage of a reply.

    Raises:
        BackendError: If it has no message or no usage.
    """
    where = f"model '{model}', turn {turn}"
    choices = raw.get("choices") if isinstance(raw, dict) else None
    message = (
        choices[0].get("message") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    )
    if not isinstance(message, dict) or not isinstance(message.get("content", ""), str | None):
        raise BackendError(
            f"{where}: the reply has no choices.0.message.content; is base_url that of chat completions?"
        )
    assert isinstance(raw, dict)
    usage = raw.get("usage")
    if not isinstance(usage, dict):
        raise BackendError(
            f"{where}: the reply has no usage, so nobody can say what it cost; turn usage on at the endpoint"
        )
    return str(message.get("content") or ""), usage
