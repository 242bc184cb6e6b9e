"""Endpoints of OpenAI's chat completions as the models of a pool, against a server of this process."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mtrouter_rl.cards import load_env_card, load_pool_card
from mtrouter_rl.envs.factory import EnvConfig, build_env, resolve_env
from mtrouter_rl.errors import BackendError, CardError, InvalidConfigError
from mtrouter_rl.pools.openai_compatible import OpenAICompatibleBackend, RemotePool, make_backend
from mtrouter_rl.records import EpisodeSpec, Message, TokenUsage

USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
ASKED = [Message(role="user", content="What is 2 + 2?")]


def completion(text, usage=USAGE):
    return {"choices": [{"message": {"role": "assistant", "content": text}}], **({"usage": usage} if usage else {})}


@contextmanager
def server(replies):
    """Serves (status, body) one after another, the last one for ever; gives the address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, reply = replies[min(len(asked), len(replies)) - 1]
            data = json.dumps(reply(body) if callable(reply) else reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/v1", asked
    finally:
        httpd.shutdown()
        httpd.server_close()


def backend(url, **changes):
    waits = []
    settings = RemotePool.model_validate(
        {"models": {name: {"base_url": url, **changes} for name in ("weak", "strong")}, "deadline_s": 30}
    )
    return OpenAICompatibleBackend(load_pool_card("local-llm"), settings, sleep=waits.append), waits


def reply(one):
    return one.reply("weak", ASKED, turn=0, max_output_tokens=16)


def test_a_call_and_its_tokens(monkeypatch):
    monkeypatch.setenv("SUMS_KEY", "sk-planted")
    with server([(200, completion(" 4\n"))]) as (url, asked):
        one, _ = backend(url, model="tiny", key_variable="SUMS_KEY", temperature=0.0)
        found = reply(one)
    assert (found.text, found.served_model) == ("4", "weak")
    assert found.usage == TokenUsage(n_fresh=15, n_cached=5, n_output=3)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 16}
    assert asked == [("/v1/chat/completions", "Bearer sk-planted", body | {"temperature": 0.0})]


def test_what_passes_is_tried_again_and_what_does_not_is_told():
    with server([(429, {}), (500, {}), (200, completion("4"))]) as (url, asked):
        one, waits = backend(url)
        assert reply(one).text == "4"
        assert len(asked) == 3
        assert 0.25 <= waits[0] <= 0.75 <= 0.5 + waits[1] <= 2.0
    with server([(401, {})]) as (url, asked):
        with pytest.raises(BackendError, match=r"model 'weak', turn 0: HTTP 401 .*\(1 tries\)"):
            reply(backend(url)[0])
        assert len(asked) == 1


def test_a_deadline_ends_the_tries():
    with server([(503, {})]) as (url, asked):
        settings = RemotePool.model_validate({"models": {"weak": {"base_url": url}}, "deadline_s": 0.01})
        one = OpenAICompatibleBackend(load_pool_card("local-llm"), settings, sleep=lambda _: None)
        with pytest.raises(BackendError, match="HTTP 503"):
            reply(one)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (completion("4", usage=None), "has no usage, so nobody can say what it cost"),
        (completion("4", usage={"prompt_tokens": -1, "completion_tokens": 1}), "usage cannot be read"),
        ({"choices": []}, "has no choices.0.message.content"),
        ([], "is no JSON object"),
    ],
)
def test_a_reply_that_cannot_be_booked_is_an_error(answer, message):
    with server([(200, answer)]) as (url, _), pytest.raises(BackendError, match=message):
        reply(backend(url)[0])


def test_broken_settings(monkeypatch):
    card = load_pool_card("local-llm")
    env = load_env_card("sums")
    lacking = card.backend.model_copy(update={"settings": {"models": {"weak": {"base_url": "http://127.0.0.1:1/v1"}}}})
    with pytest.raises(CardError, match="no entry for strong"):
        make_backend(card.model_copy(update={"backend": lacking}), env)
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(InvalidConfigError, match=r"key_variable names NO_SUCH_KEY, which is not set"):
        backend("http://127.0.0.1:1/v1", key_variable="NO_SUCH_KEY")


def test_the_small_world_is_played_over_the_protocol_and_every_token_is_booked():
    def solve(body):
        question = body["messages"][-1]["content"].rpartition("What is ")[2].rstrip("?")
        first, second = map(int, question.split(" + "))
        is_hard = first >= 1000
        return completion("I cannot." if is_hard and body["model"] == "weak" else f"```\n{first + second}\n```")

    config = resolve_env("sums")
    with server([(200, solve)]) as (url, asked):
        models = {name: {"base_url": url} for name in config.pool.model_names}
        settings = config.pool.backend.model_copy(update={"settings": {"models": models}})
        pool = config.pool.model_copy(update={"backend": settings})
        env = build_env(EnvConfig(card=config.card, pool=pool, limits=config.limits, reward=config.reward))
        scores = {}
        for action, name in enumerate(pool.model_names):
            _, info = env.reset(options={"spec": EpisodeSpec(task="mixed", variation=0, seed=0, split="train")})
            is_over, total = False, 0.0
            while not is_over:
                _, _, terminated, truncated, info = env.step(action)
                total += info["utility_gain"]
                is_over = terminated or truncated
            scores[name] = total
        env.close()
    assert scores["strong"] == pytest.approx(1.0)
    assert scores["weak"] == pytest.approx(2 / 3)
    assert len(asked) == 3 + 8
