"""As much of HTTP/1.1 as the double needs: read a request, write a reply, whole or in pieces."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 2**16
MAX_BODY_BYTES = 2**25
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadRequestError(Exception):
    """What came is no request that can be answered; the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        method: Such as "POST".
        path: Without its query.
        headers: By name in lower case.
        body: Bytes of the body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def stays_open(self) -> bool:
        """Whether the client may send another request on the connection."""
        return self.headers.get("connection", "").lower() != "close"


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None where the client has closed it.

    Raises:
        BadRequestError: If it is none, or is too large.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise BadRequestError(431, f"the head has more than {MAX_HEAD_BYTES} bytes") from None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError(400, "the first line is no request of HTTP/1")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await _read_body(reader, headers)
    return Request(method=words[0], path=words[1].partition("?")[0], headers=headers, body=body)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding"):
        raise BadRequestError(411, "send a Content-Length; a body in chunks is not read")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise BadRequestError(400, f"Content-Length is {length[:40]!r}, must be a whole number")
    if len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise BadRequestError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise BadRequestError(400, "the body is shorter than its Content-Length") from None


def head(
    status: int, headers: Mapping[str, str] | None = None, *, length: int | None, content: str = "application/json"
) -> bytes:
    """First bytes of a reply; without a length its body comes in chunks."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"Content-Type: {content}", size]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def whole(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A reply with its body."""
    return head(status, headers, length=len(body)) + body


def chunk(data: bytes) -> bytes:
    """One piece of a body in chunks; of no data it is the last."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(data: object) -> bytes:
    """A server-sent event of JSON, or of a text as it stands."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
