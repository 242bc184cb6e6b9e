"""The HTTP client against servers that wish it ill: each is a small server on this machine."""

import http.server
import json
import socket
import threading
import time

import pytest

from mtrouter_rl.envs.hle.llm_judge import EndpointJudgeCard, LlmJudge
from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.errors import InvalidConfigError, SimulatorError
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError

KEY = "sk-very+secret/key=1"
QUESTION = Question(id="q", text="What is 6 times 7?", answer="42", answer_type="exactMatch", category="Math")
GOOD = {"choices": [{"message": {"content": "correct: yes"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def serve():
    """Starts servers whose handler writes whatever it likes; gives their addresses, and what they were sent."""
    running = []

    def start(answer):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(dict(self.headers))
                self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    answer(self)
                except OSError:  # the client has gone
                    self.close_connection = True

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(status, body, *, reason=None, **headers):
    def answer(handler):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status, reason)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def judge_at(url, **changes):
    settings = {"base_url": url, "model": "judge", "input_usd": 1.0, "output_usd": 1.0, "retries": 0, "backoff_s": 0.0}
    return LlmJudge(EndpointJudgeCard(**(settings | {"timeout_s": 5.0} | changes)))


def test_a_redirect_is_not_followed_and_no_key_leaves_for_another_host(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    other, asked_other = serve(reply(200, GOOD))
    for status in (301, 302, 303, 307, 308):
        url, _ = serve(reply(status, b"", Location=other))
        with pytest.raises(
            SimulatorError, match=rf"refused the call: HTTP {status}: it sends the call on to .*not followed"
        ):
            judge_at(url, api_key_env="JUDGE_KEY").judge(QUESTION, "42")
    assert not asked_other


@pytest.mark.parametrize("key", [KEY + "\r", KEY + "\n", "two words", "schlüssel", "\x00"])
def test_a_key_that_is_none_is_refused_at_the_start_and_never_told(key, monkeypatch):
    if "\x00" not in key:
        monkeypatch.setenv("JUDGE_KEY", key)
        with pytest.raises(
            InvalidConfigError, match=r"api_key_env: the key for .* holds a line break, a blank"
        ) as caught:
            judge_at("http://127.0.0.1:9", api_key_env="JUDGE_KEY")
        assert key.strip() not in str(caught.value)
    with pytest.raises(InvalidConfigError, match="holds a line break"):
        Endpoint(base_url="https://example.org", key=key)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org", "must be http:// or https:// with a host"),
        ("http://", "with a host"),
        ("https://me:pw@example.org/v1", "holds a user name"),
        ("https://example.org/v1?key=1", "a query"),
        ("https://example.org:99999", "is no address"),
        ("https://example.org/\r\nX: y", "must be http"),
    ],
)
def test_addresses_that_are_none(url, message):
    with pytest.raises(InvalidConfigError, match=message):
        Endpoint(base_url=url)


def test_a_key_is_scrubbed_from_reasons_replies_and_errors(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    url, asked = serve(reply(403, b"", reason=f"bad key {KEY}"))
    with pytest.raises(SimulatorError, match=r"HTTP 403 bad key \[key\]") as caught:
        judge_at(url, api_key_env="JUDGE_KEY").judge(QUESTION, "42")
    assert KEY not in str(caught.value)
    assert asked[0]["Authorization"] == f"Bearer {KEY}"
    echoed = {"text": KEY, "quoted": "sk-very%2Bsecret%2Fkey%3D1", "coded": "c2stdmVyeStzZWNyZXQva2V5PTE="}
    url, _ = serve(reply(200, echoed))
    told = Endpoint(base_url=url, key=KEY).post("chat", {})
    assert told == {"text": "[key]", "quoted": "[key]", "coded": "[key]"}


def drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(90):
        handler.wfile.write(f"X-{number}: y\r\n".encode())
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip, drip_headers], ids=["body", "headers"])
def test_a_dripping_server_is_left_at_the_deadline(serve, answer):
    url, _ = serve(answer)
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"TimeoutError: no whole reply within 0\.4 s"):
        Endpoint(base_url=url, timeout_s=0.4).post("chat", {})
    assert time.monotonic() - start < 2.5


def test_a_server_that_never_answers_is_left(serve):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        with pytest.raises(EndpointError, match="TimeoutError"):
            Endpoint(base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.3).post("chat", {})


def flood(handler):
    handler.send_response(200)
    handler.end_headers()  # no length: until the connection ends
    while True:
        handler.wfile.write(b" " * 65536)


def test_a_flood_is_cut_off(serve):
    url, _ = serve(flood)
    with pytest.raises(EndpointError, match="the reply has more than 1000000 bytes"):
        Endpoint(base_url=url, timeout_s=20, max_bytes=1_000_000).post("chat", {})


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000,
        b'{"choices": ' + b"9" * 6000 + b"}",
        b"\xff\xfe",
        b"",
        {**GOOD, "usage": {"prompt_tokens": "abc"}},
        {**GOOD, "usage": {"prompt_tokens": -5}},
        {**GOOD, "usage": {"completion_tokens": float("nan")}},
        {**GOOD, "usage": {"completion_tokens": 1e308}},
        {**GOOD, "usage": {"completion_tokens": True}},
        {**GOOD, "usage": {"completion_tokens": 10**300}},
        {"choices": {"0": 1}},
        {"choices": "text"},
        {"choices": [["message"]]},
    ],
    ids=lambda body: str(body)[:40],
)
def test_an_odd_reply_is_a_failed_episode(serve, body):
    url, _ = serve(reply(200, body))
    with pytest.raises(SimulatorError, match="gave no verdict in 1 call"):
        judge_at(url).judge(QUESTION, "42")


def test_a_reply_that_is_cut_off_is_told(serve):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"{}")
        handler.close_connection = True

    url, _ = serve(answer)
    with pytest.raises(EndpointError, match="IncompleteRead"):
        Endpoint(base_url=url, timeout_s=5).post("chat", {})


def test_the_proxy_of_the_environment_is_used(serve, monkeypatch):
    url, asked = serve(reply(200, {"ok": 1}))
    monkeypatch.setenv("http_proxy", url)
    assert Endpoint(base_url="http://models.example/v1").post("chat", {}) == {"ok": 1}
    assert asked[0]["Host"] == "models.example"
