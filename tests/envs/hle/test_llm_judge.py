"""The judging model is a small server on this machine that answers as it is told."""

import http.server
import json
import socket
import threading
import time

import pytest

from mtrouter_rl.envs.hle.llm_judge import EndpointJudgeCard, LlmJudge
from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.errors import InvalidConfigError, SimulatorError

QUESTION = Question(id="q", text="What is 6 times 7?", answer="42", answer_type="exactMatch", category="Math")


def chat(content, **usage):
    return 200, {"choices": [{"message": {"content": content}}], "usage": usage}


RIGHT = chat("Both are 42.\ncorrect: yes", prompt_tokens=100, completion_tokens=10)
WRONG = chat("They differ.\n**Correct: no**", prompt_tokens=100, completion_tokens=10)


@pytest.fixture
def server():
    """Answers with `script` in turn, its last entry again and again; keeps what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
            status, reply = self.server.script[min(len(self.server.asked), len(self.server.script)) - 1]
            if status == "hang":
                time.sleep(reply)
                status, reply = RIGHT
            text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.script = [], [RIGHT]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def judge_at(server, **changes):
    settings = {
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "model": "judge",
        "input_usd": 1.0,
        "output_usd": 10.0,
        "timeout_s": 5.0,
        "retries": 2,
        "backoff_s": 0.0,
    }
    return LlmJudge(EndpointJudgeCard(**(settings | changes)))


def test_right(server):
    judge = judge_at(server)
    verdict = judge.judge(QUESTION, "forty-two")
    assert verdict.is_right
    assert verdict.method == "llm"
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body["model"] == "judge"
    assert all(text in body["messages"][0]["content"] for text in (QUESTION.text, "42", "forty-two"))


def test_wrong(server):
    server.script = [WRONG]
    assert not judge_at(server).judge(QUESTION, "41").is_right


def test_its_cost_is_booked_apart(server):
    server.script = [chat("no verdict", prompt_tokens=50, completion_tokens=5), RIGHT]
    judge = judge_at(server)
    verdict = judge.judge(QUESTION, "42")
    assert dict(verdict.hidden) == {
        "judge_model": "judge",
        "judge_calls": 2,
        "judge_prompt_tokens": 150,
        "judge_output_tokens": 15,
        "judge_cost_usd": pytest.approx(0.0003),
    }
    judge.judge(QUESTION, "42")
    assert judge.cost_usd == pytest.approx(0.0003 + 0.0002)
    assert judge.n_calls == 3


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    judge_at(server, api_key_env="JUDGE_KEY").judge(QUESTION, "42")
    assert server.asked[0][1]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(InvalidConfigError, match="api_key_env names JUDGE_KEY, which is not set"):
        judge_at(server, api_key_env="JUDGE_KEY")


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {"error": "overloaded"}),
        (429, {"error": "slow down"}),
        (200, b"<html>"),
        (200, b"[]"),
        (200, {"choices": []}),
        (200, {"choices": [{"message": None}]}),
        chat("I think so."),
        chat("correct: yes\ncorrect: no"),
        chat("correct: maybe"),
        chat(None),
        ("hang", 0.4),
    ],
    ids=str,
)
def test_trouble_is_tried_again_and_then_fails_the_episode(server, trouble):
    limits = {"timeout_s": 0.1} if trouble[0] == "hang" else {}
    server.script = [trouble, RIGHT]
    assert judge_at(server, **limits).judge(QUESTION, "42").is_right
    server.asked.clear()
    server.script = [trouble]
    with pytest.raises(SimulatorError, match=r"judge judge at http.* gave no verdict in 3 call\(s\): "):
        judge_at(server, **limits).judge(QUESTION, "42")
    assert len(server.asked) == 3


def test_a_refused_call_is_not_tried_again(server):
    server.script = [(401, {"error": "no key"})]
    with pytest.raises(SimulatorError, match=r"refused the call: HTTP 401 .*check base_url, model and key"):
        judge_at(server).judge(QUESTION, "42")
    assert len(server.asked) == 1


def test_an_endpoint_that_is_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    card = EndpointJudgeCard(
        base_url=f"http://127.0.0.1:{port}", model="judge", input_usd=0, output_usd=0, retries=1, backoff_s=0
    )
    with pytest.raises(SimulatorError, match=r"gave no verdict in 2 call\(s\): ConnectionRefusedError: .*refused"):
        LlmJudge(card).judge(QUESTION, "42")


def test_pauses_grow(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = [(500, {}), (500, {}), RIGHT]
    judge_at(server, backoff_s=0.5).judge(QUESTION, "42")
    assert pauses == [0.5, 1.0]
