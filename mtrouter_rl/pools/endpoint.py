"""The one HTTP client for judges and backends: what it sends goes to the address of the card alone, and nothing waits for ever.

It follows no redirect, since that would hand the key to whoever is named there. It has one deadline for all of a call, however
slowly the server drips, and a limit on the size of a reply. The key is checked at the start and removed from everything that
comes back, replies and errors alike.
"""

import base64
import datetime
import email.utils
import http.client
import json
import logging
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mtrouter_rl.errors import InvalidConfigError, MTRouterError
from mtrouter_rl.files import parse_json
from mtrouter_rl.records import JsonValue

logger = logging.getLogger(__name__)

MAX_REPLY_BYTES = 8 * 2**20
"""A reply that is longer is no answer of a model."""
MAX_REPLY_DEPTH = 50
_KEY = re.compile(r"[\x21-\x7e]+")
_CHUNK_BYTES = 2**16
_SCRUBBED = "[key]"
_LOCAL = ("localhost", "127.0.0.1", "::1")


class EndpointError(MTRouterError):
    """A call gave no usable reply.

    Attributes:
        status: HTTP status of the reply; None if there was none, or none that could be read.
        retry_after_s: How long the server asks to wait before the next call, seconds; None if it does not say.
        was_sent: Whether the whole request had left, so that the server may have worked, and billed, without a reply.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, was_sent: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.was_sent = was_sent


@dataclass(frozen=True, kw_only=True)
class Received:
    """A reply with a good status, without the key.

    Attributes:
        status: HTTP status.
        text: The body, or as much of it as came.
        problem: Why the body is not whole; empty if it is.
    """

    status: int
    text: str
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address that is called, and the key for it.

    Attributes:
        base_url: Address, http or https, without user name, query or fragment.
        key: Sent as a bearer token; empty for none.
        timeout_s: Deadline of a whole call, seconds.
        max_bytes: Longest reply.
    """

    base_url: str
    key: str = ""
    timeout_s: float = 60.0
    max_bytes: int = MAX_REPLY_BYTES

    def __post_init__(self) -> None:
        """Check address and key, so that a wrong one is told before anything is called.

        Raises:
            InvalidConfigError: If the address is none, or the key holds what no header may hold. The key itself is never told.
        """
        try:
            parts = urllib.parse.urlsplit(self.base_url)
            _ = parts.port
        except ValueError as error:
            raise InvalidConfigError(f"base_url '{self.base_url}' is no address: {error}; correct it") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not _KEY.fullmatch(self.base_url):
            raise InvalidConfigError(f"base_url {self.base_url!r} must be http:// or https:// with a host; correct it")
        if parts.username is not None or parts.query or parts.fragment:
            raise InvalidConfigError(
                f"base_url at host '{parts.hostname}' holds a user name, a query or a fragment; leave them out, and name the "
                "environment variable of the key instead"
            )
        if self.key and not _KEY.fullmatch(self.key):
            raise InvalidConfigError(
                f"the key for {self.base_url} holds a line break, a blank or another character that no key has; export it "
                "anew, such as with KEY=$(tr -d '\\r\\n' < FILE)"
            )
        if self.key and parts.scheme == "http" and parts.hostname not in _LOCAL:
            logger.warning("the key for %s is sent without encryption; use https", self.base_url)

    @classmethod
    def of_environment(cls, base_url: str, variable: str | None, *, field: str, timeout_s: float) -> "Endpoint":
        """Endpoint whose key is in an environment variable; None for an endpoint without one.

        Raises:
            InvalidConfigError: If the variable is not set, or as above.
        """
        key = "" if variable is None else os.environ.get(variable, "")
        if variable is not None and not key:
            raise InvalidConfigError(f"{field} names {variable}, which is not set; export the key of {base_url}")
        try:
            return cls(base_url=base_url, key=key, timeout_s=timeout_s)
        except InvalidConfigError as error:
            raise InvalidConfigError(f"{field}: {error}") from None

    def scrub(self, text: str) -> str:
        """The text without the key, in plain or as it would stand in an address, in base 64 or in JSON."""
        if not self.key:
            return text
        forms = (
            self.key,
            urllib.parse.quote(self.key, safe=""),
            urllib.parse.quote_plus(self.key),
            base64.b64encode(self.key.encode()).decode(),
            json.dumps(self.key)[1:-1],
        )
        for form in sorted(set(forms), key=len, reverse=True):
            text = text.replace(form, _SCRUBBED)
        return text

    def post(self, path: str, body: Mapping[str, object]) -> JsonValue:
        """Send JSON, receive JSON.

        Args:
            path: Of the call, below `base_url`, such as "chat/completions".
            body: What is sent.

        Raises:
            EndpointError: If the server cannot be reached, answers with an error, a redirect, too late, too much, or no JSON.
        """
        received = self.send("POST", path, body)
        if received.problem:
            raise EndpointError(received.problem, status=received.status)
        return self._parsed(received)

    def get(self, path: str) -> JsonValue:
        """Receive JSON.

        Raises:
            EndpointError: As `post`.
        """
        received = self.send("GET", path)
        if received.problem:
            raise EndpointError(received.problem, status=received.status)
        return self._parsed(received)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Received:
        """Call, and take what comes: a body that breaks off is given as far as it came.

        Args:
            method: "GET" or "POST".
            path: Of the call, below `base_url`.
            body: What is sent as JSON.
            timeout_s: Deadline of the call, seconds; None takes the endpoint's.
            headers: Further headers.

        Raises:
            EndpointError: If the server cannot be reached, answers with an error or a redirect, or with nothing in time.
        """
        deadline_s = self.timeout_s if timeout_s is None else min(timeout_s, self.timeout_s)
        call = _Call(self, deadline_s)
        data = None if body is None else json.dumps(body).encode()
        problem = ""
        try:
            call.send(method, path, data, headers or {})
        except _TooLongError:
            problem = f"the reply has more than {self.max_bytes} bytes"
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = self.scrub(f"{type(error).__name__}: {error}"[:500])
            if call.is_late:
                problem = f"TimeoutError: no whole reply within {deadline_s:g} s"
        if call.response is None:
            raise EndpointError(problem, was_sent=call.was_sent)
        self._refuse_status(call.response)
        return Received(
            status=call.response.status,
            text=self.scrub(bytes(call.body).decode(errors="surrogateescape")),
            problem=problem,
        )

    def _refuse_status(self, response: http.client.HTTPResponse) -> None:
        status = response.status
        if 300 <= status < 400:
            host = self.scrub(response.getheader("Location", ""))[:200]
            raise EndpointError(
                f"HTTP {status}: it sends the call on to '{host}', which is not followed; give the right base_url",
                status=status,
            )
        if not 200 <= status < 300:
            raise EndpointError(
                self.scrub(f"HTTP {status} {response.reason}"[:200]),
                status=status,
                retry_after_s=seconds_to_wait(response.getheader("Retry-After", "")),
            )

    def _parsed(self, received: Received) -> JsonValue:
        try:
            received.text.encode()  # what is no UTF-8 is no JSON
            return parse_json(received.text, max_depth=MAX_REPLY_DEPTH, is_unique=False)
        except ValueError as error:
            raise EndpointError(
                f"the reply is no usable JSON: {self.scrub(str(error))[:200]}", status=received.status
            ) from None


def seconds_to_wait(retry_after: str, *, now_s: float | None = None) -> float | None:
    """Seconds of a header Retry-After, which is a number or a date; None if it is neither.

    Example:
        >>> seconds_to_wait("1.5"), seconds_to_wait("Thu, 01 Jan 1970 00:01:00 GMT", now_s=50.0), seconds_to_wait("soon")
        (1.5, 10.0, None)
    """
    text = retry_after.strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.UTC)
    return max(at.timestamp() - (time.time() if now_s is None else now_s), 0.0)


class _TooLongError(Exception):
    """A reply passed the limit of its size."""


class _Call:
    """One call under one deadline: when it is over, the connection is cut, whatever waits for it.

    Attributes:
        response: The reply; None before its head has come.
        body: As much of its body as has come.
        was_sent: Whether the whole request has left.
        is_late: Whether the deadline has passed.
    """

    def __init__(self, endpoint: Endpoint, deadline_s: float) -> None:
        self._endpoint = endpoint
        self._deadline_s = deadline_s
        self._url = urllib.parse.urlsplit(endpoint.base_url)
        self._connection = self._connect()
        self._socket: socket.socket | None = None
        self.response: http.client.HTTPResponse | None = None
        self.body = bytearray()
        self.was_sent = False
        self.is_late = False

    def send(self, method: str, path: str, data: bytes | None, more: Mapping[str, str]) -> None:
        """Send the request and read the reply."""
        timer = threading.Timer(self._deadline_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            target = f"{self._target_prefix}{self._url.path.rstrip('/')}/{path}"
            headers = {**more, "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            if self._endpoint.key:
                headers["Authorization"] = f"Bearer {self._endpoint.key}"
            self._connection.connect()
            self._socket = self._connection.sock  # the connection itself lets go of it before the reply is read
            if self.is_late:  # nothing cuts it any more
                raise TimeoutError
            self._connection.request(method, target, body=data, headers=headers)
            self.was_sent = True
            self.response = self._connection.getresponse()
            self._read(self.response)
            if self.is_late:
                raise TimeoutError
        finally:
            timer.cancel()
            self._connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """Connection to the host, or to the proxy that the environment names for it."""
        host, port = self._url.hostname or "", self._url.port
        is_secure = self._url.scheme == "https"
        proxy = urllib.request.getproxies().get(self._url.scheme, "")
        self._target_prefix = ""
        timeout = self._deadline_s
        if proxy and not urllib.request.proxy_bypass(host):
            via = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            if not is_secure:
                self._target_prefix = f"http://{self._url.netloc}"
                return http.client.HTTPConnection(via.hostname or "", via.port, timeout=timeout)
            tunnel = http.client.HTTPSConnection(
                via.hostname or "", via.port, timeout=timeout, context=ssl.create_default_context()
            )
            tunnel.set_tunnel(host, port)
            return tunnel
        if is_secure:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _read(self, response: http.client.HTTPResponse) -> None:
        while chunk := response.read1(_CHUNK_BYTES):
            self.body += chunk
            if len(self.body) > self._endpoint.max_bytes:
                raise _TooLongError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)

    def _cut(self) -> None:
        self.is_late = True
        connected = self._socket or self._connection.sock
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
