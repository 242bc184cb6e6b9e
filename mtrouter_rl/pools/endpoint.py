"""The one HTTP client for judges and backends: what it sends goes to the address of the card alone, and nothing waits for ever.

It follows no redirect, since that would hand the key to whoever is named there. It has one deadline for all of a call, however
slowly the server drips, and a limit on the size of a reply. The key is checked at the start and removed from everything that
comes back, replies and errors alike.
"""

import base64
import http.client
import json
import logging
import os
import re
import socket
import ssl
import threading
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
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


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
        call = _Call(self)
        try:
            status, reason, location, data = call.post(path, json.dumps(body).encode())
        except _TooLongError:
            raise EndpointError(f"the reply has more than {self.max_bytes} bytes") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if call.is_late:
                raise EndpointError(f"TimeoutError: no whole reply within {self.timeout_s:g} s") from None
            raise EndpointError(self.scrub(f"{type(error).__name__}: {error}")) from None
        if 300 <= status < 400:
            host = self.scrub(location)[:200]
            raise EndpointError(
                f"HTTP {status}: it sends the call on to '{host}', which is not followed; give the right base_url",
                status=status,
            )
        if not 200 <= status < 300:
            raise EndpointError(self.scrub(f"HTTP {status} {reason}"[:200]), status=status)
        try:
            return parse_json(self.scrub(data.decode()), max_depth=MAX_REPLY_DEPTH, is_unique=False)
        except ValueError as error:
            raise EndpointError(f"the reply is no usable JSON: {self.scrub(str(error))[:200]}", status=status) from None


class _TooLongError(Exception):
    """A reply passed the limit of its size."""


class _Call:
    """One call under one deadline: when it is over, the connection is cut, whatever waits for it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = urllib.parse.urlsplit(endpoint.base_url)
        self._connection = self._connect()
        self._socket: socket.socket | None = None
        self.is_late = False

    def post(self, path: str, data: bytes) -> tuple[int, str, str, bytes]:
        """Status, reason, location and body of the reply."""
        timer = threading.Timer(self._endpoint.timeout_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            target = f"{self._target_prefix}{self._url.path.rstrip('/')}/{path}"
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if self._endpoint.key:
                headers["Authorization"] = f"Bearer {self._endpoint.key}"
            self._connection.connect()
            self._socket = self._connection.sock  # the connection itself lets go of it before the reply is read
            if self.is_late:  # nothing cuts it any more
                raise TimeoutError
            self._connection.request("POST", target, body=data, headers=headers)
            response = self._connection.getresponse()
            body = self._read(response)
            if self.is_late:
                raise TimeoutError
            return response.status, response.reason, response.getheader("Location", ""), body
        finally:
            timer.cancel()
            self._connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        """Connection to the host, or to the proxy that the environment names for it."""
        host, port = self._url.hostname or "", self._url.port
        is_secure = self._url.scheme == "https"
        proxy = urllib.request.getproxies().get(self._url.scheme, "")
        self._target_prefix = ""
        timeout = self._endpoint.timeout_s
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

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        kept = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            kept += chunk
            if len(kept) > self._endpoint.max_bytes:
                raise _TooLongError
        if response.length:
            raise http.client.IncompleteRead(bytes(kept), response.length)
        return bytes(kept)

    def _cut(self) -> None:
        self.is_late = True
        connected = self._socket or self._connection.sock
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
