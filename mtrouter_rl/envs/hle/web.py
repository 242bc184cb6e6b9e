"""Reads pages of the web for a search backend that a user plugs in: from hosts of an allow list alone, and never locally.

No backend of this package goes to the web. Whoever writes one (entry-point group `mtrouter_rl.search`) reads pages through
this: models choose the addresses, so an address may be an attack on the network that the program runs in.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass

from mtrouter_rl.errors import InvalidConfigError, MTRouterError

_PORTS = {"http": 80, "https": 443}
_CHUNK_BYTES = 2**16


class PageError(MTRouterError):
    """A page is not read: its address is not allowed, or it is too large, too slow, or no text. A model is told so."""


@dataclass(frozen=True, kw_only=True)
class WebReader:
    """Reads pages.

    Attributes:
        allowed_hosts: Hosts that may be read, each with its subdomains, such as "wikipedia.org"; there is no default.
        timeout_s: Deadline of a page, its redirects included, seconds.
        max_bytes: Longest page; a longer one is cut.
        max_redirects: How many redirects are followed; each is checked like the first address.
    """

    allowed_hosts: tuple[str, ...]
    timeout_s: float = 10.0
    max_bytes: int = 2 * 2**20
    max_redirects: int = 3

    def __post_init__(self) -> None:
        """Check the list.

        Raises:
            InvalidConfigError: If it is empty, or holds anything but names of hosts.
        """
        if not self.allowed_hosts:
            raise InvalidConfigError(
                "allowed_hosts is empty; name the hosts that models may read, such as wikipedia.org"
            )
        for host in self.allowed_hosts:
            if (
                "." not in host
                or host != host.lower().strip(".")
                or set(host) & set("*/:@ ")
                or _as_address(host) is not None
            ):
                raise InvalidConfigError(
                    f"allowed_hosts holds {host!r}, must be names of hosts in lower case, without scheme, port or *"
                )

    def read(self, url: str) -> str:
        """Text of a page.

        Raises:
            PageError: If it may not or cannot be read; says why.
        """
        box: list[socket.socket] = []
        is_late = threading.Event()

        def cut() -> None:
            is_late.set()
            for one in box:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            for _ in range(self.max_redirects + 1):
                text, url = self._get(url, box, is_late)
                if is_late.is_set():
                    raise TimeoutError
                if text is not None:
                    return text
            raise PageError(f"more than {self.max_redirects} redirects")
        except (OSError, http.client.HTTPException, ValueError) as error:
            if is_late.is_set():
                raise PageError(f"no whole page within {self.timeout_s:g} s") from None
            raise PageError(f"the page cannot be read: {type(error).__name__}: {error}"[:200]) from None
        finally:
            timer.cancel()

    def _get(self, url: str, box: list[socket.socket], is_late: threading.Event) -> tuple[str | None, str]:
        """Text of a page, or where it sends to."""
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        self._check(parts, host)
        plain = socket.create_connection(
            (_public_address(host, _PORTS[parts.scheme]), _PORTS[parts.scheme]), self.timeout_s
        )
        box.append(plain)
        try:
            if is_late.is_set():
                raise TimeoutError
            connection = http.client.HTTPConnection(host, timeout=self.timeout_s)
            connection.sock = plain
            if parts.scheme == "https":
                connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
                box.append(connection.sock)
            path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request("GET", path, headers={"Accept": "text/*", "User-Agent": "mtrouter-rl"})
            return self._page(connection.getresponse(), url)
        finally:
            for one in box:
                one.close()

    def _check(self, parts: urllib.parse.SplitResult, host: str) -> None:
        if parts.scheme not in _PORTS or parts.port not in (None, _PORTS[parts.scheme]) or parts.username is not None:
            raise PageError("the address must begin with https:// or http://, without port and user name")
        if not any(host == allowed or host.endswith(f".{allowed}") for allowed in self.allowed_hosts):
            raise PageError(f"host '{host[:100]}' is not allowed; allowed are {', '.join(self.allowed_hosts)}")

    def _page(self, response: http.client.HTTPResponse, url: str) -> tuple[str | None, str]:
        if response.status in (301, 302, 303, 307, 308):
            return None, urllib.parse.urljoin(url, response.getheader("Location", ""))
        if response.status != 200:
            raise PageError(f"HTTP {response.status}")
        kind = response.headers.get_content_type()
        if not kind.startswith("text/"):
            raise PageError(f"the page is no text but {kind}"[:100])
        kept = bytearray()
        while len(kept) < self.max_bytes and (chunk := response.read1(_CHUNK_BYTES)):
            kept += chunk
        try:
            return bytes(kept[: self.max_bytes]).decode(
                response.headers.get_content_charset("utf-8"), errors="replace"
            ), url
        except LookupError:
            raise PageError("the page is in an unknown encoding") from None


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _public_address(host: str, port: int) -> str:
    """Address of a host, to connect to just that one; a name that means a local address, now or later, is refused."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if not is_public(text):
            raise PageError(f"host '{host}' is {text}, which is no address of the public network")
    if not found:
        raise PageError(f"host '{host}' has no address")
    return found[0]


def is_public(text: str) -> bool:
    """Whether an address is one of the public network: not local, private, shared, reserved or of a translation to such.

    Example:
        >>> is_public("192.168.1.1"), is_public("::ffff:127.0.0.1"), is_public("93.184.216.34")
        (False, False, True)
    """
    address = _as_address(text.partition("%")[0])
    if address is None:
        return False
    inner = address
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (address, address))[1]
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return all(one.is_global and not one.is_multicast for one in (address if inner is address else inner, inner))
