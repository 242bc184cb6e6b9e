"""The study's parts without the real model: cards, ports, programs that serve, the agent, and who really answered."""

import dataclasses
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mtrouter_rl.cards import load_env_card, load_pool_card
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import BackendError, InvalidConfigError
from mtrouter_rl.pools.remote.settings import read_settings
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.local.agent import Agent
from mtrouter_rl.studies.local.cards import REAL, env_card, pool_card, write_card
from mtrouter_rl.studies.local.run import LocalRequest, LocalResult, ModelRow, _really_answered, format_local
from mtrouter_rl.studies.local.servers import command, free_ports, served
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings
from mtrouter_rl.workflows import CollectRequest, collect_dataset, load_agent

WAYS = {"goes on": "walk north", "door": "open door", "key": "take key", "riddle": "solve riddle"}


@pytest.fixture
def config(tmp_path):
    """The study's environment, with both kinds of model behind the addresses that are given."""

    def make(real_url="http://127.0.0.1:1/v1", doubles_url="http://127.0.0.1:2/v1"):
        write_card(tmp_path / "env.yaml", env_card())
        write_card(tmp_path / "pool.yaml", pool_card(real_url=real_url, doubles_url=doubles_url))
        return resolve_env(tmp_path / "env.yaml", tmp_path / "pool.yaml")

    return make


@contextmanager
def service():
    """Answers with the action that fits, and keeps what it is told."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((self.path, self.headers.get("x-mtrouter-session"), body))
            answer = {"ok": True}
            if self.path == "/v1/chat/completions":
                seen = body["messages"][-1]["content"]
                action = next(action for word, action in WAYS.items() if word in seen.splitlines()[-1])
                answer = {"choices": [{"message": {"role": "assistant", "content": action}}], "usage": {}}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        server.server_close()


def test_the_cards_are_valid_and_say_what_is_real(config, tmp_path):
    found = config()
    assert load_env_card(tmp_path / "env.yaml") == env_card()
    pool = load_pool_card(tmp_path / "pool.yaml")
    assert pool.model_names == (REAL, "middle", "large")
    assert "REAL" in pool.description
    assert "SIMULATED" in pool.description
    settings = read_settings(pool)
    assert "walk north" in str(settings.models[REAL].extra_body["grammar"])
    assert settings.session_header == "x-mtrouter-session"
    assert found.card.harness is not None
    assert load_agent(str(write_agent(tmp_path))).parameters["n_iterations"] == 10


def write_agent(folder):
    from mtrouter_rl.studies.local.cards import AGENT

    (folder / "agent.yaml").write_text(AGENT)
    return folder / "agent.yaml"


def test_the_agent_plays_by_base_url_and_tells_what_it_was_worth(config):
    with service() as (address, told):
        agent = Agent(config(), address)
        one = agent.play(EpisodeSpec(task="middle", variation=3, seed=9, split="test"), run="r1")
    assert (one.utility, one.n_turns, one.session) == (1.0, 5, "middle|3|9|r1")
    *chats, feedback = told
    assert len(chats) == 5
    assert {(path, header, body["user"]) for path, header, body in chats} == {
        ("/v1/chat/completions", "middle|3|9|r1", "middle|3|9|r1")
    }
    assert [len(body["messages"]) for _, _, body in chats] == [2, 4, 6, 8, 10]
    assert feedback[0] == "/feedback"
    assert feedback[2] == {"session": "middle|3|9|r1", "score": 1.0, "status": "completed"}


def test_who_really_answered_is_read_from_the_replies(config, tmp_path):
    base = config()
    doubles = dataclasses.replace(base, pool=load_pool_card("corridor-three"))
    with FakeLLM(FakeSettings(env=doubles)) as fake, FakeLLM(FakeSettings(script=("walk north",))) as other:
        playing = config(real_url=other.base_url, doubles_url=fake.base_url)
        request = CollectRequest(policy="uniform", n_episodes=6, seed=0, out=tmp_path / "log")
        with RolloutPool(playing, n_workers=1) as pool:
            dataset = collect_dataset(pool, request, show_progress=False)
    assert _really_answered(tmp_path / "log", dataset) == set(), "all of them bear the double's fingerprint"
    assert {turn.served_model for one in dataset.episodes for turn in one.turns} == {REAL, "middle", "large"}


def test_ports_are_the_same_when_it_is_run_again(tmp_path):
    ports = free_ports(tmp_path, ("real", "doubles"))
    assert free_ports(tmp_path, ("real", "doubles")) == ports
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["real"]))
        taken.listen()
        with pytest.raises(InvalidConfigError, match=f"port {ports['real']} of 'real'.*is in use"):
            free_ports(tmp_path, ("real", "doubles"))


def test_a_program_that_serves_is_waited_for_and_ended(tmp_path):
    (port,) = free_ports(tmp_path, ("doubles",)).values()
    with served(["fake-llm", "--env", "corridor"], port=port, health="health", log=tmp_path / "log.txt") as address:
        assert address == f"http://127.0.0.1:{port}"
    assert "0 requests" in (tmp_path / "log.txt").read_text()
    broken = served(["fake-llm", "--env", "nowhere"], port=port, health="health", log=tmp_path / "log.txt")
    with pytest.raises(BackendError, match=r"fake-llm \(see .*log\.txt\) ended with 1 before it answered"), broken:
        pass
    with pytest.raises(BackendError, match=r"mtrouter-rl show ended with 1; its last lines:\n.*nothing-here"):
        command(["show", "nothing-here"], log=tmp_path / "log.txt")


def test_the_table_says_who_is_real(tmp_path):
    rows = (
        ModelRow(model="a", is_real=True, n_collected=3, n_served=1, cost_usd=0.1),
        ModelRow(model="b", is_real=False, n_collected=2, n_served=0, cost_usd=0.2),
    )
    means = {"n_collected": 4, "utility_collected": 0.5, "n_served": 1, "utility_served": -1.0}
    money = {"billed_by_double_usd": 0.2, "booked_for_double_usd": 0.2}
    text = format_local(
        LocalResult(rows=rows, first=tmp_path, second=tmp_path, seconds={"one": 1.0, "two": 2.0}, **means, **money)
    )
    first, second = text.splitlines()[1:3]
    assert "REAL" in first
    assert "SIMULATED" in second
    assert "4 episodes, mean score 50.0" in text
    assert "3 s: 1, 2" in text
    with pytest.raises(InvalidConfigError, match="--served is 0"):
        LocalRequest(out=tmp_path, n_served=0)
