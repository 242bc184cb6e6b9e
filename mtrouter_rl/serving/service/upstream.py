"""Calls of the endpoints of a pool card: one try each, no redirect, a limit on size and time, no key in what comes back.

A call goes on when the client goes away, since it is billed all the same; whoever waits for it reads what it sends from a
queue. What it was billed is told by `Result`, and where nobody can know, the result says so.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import CardError, MissingDependencyError
from mtrouter_rl.files import parse_json
from mtrouter_rl.pools.endpoint import Endpoint
from mtrouter_rl.pools.remote.settings import RemoteModel, RemotePool, read_settings
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.limits import all_text
from mtrouter_rl.serving.service.problems import Told
from mtrouter_rl.serving.service.streams import Gathered

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

MAX_REPLY_BYTES = 16 * 2**20
_MAX_DEPTH = 60
_TOLD_CHARACTERS = 500
_KEEPALIVE_S = 4.0
_PASSED_ON = (400, 408, 409, 413, 415, 422, 429, 503)
"""Statuses of an endpoint that a client can do something about; others are the service's own trouble."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a try.

    Attributes:
        is_billed: Whether it was: None if nobody can know.
        message: The assistant's message; None if none came whole.
        body: The whole reply, if it was not streamed.
        usage: Tokens as the endpoint said; None if it said nothing.
        served_model: Who answered, as the endpoint said.
        last: Events of a stream that were kept back until the answer is booked.
        told: What the client is told of an error; None if there was none.
    """

    is_billed: bool | None
    message: Mapping[str, JsonValue] | None = None
    body: Mapping[str, JsonValue] | None = None
    usage: Mapping[str, JsonValue] | None = None
    served_model: str | None = None
    last: tuple[bytes, ...] = ()
    told: Told | None = None


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a model answers."""

    endpoint: Endpoint
    remote: RemoteModel


class Upstream:
    """The endpoints of a pool."""

    def __init__(self, pool: PoolCard) -> None:
        """Check every address and key; nothing is called yet.

        Raises:
            CardError: If the card has no settings of kind openai_compatible, or they break their rules.
            InvalidConfigError: If an address is none, or a key is missing or is no key.
            MissingDependencyError: If aiohttp is not installed.
        """
        self._http = _import_aiohttp()
        noisy = logging.getLogger("aiohttp.client")  # what it writes down may hold headers: a redirect may hold a key
        noisy.setLevel(max(noisy.level, logging.INFO))
        self._pool = pool
        self._settings = settings_of(pool)
        self._places = {
            name: _Place(
                endpoint=Endpoint.of_environment(
                    remote.base_url,
                    remote.key_variable,
                    field=f"pool '{pool.name}', backend.settings.models.{name}.key_variable",
                    timeout_s=self._settings.try_s,
                ),
                remote=remote,
            )
            for name, remote in self._settings.models.items()
        }
        self._client: ClientSession | None = None

    def scrub(self, text: str) -> str:
        """A text without any key of the card."""
        for place in self._places.values():
            text = place.endpoint.scrub(text)
        return text

    def estimated_usage(
        self, model: str, messages: Sequence[Mapping[str, object]], text: str
    ) -> dict[str, JsonValue] | None:
        """What stands in for usage that is missing, if the card allows that; see `RemoteModel.usage_estimate`."""
        if self._places[model].remote.usage_estimate is None:
            return None
        counter = self._pool.token_counter
        n_prompt = sum(counter.count(all_text(message)) for message in messages)
        return {"prompt_tokens": n_prompt, "completion_tokens": counter.count(text), "is_estimate": True}

    async def close(self) -> None:
        """Let go of every connection."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def call(self, model: str, body: Mapping[str, JsonValue], chunks: "asyncio.Queue[bytes] | None") -> Result:
        """Call a model once.

        Args:
            model: Its name in the pool.
            body: What the client asked for, with the messages that it is to have.
            chunks: Takes the events of a stream that the client is sent at once; the last ones wait until the answer is booked.
                None asks for no stream.
        """
        place = self._places[model]
        sent = _request_body(place.remote, model, body, is_stream=chunks is not None)
        was_sent = False
        try:
            async with asyncio.timeout(self._settings.try_s):
                async with self._sent(place, sent) as response:
                    was_sent = True
                    return await self._read(place, model, response, body, chunks)
        except TimeoutError:
            return _broken(
                was_sent, 504, f"model '{model}' did not answer within {self._settings.try_s:g} s", "upstream_timeout"
            )
        except (self._http.ClientConnectorError, self._http.InvalidURL) as error:
            return Result(
                is_billed=False, told=_told(502, f"model '{model}' cannot be reached: {type(error).__name__}")
            )
        except (self._http.ClientError, OSError) as error:
            what = f"the reply of model '{model}' broke off: {type(error).__name__}"
            return Result(is_billed=None, told=_told(502, what, "upstream_broke_off"))

    @asynccontextmanager
    async def _sent(self, place: _Place, body: Mapping[str, JsonValue]) -> AsyncIterator["ClientResponse"]:
        if self._client is None:
            self._client = self._made_client()
        headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "mtrouter-rl"}
        if place.endpoint.key:
            headers["authorization"] = f"Bearer {place.endpoint.key}"
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        url = f"{place.endpoint.base_url.rstrip('/')}/chat/completions"
        async with self._client.post(url, data=data, headers=headers, allow_redirects=False) as response:
            yield response

    def _made_client(self) -> "ClientSession":
        """A client that follows the card alone: no proxy of the environment, no cookies, nothing unpacked."""
        import certifi

        http = self._http
        connector = http.TCPConnector(
            limit=0,
            keepalive_timeout=_KEEPALIVE_S,
            ssl=ssl.create_default_context(cafile=certifi.where()),
        )
        client: ClientSession = http.ClientSession(
            connector=connector,
            cookie_jar=http.DummyCookieJar(),
            timeout=http.ClientTimeout(total=self._settings.try_s),
            auto_decompress=False,
            trust_env=False,
        )
        return client

    async def _read(
        self,
        place: _Place,
        model: str,
        response: "ClientResponse",
        asked: Mapping[str, JsonValue],
        chunks: "asyncio.Queue[bytes] | None",
    ) -> Result:
        if 300 <= response.status < 400:
            what = f"the endpoint of model '{model}' answered with a redirect, which is refused; correct its base_url"
            return Result(is_billed=False, told=_told(502, what, "upstream_redirect"))
        if response.status != 200:
            text = place.endpoint.scrub((await _limited(response, 64 * 1024)).decode("utf-8", "replace"))
            return Result(is_billed=False, told=_told_of_status(model, response, text))
        is_stream = chunks is not None and "event-stream" in response.headers.get("content-type", "")
        if is_stream:
            assert chunks is not None
            return await self._read_stream(place, model, response, asked, chunks)
        raw = await _limited(response, MAX_REPLY_BYTES)
        if len(raw) > MAX_REPLY_BYTES:
            return _unusable(model, f"is longer than {MAX_REPLY_BYTES} bytes")
        whole = _whole(model, place.endpoint.scrub(raw.decode("utf-8", "replace")))
        if whole.told is None and (wrong := self._wrong_model(place, model, whole.served_model)):
            return _unusable(model, wrong, whole.usage)
        return whole

    def _wrong_model(self, place: _Place, model: str, told: str | None) -> str:
        """What is wrong with the name under which a reply came; empty if nothing is, or it has none."""
        card = self._pool.model(model)
        if not told or place.remote.is_served_by(told, names=(model, *card.aliases)):
            return ""
        return f"came from '{told[:100]}', another model; if it is the same one, name it in the card's served_as"

    async def _read_stream(
        self,
        place: _Place,
        model: str,
        response: "ClientResponse",
        asked: Mapping[str, JsonValue],
        chunks: "asyncio.Queue[bytes]",
    ) -> Result:
        options = asked.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        gathered = Gathered(model=model, wants_usage=wants_usage)
        n_bytes = 0
        async for data in _events(response):
            n_bytes += len(data)
            if n_bytes > MAX_REPLY_BYTES:
                return _unusable(model, f"is longer than {MAX_REPLY_BYTES} bytes", gathered.usage)
            events = list(gathered.take(place.endpoint.scrub(data)))
            if wrong := self._wrong_model(place, model, gathered.served_model):
                return _unusable(model, wrong, gathered.usage)
            for event in events:
                chunks.put_nowait(event)
            if gathered.is_done:
                break
        if not gathered.is_whole:
            return _unusable(model, gathered.problem or "broke off", gathered.usage)
        return Result(
            is_billed=True,
            message=_scrubbed(gathered.message, place.endpoint),
            usage=gathered.usage,
            served_model=gathered.served_model,
            last=tuple(gathered.last),
        )


def settings_of(pool: PoolCard) -> RemotePool:
    """Where the models of a pool answer.

    Raises:
        CardError: If the card does not say, for every model.
    """
    if pool.backend.kind != "openai_compatible":
        raise CardError(
            f"pool '{pool.name}': backend.kind is '{pool.backend.kind}', must be 'openai_compatible' for a service; name the "
            "endpoint of every model in backend.settings.models"
        )
    return read_settings(pool)


def _import_aiohttp() -> Any:  # noqa: ANN401
    try:
        import aiohttp
    except ImportError as error:
        raise MissingDependencyError(
            "the policy service needs aiohttp, which is not installed; run: pip install 'mtrouter-rl[serve]'"
        ) from error
    return aiohttp


def _request_body(
    remote: RemoteModel, model: str, asked: Mapping[str, JsonValue], *, is_stream: bool
) -> dict[str, JsonValue]:
    """What is sent: the request under the endpoint's name of the model; what the card sets goes before what the client sets."""
    body = dict(asked) | {"model": remote.model or model}
    limit = next(
        (body.pop(name) for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None), None
    )
    for name in ("max_completion_tokens", "max_tokens"):
        body.pop(name, None)
    if limit is not None:
        body[remote.limit_field] = limit
    body |= remote.set_fields
    body.pop("stream", None)
    options = body.pop("stream_options", None)
    if is_stream:
        body["stream"] = True
        body["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    return body


def _scrubbed(message: dict[str, JsonValue], endpoint: Endpoint) -> Mapping[str, JsonValue]:
    """A message that came in pieces, without the key that may have stood across two of them."""
    if not endpoint.key:
        return message
    text = endpoint.scrub(json.dumps(message, ensure_ascii=False))
    return cast("dict[str, JsonValue]", parse_json(text, is_unique=False))


async def _limited(response: "ClientResponse", most: int) -> bytes:
    """The body, or a little more than `most` bytes of it."""
    parts, n_bytes = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > most:
            break
    return b"".join(parts)[: most + 1]


async def _events(response: "ClientResponse") -> AsyncIterator[str]:
    """Data of server-sent events."""
    rest, data = b"", []
    n_kept = 0
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
                n_kept += len(line)
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", "replace")
                data, n_kept = [], 0
        if len(rest) + n_kept > MAX_REPLY_BYTES:
            yield (rest + b"".join(data)).decode("utf-8", "replace")
            return
    if data:
        yield b"\n".join(data).decode("utf-8", "replace")


def _whole(model: str, text: str) -> Result:
    try:
        body = parse_json(text, max_depth=_MAX_DEPTH, is_unique=False)
    except ValueError:
        return _unusable(model, "is no usable JSON")
    if not isinstance(body, dict):
        return _unusable(model, "is no JSON object")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        return _unusable(model, "has no choices.0.message", usage)
    served = body.get("model")
    return Result(
        is_billed=True,
        message={"role": "assistant"} | message,
        body=body,
        usage=usage,
        served_model=served[:200] if isinstance(served, str) else None,
    )


def _unusable(model: str, what: str, usage: Mapping[str, JsonValue] | None = None) -> Result:
    """A reply that was billed, though nobody may know how much."""
    told = _told(502, f"the reply of model '{model}' {what}", "upstream_unusable")
    return Result(is_billed=True if usage is not None else None, usage=usage, told=told)


def _broken(was_sent: bool, status: int, message: str, code: str) -> Result:
    return Result(is_billed=None, told=_told(status, message, code))


def _told(status: int, message: str, code: str = "upstream_error") -> Told:
    return Told(status=status, message=message, code=code)


def _told_of_status(model: str, response: "ClientResponse", text: str) -> Told:
    """An error of an endpoint as the client gets it."""
    status, message, code, param = response.status, text[:_TOLD_CHARACTERS], "upstream_error", None
    try:
        body = parse_json(text, max_depth=_MAX_DEPTH, is_unique=False)
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        message = str(error.get("message") or message)[:_TOLD_CHARACTERS]
        code = str(error.get("code") or code)[:100]
        param = None if error.get("param") is None else str(error["param"])[:100]
    elif isinstance(error, str):
        message = error[:_TOLD_CHARACTERS]
    headers = {}
    if (wait := response.headers.get("retry-after")) and wait.isascii() and wait.isprintable():
        headers["retry-after"] = wait[:60]
    if status not in _PASSED_ON:
        message = f"the endpoint of model '{model}' answered with status {status}: {message}"
        status = 504 if status == 504 else 502
    return Told(status=status, message=message, code=code, param=param, headers=headers)
