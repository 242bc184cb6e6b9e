"""The service over HTTP: paths, keys, sizes, and errors in OpenAI's form."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, MTRouterError
from mtrouter_rl.records import JsonValue
from mtrouter_rl.serving.service.database import StoreError
from mtrouter_rl.serving.service.openapi import schema
from mtrouter_rl.serving.service.problems import RequestError, Told
from mtrouter_rl.serving.service.requests import (
    chat_request,
    feedback_request,
    outcome_request,
    read_body,
    route_request,
)
from mtrouter_rl.serving.service.service import Answer, Service
from mtrouter_rl.serving.service.settings import Keyring

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)
_PATHS = ("/v1/chat/completions", "/v1/models", "/route", "/outcome", "/feedback", "/reload")


class Web:
    """The handlers of the paths."""

    def __init__(self, service: Service, keyring: Keyring, reload: Callable[[], None]) -> None:
        """Take the parts.

        Args:
            service: What the endpoints do.
            keyring: Who is let in.
            reload: Loads the router again.
        """
        self._service, self._keyring, self._reload = service, keyring, reload
        self._settings = service.desk.settings
        self._pool = service.desk.pool
        self._started = int(time.time())

    async def chat(self, request: "Request", key_id: str) -> Answer:
        """`/v1/chat/completions`."""
        asked = chat_request(
            await self._body(request),
            request.headers,
            key_id=key_id,
            pool=self._pool,
            routed_name=self._settings.routed_name,
        )
        return await self._service.chat(asked)

    async def route(self, request: "Request", key_id: str) -> Answer:
        """`/route`."""
        asked = route_request(await self._body(request), request.headers, key_id=key_id, pool=self._pool)
        return await self._service.route(asked)

    async def outcome(self, request: "Request", key_id: str) -> Answer:
        """`/outcome`."""
        return await self._service.outcome(key_id, outcome_request(await self._body(request)))

    async def feedback(self, request: "Request", key_id: str) -> Answer:
        """`/feedback`."""
        return await self._service.feedback(key_id, feedback_request(await self._body(request), request.headers))

    async def models(self, request: "Request", key_id: str) -> Answer:
        """`/v1/models`."""
        del request, key_id
        names = (self._settings.routed_name, *self._pool.model_names)
        data = [{"id": name, "object": "model", "created": self._started, "owned_by": "mtrouter-rl"} for name in names]
        return Answer(body={"object": "list", "data": data})

    async def reload(self, request: "Request", key_id: str) -> Answer:
        """`/reload`."""
        del request, key_id
        if self._keyring.is_open:
            raise RequestError(
                403, "/reload needs a bearer token; start with --token-variable, or send SIGHUP", code="no_tokens"
            )
        try:
            await asyncio.to_thread(self._reload)
        except MTRouterError as error:
            raise RequestError(409, f"the router in use stays: {error}", code="router_unusable") from error
        brain = self._service.desk.box.brain
        return Answer(body={"router": brain.live.name, "stamp": brain.stamp})

    async def healthz(self, request: "Request") -> Answer:
        """`/healthz`: the process runs."""
        del request
        return Answer(body={"status": "ok"})

    async def readyz(self, request: "Request") -> Answer:
        """`/readyz`: it can decide and write."""
        del request
        await self._service.desk.in_store(self._service.desk.store.beat)
        return Answer(body={"status": "ready", "router": self._service.desk.box.brain.live.name})

    async def openapi(self, request: "Request") -> Answer:
        """`/openapi.json`."""
        del request
        return Answer(body=schema(self._settings.routed_name, self._pool))

    async def metrics(self, request: "Request") -> "Response":
        """`/metrics`."""
        from starlette.responses import Response

        del request
        return Response(self._service.metrics.text(), headers={"content-type": self._service.metrics.content_type})

    def with_key(
        self, handler: "Callable[[Request, str], Awaitable[Answer]]"
    ) -> "Callable[[Request], Awaitable[Response]]":
        """A handler that lets in only those who may come in."""

        async def checked(request: "Request") -> Answer:
            key_id = self._keyring.key_id(request.headers.get("authorization"))
            if key_id is None:
                headers = {"www-authenticate": "Bearer"}
                raise RequestError(401, "the bearer token is missing or wrong", code="invalid_api_key", headers=headers)
            return await handler(request, key_id)

        return self.open(checked)

    def open(self, handler: "Callable[[Request], Awaitable[Answer]]") -> "Callable[[Request], Awaitable[Response]]":
        """A handler whose errors are told in OpenAI's form."""

        async def answered(request: "Request") -> "Response":
            started = time.perf_counter()
            try:
                answer = await handler(request)
            except (MTRouterError, TimeoutError) as error:
                told = told_of(error)
                self._service.metrics.errors.labels(told.code[:60]).inc()
                answer = Answer(status=told.status, body=told.body, headers=told.headers)
            return self._response(request.url.path, answer, started)

        return answered

    def _response(self, path: str, answer: Answer, started: float) -> "Response":
        from starlette.responses import Response, StreamingResponse

        metrics = self._service.metrics
        metrics.requests.labels(path, str(answer.status)).inc()
        if answer.events is None:
            metrics.request_s.labels(path).observe(time.perf_counter() - started)
            data = json.dumps(answer.body, separators=(",", ":")).encode()
            headers = {"content-type": "application/json", **answer.headers}
            return Response(data, status_code=answer.status, headers=headers)
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", **answer.headers}
        return StreamingResponse(answer.events, headers=headers)

    async def _body(self, request: "Request") -> dict[str, JsonValue]:
        from starlette.requests import ClientDisconnect

        most, parts, n_bytes = self._settings.max_body_bytes, [], 0
        try:
            async with asyncio.timeout(self._settings.read_within_s):
                async for part in request.stream():
                    parts.append(part)
                    n_bytes += len(part)
                    if n_bytes > most:
                        raise RequestError(413, f"the body is longer than {most} bytes", code="body_too_large")
        except TimeoutError:
            raise RequestError(408, "the body did not arrive in time", code="body_too_late") from None
        except ClientDisconnect:
            raise RequestError(400, "the client went away", code="client_gone") from None
        return read_body(b"".join(parts))


def told_of(error: MTRouterError | TimeoutError) -> Told:
    """What a client is told of an error."""
    if isinstance(error, RequestError):
        return error.told
    if isinstance(error, StoreError):
        logger.error("%s", error)
        return Told(
            status=503, message="the store cannot be used now; try again", code="store", headers={"retry-after": "1"}
        )
    if isinstance(error, InvalidConfigError):
        return Told(status=400, message=str(error)[:500], code="invalid_request")
    logger.error("%s: %s", type(error).__name__, error)
    return Told(status=500, message="the service failed; its log says why", code="internal")


def make_app(service: Service, keyring: Keyring, reload: Callable[[], None]) -> "Starlette":
    """The application.

    Raises:
        MissingDependencyError: If Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise MissingDependencyError(
            "the policy service needs Starlette, which is not installed; run: pip install 'mtrouter-rl[serve]'"
        ) from error
    web = Web(service, keyring, reload)
    routes = [
        Route("/v1/chat/completions", web.with_key(web.chat), methods=["POST"]),
        Route("/v1/models", web.with_key(web.models), methods=["GET"]),
        Route("/route", web.with_key(web.route), methods=["POST"]),
        Route("/outcome", web.with_key(web.outcome), methods=["POST"]),
        Route("/feedback", web.with_key(web.feedback), methods=["POST"]),
        Route("/reload", web.with_key(web.reload), methods=["POST"]),
        Route("/healthz", web.open(web.healthz), methods=["GET"]),
        Route("/readyz", web.open(web.readyz), methods=["GET"]),
        Route("/openapi.json", web.open(web.openapi), methods=["GET"]),
        Route("/metrics", web.metrics, methods=["GET"]),
    ]

    async def refused(request: "Request", error: Exception) -> "Response":
        from starlette.responses import JSONResponse

        del request
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: "there is no such path; see /openapi.json", 405: "the path does not take this method"}
        told = Told(status=status, message=words.get(status, "the service failed; its log says why"), code="not_found")
        headers = dict(getattr(error, "headers", None) or {})
        return JSONResponse(told.body, status_code=status, headers=headers)

    handlers: Mapping[object, Callable[..., Awaitable[Response]]] = {HTTPException: refused, Exception: refused}
    return Starlette(routes=routes, exception_handlers=handlers)
