"""Keys appear nowhere, redirects are refused, sizes and times have limits, and broken requests get a 4xx."""

import asyncio
import importlib.util
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.serving.service import upstream
from mtrouter_rl.serving.service.run import build
from tests.cases.served import TASK, chat, remote_pool, rows, said_step, served

KEY, TOKEN = "sk-planted-0123456789", "token-planted-0123456789"
MINE = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def keyed(address_of_endpoints, double, request_of, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    monkeypatch.setenv("CLIENT_TOKEN", TOKEN)
    settings = {name: {"key_variable": "UPSTREAM_KEY"} for name in ("small", "big")}
    pool = remote_pool(address_of_endpoints, **settings)
    return lambda **more: request_of(pool=pool, token_variables=("CLIENT_TOKEN",), **more)


def echoes(model, body):
    return {"role": "assistant", "content": f"your key is {KEY}"}


def fails(model, body):
    return (400, {}, json.dumps({"error": {"message": f"bad key {KEY}", "code": KEY}}).encode())


def redirects(model, body):
    return (307, {"location": f"http://127.0.0.1:9/{KEY}"}, f"see {KEY}".encode())


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("answer", [echoes, fails, redirects])
def test_no_key_is_told_written_counted_or_logged(keyed, double, tmp_path, caplog, answer, is_stream):
    caplog.set_level(logging.DEBUG)
    double.answer = answer
    with served(keyed()) as (address, running):
        got = chat(address, [TASK], headers=MINE, stream=is_stream)
        refused = chat(address, [TASK], headers={"authorization": f"Bearer {TOKEN}x"})
        metrics = running.service.metrics.text().decode()
    assert double.calls[0][2]["authorization"] == f"Bearer {KEY}"
    assert got.status_code == {"echoes": 200, "fails": 400, "redirects": 502}[answer.__name__]
    written = b"".join(path.read_bytes() for path in tmp_path.glob("served.sqlite*"))
    shown = got.text + str(got.headers) + refused.text + metrics + caplog.text
    for secret in (KEY, TOKEN):
        assert secret not in shown
        assert secret.encode() not in written
    assert len(rows(tmp_path)) == 1


def test_a_key_in_pieces_of_a_stream_is_not_put_together(keyed, double, tmp_path):
    """A stream is passed on as it comes, so what an endpoint tells in pieces cannot be taken out; but it is not stored."""
    double.answer = lambda model, body: {"role": "assistant", "content": f"{KEY[:9]} {KEY[9:]}"}
    with served(keyed()) as (address, _):
        chat(address, [TASK], headers=MINE, stream=True)
    assert KEY not in rows(tmp_path)[0]["answer"]


@pytest.mark.parametrize("variable", ["UPSTREAM_KEY", "CLIENT_TOKEN"])
def test_a_key_with_a_carriage_return_is_refused_and_not_told(keyed, monkeypatch, variable):
    secret = {"UPSTREAM_KEY": KEY, "CLIENT_TOKEN": TOKEN}[variable]
    monkeypatch.setenv(variable, f"{secret}\r")
    with pytest.raises(InvalidConfigError, match="line break") as caught:
        build(keyed())
    assert secret not in str(caught.value)


def test_redirects_are_not_followed(request_of, double, tmp_path):
    asked = []

    def redirects_here(model, body):
        asked.append(model)
        return (302, {"location": f"/{model}/v1/chat/completions"}, b"") if len(asked) == 1 else said_step(model, body)

    double.answer = redirects_here
    with served(request_of()) as (address, _):
        answer = chat(address, [TASK])
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_redirect")
    assert len(asked) == 1
    assert rows(tmp_path)[0]["state"] == "failed"


def test_a_reply_that_is_too_long_is_no_answer(request_of, double, tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "MAX_REPLY_BYTES", 1000)
    double.answer = lambda model, body: {"role": "assistant", "content": "x " * 2000}
    with served(request_of()) as (address, _):
        whole = chat(address, [TASK])
        streamed = chat(address, [TASK | {"content": "Other."}], stream=True)
    assert (whole.status_code, whole.json()["error"]["code"]) == (502, "upstream_unusable")
    assert "is longer than 1000 bytes" in streamed.text
    assert [row["state"] for row in rows(tmp_path)] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"\xff", b"[" * 9000]
)
def test_a_reply_that_is_none(request_of, double, tmp_path, raw):
    double.answer = lambda model, body: (200, {"content-type": "application/json"}, raw)
    with served(request_of()) as (address, _):
        answer = chat(address, [TASK])
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unusable")
    assert rows(tmp_path)[0]["state"] == "unknown"


def test_a_model_that_takes_too_long(address_of_endpoints, request_of, double, tmp_path):
    async def slowly(model, body):
        await asyncio.sleep(0.6)
        return said_step(model, body)

    double.answer = slowly
    with served(request_of(pool=remote_pool(address_of_endpoints, try_s=0.1))) as (address, _):
        answer = chat(address, [TASK])
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    row = rows(tmp_path)[0]
    assert row["state"] == "unknown"
    assert rows(tmp_path, "served_sessions")[0]["spent_usd"] == row["held_usd"]


def test_an_endpoint_that_is_not_there_is_not_billed(request_of, tmp_path):
    with served(request_of(pool=remote_pool("http://127.0.0.1:9"))) as (address, _):
        answer = chat(address, [TASK])
    assert answer.status_code == 502
    assert rows(tmp_path)[0]["state"] == "failed"
    assert rows(tmp_path, "served_sessions")[0]["spent_usd"] == 0


def test_bodies_have_a_limit_in_size_and_time(request_of):
    request = request_of(max_body_bytes=500, read_within_s=0.1)
    with served(request) as (address, _):
        assert chat(address, [TASK | {"content": "x" * 600}]).status_code == 413
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            assert b" 408 " in slow.recv(100)
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_an_address_beyond_this_machine_without_a_token_is_warned_of(request_of, caplog):
    running = build(replace(request_of(), host="0.0.0.0"))
    running.service.desk.close()
    running.service.desk.box.close()
    assert "everybody who reaches it may spend" in caplog.text


def test_broken_requests_get_a_4xx_and_nothing_else(request_of, double, tmp_path):
    place = Path(__file__).parents[3] / "scripts" / "attack" / "service_fuzz.py"
    spec = importlib.util.spec_from_file_location("service_fuzz", place)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    with served(request_of(max_body_bytes=65_536)) as (address, _):
        found, wrong = asyncio.run(fuzz.attack(int(address.rpartition(":")[2]), 150, seed=1))
        assert httpx.get(f"{address}/readyz").status_code == 200
    assert wrong == []
    assert sum(found["requests"].values()) == 150
    assert rows(tmp_path) == []
    assert double.calls == []


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_of_another_model_is_none(request_of, double, tmp_path, monkeypatch, is_stream):
    """Some servers answer with whatever model they have loaded."""
    answer_under(monkeypatch, double, "llama")
    with served(request_of("single:small")) as (address, _):
        answer = chat(address, [TASK], stream=is_stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unusable")
    assert "came from 'llama', another model" in answer.json()["error"]["message"]
    row = rows(tmp_path)[0]
    (lost,) = json.loads(row["tries"])
    assert row["state"] == ("unknown" if is_stream else "failed")
    assert is_stream or lost["cost_usd"] == pytest.approx(120e-6)


def answer_under(monkeypatch, double, name):
    """Have the endpoints answer under another name than that which was asked for."""
    real = json.loads

    def loads(text, **more):
        value = real(text, **more)
        if isinstance(value, dict) and "messages" in value and value.get("model") == "small":
            value["model"] = name
        return value

    monkeypatch.setattr("tests.cases.served.json.loads", loads)
