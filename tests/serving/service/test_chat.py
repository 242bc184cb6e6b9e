"""An agent behind the service: what it is answered, what is sent on, what is written."""

import json
import sqlite3

import httpx
import pytest

from mtrouter_rl.serving.service.policy import PolicySettings
from mtrouter_rl.serving.service.run import ServeRequest
from mtrouter_rl.serving.service.settings import ServiceSettings
from tests.cases.served import served

TASK = {"role": "user", "content": "Find the key."}


@pytest.fixture
def request_of(pool, tmp_path):
    def made(router="random", *, policy=None, **settings):
        given = {name: settings.pop(name) for name in ("explore", "seed", "only_decides") if name in settings}
        return ServeRequest(
            router=router,
            pool=pool,
            store=str(tmp_path / "served.sqlite"),
            settings=ServiceSettings(max_turns=30, policy=policy or PolicySettings(), **settings),
            watches=False,
            **{"seed": 1} | given,
        )

    return made


def rows(tmp_path, what="served_decisions"):
    with sqlite3.connect(tmp_path / "served.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {what} ORDER BY rowid")]


def chat(address, messages, *, headers=None, **more):
    body = {"model": "router", "messages": messages, **more}
    return httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers or {}, timeout=20)


def test_a_conversation_is_one_session(request_of, double, tmp_path):
    with served(request_of()) as (address, _):
        messages = [TASK]
        for turn in range(5):
            answer = chat(address, messages)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-mtrouter-turn"] == str(turn)
            assert answer.json()["model"] == answer.headers["x-mtrouter-model"]
            assert float(answer.headers["x-mtrouter-propensity"]) == 0.5
            messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": f"You see {turn}."}]
    written = rows(tmp_path)
    assert [row["turn"] for row in written] == [0, 1, 2, 3, 4]
    assert len({row["session_id"] for row in written}) == 1
    assert {row["state"] for row in written} == {"done"}
    assert [row["model"] for row in written] == [model for model, _, _ in double.calls]
    assert json.loads(written[2]["observation"]) == "You see 1."
    session = rows(tmp_path, "served_sessions")[0]
    assert session["spent_usd"] == pytest.approx(sum(row["cost_usd"] for row in written))
    assert session["held_usd"] == 0
