"""An agent behind the service: what it is answered, what is sent on, what is written."""

import json

import pytest

from tests.cases.served import TASK, chat, remote_pool, rows, served


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


def test_an_answer_without_usage_counts_as_its_most(request_of, double, tmp_path):
    double.usage = None
    with served(request_of("single:small")) as (address, _):
        answer = chat(address, [TASK])
    (row,) = rows(tmp_path)
    assert answer.status_code == 200
    assert (row["state"], row["usage"], row["cost_usd"]) == ("done", None, None)
    assert rows(tmp_path, "served_sessions")[0]["spent_usd"] == row["held_usd"]


def test_usage_that_the_card_lets_estimate(request_of, double, tmp_path, address_of_endpoints):
    double.usage = None
    pool = remote_pool(address_of_endpoints, small={"usage_estimate": "token_counter"})
    with served(request_of("single:small", pool=pool)) as (address, _):
        chat(address, [TASK])
    (row,) = rows(tmp_path)
    said = "small: step 1"
    assert json.loads(row["usage"]) == {
        "prompt_tokens": len(TASK["content"]) + 4,
        "completion_tokens": len(said) + 4,
        "is_estimate": True,
    }
    assert row["cost_usd"] == pytest.approx((17 + 2 * 17) / 1e6)


def test_the_settings_of_a_variant_go_before_those_of_the_client(request_of, double, address_of_endpoints):
    pool = remote_pool(
        address_of_endpoints,
        small={
            "model": "vendor/small",
            "reasoning_effort": "low",
            "temperature": 0.5,
            "limit_field": "max_completion_tokens",
        },
    )
    with served(request_of("single:small", pool=pool)) as (address, _):
        answer = chat(address, [TASK], temperature=1.0, max_tokens=7, top_p=0.9)
    sent = double.calls[0][1]
    assert sent["model"] == "vendor/small"
    assert answer.json()["model"] == "small"
    assert (sent["reasoning_effort"], sent["temperature"], sent["top_p"]) == ("low", 0.5, 0.9)
    assert sent["max_completion_tokens"] == 7
    assert "max_tokens" not in sent
