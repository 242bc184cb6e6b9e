"""Pages are read from allowed hosts of the public network; servers of the tests stand in for it on this machine."""

import http.server
import socket
import threading
import time

import pytest

from mtrouter_rl.envs.hle import web
from mtrouter_rl.envs.hle.web import PageError, WebReader, is_public
from mtrouter_rl.errors import InvalidConfigError

REAL = socket.getaddrinfo


@pytest.fixture
def site(monkeypatch):
    """A site on this machine: its pages by path, its name by DNS, and an address that counts as public."""
    pages = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            pages[self.path](self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    names = {"site.example": "127.0.0.1", "evil.site.example": "169.254.169.254", "two.site.example": "10.0.0.1"}
    monkeypatch.setattr(web, "_PORTS", {"http": server.server_port, "https": 443})
    monkeypatch.setattr(web.socket, "getaddrinfo", lambda host, *a, **k: REAL(names.get(host, host), *a, **k))
    monkeypatch.setattr(web, "is_public", lambda text: text == "127.0.0.1" or is_public(text))
    yield pages
    server.shutdown()
    thread.join()
    server.server_close()


def page(body=b"hello", status=200, *, kind="text/html; charset=utf-8", location=None):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        if location is not None:
            handler.send_header("Location", location)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


READER = WebReader(allowed_hosts=("site.example",), timeout_s=5, max_bytes=1000)


def test_a_page_of_an_allowed_host_is_read(site):
    site["/"] = page("grüße".encode())
    site["/moved"] = page(status=302, location="/")
    assert READER.read("http://site.example/") == "grüße"
    assert READER.read("http://site.example/moved") == "grüße"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://other.example/", "host 'other.example' is not allowed"),
        ("http://notsite.example/", "is not allowed"),
        ("http://site.example.evil.example/", "is not allowed"),
        ("http://127.0.0.1/", "is not allowed"),
        ("http://2130706433/", "is not allowed"),
        ("http://[::1]/", "is not allowed"),
        ("file:///etc/passwd", "must begin with https"),
        ("http://site.example:22/", "without port"),
        ("http://me@site.example/", "without port and user name"),
        ("http://evil.site.example/", "is 169.254.169.254, which is no address of the public network"),
        ("http://two.site.example/", "is 10.0.0.1, which is no address"),
        ("http://[", "cannot be read"),
    ],
)
def test_addresses_that_are_refused(site, url, message):
    with pytest.raises(PageError, match=message):
        READER.read(url)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://127.0.0.1/", "is not allowed"),
        ("http://evil.site.example/", "169.254.169.254"),
        ("//other.example/", "is not allowed"),
        ("file:///etc/passwd", "must begin"),
        ("/loop", "more than 3 redirects"),
    ],
)
def test_redirects_are_checked_like_the_first_address(site, target, message):
    site["/loop"] = page(status=302, location=target)
    with pytest.raises(PageError, match=message):
        READER.read("http://site.example/loop")


def test_limits_of_size_time_and_kind(site):
    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    site |= {
        "/long": page(b"x" * 5000),
        "/slow": slow,
        "/image": page(kind="image/png"),
        "/gone": page(status=404),
    }
    assert len(READER.read("http://site.example/long")) == 1000
    start = time.monotonic()
    with pytest.raises(PageError, match=r"no whole page within 0.3 s"):
        WebReader(allowed_hosts=("site.example",), timeout_s=0.3).read("http://site.example/slow")
    assert time.monotonic() - start < 3
    with pytest.raises(PageError, match="is no text but image/png"):
        READER.read("http://site.example/image")
    with pytest.raises(PageError, match="HTTP 404"):
        READER.read("http://site.example/gone")


LOCAL = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1 ::1 ::
fe80::1%eth0 fc00::1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: nothing"""


@pytest.mark.parametrize("address", LOCAL.split())
def test_local_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("hosts", [(), ("*",), ("https://a.org",), ("localhost",), ("10.0.0.1",), ("A.org",)])
def test_a_list_is_needed(hosts):
    with pytest.raises(InvalidConfigError, match="allowed_hosts"):
        WebReader(allowed_hosts=hosts)
