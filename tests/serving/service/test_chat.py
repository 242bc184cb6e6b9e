"""An agent behind the service: what it is answered, what is sent on, what is written."""

import json

import pytest

from tests.cases.served import TASK, chat, rows, served


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
