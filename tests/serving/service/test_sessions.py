"""Sessions and keys, budgets, requests that are sent twice, and what happens while a session is busy."""

import asyncio
import contextlib
import json
import sqlite3
import threading

import httpx
import pytest

from mtrouter_rl.serving.service.database import BusyError
from tests.cases.served import TASK, chat, post, rows, said_step, served

MINE, YOURS = {"authorization": "Bearer mine"}, {"authorization": "Bearer yours"}


def grown(messages, answer, text="on"):
    return [*messages, answer.json()["choices"][0]["message"], {"role": "user", "content": text}]


def test_two_conversations_that_begin_alike_are_two_sessions(request_of, tmp_path):
    with served(request_of()) as (address, _):
        one, two = chat(address, [TASK]), chat(address, [TASK])
        assert one.headers["x-mtrouter-session"] != two.headers["x-mtrouter-session"]


def test_another_key_neither_reads_nor_continues_a_session(request_of, tmp_path):
    with served(request_of()) as (address, _):
        first = chat(address, [TASK], headers=MINE | {"x-mtrouter-session": "s"})
        theirs = chat(address, grown([TASK], first), headers=YOURS)
        named = chat(address, [TASK], headers=YOURS | {"x-mtrouter-session": "s"})
        mine = chat(address, grown([TASK], first), headers=MINE)
        told = post(f"{address}/feedback", {"session": "s", "score": 1.0}, headers={"authorization": "Bearer x"})
        by_id = post(f"{address}/feedback", {"session": rows(tmp_path)[0]["session_id"], "score": 1.0}, headers=YOURS)
        outcome = post(f"{address}/outcome", {"decision_id": rows(tmp_path)[0]["id"], "error": "x"}, headers=YOURS)
    assert theirs.headers["x-mtrouter-turn"] == "0"
    assert named.headers["x-mtrouter-turn"] == "0"
    assert (mine.headers["x-mtrouter-turn"], mine.headers["x-mtrouter-session"]) == ("1", "s")
    assert (told.status_code, by_id.status_code, outcome.status_code) == (404, 404, 404)
    assert len(rows(tmp_path, "served_sessions")) == 3
    assert "mine" not in json.dumps([dict(row) for row in rows(tmp_path, "served_sessions")], default=str)


def test_tokens(request_of, double, monkeypatch):
    monkeypatch.setenv("TOKEN_A", "aaa")
    monkeypatch.setenv("TOKEN_B", "bbb")
    with served(request_of(token_variables=("TOKEN_A", "TOKEN_B"))) as (address, _):
        statuses = [
            chat(address, [TASK], headers=headers).status_code
            for headers in (
                {},
                {"authorization": "Bearer ccc"},
                {"authorization": "aaa"},
                {"authorization": "Bearer bbb"},
            )
        ]
        models = httpx.get(f"{address}/v1/models").status_code
        health = [httpx.get(f"{address}{path}").status_code for path in ("/healthz", "/readyz", "/metrics")]
    assert statuses == [401, 401, 401, 200]
    assert models == 401
    assert health == [200, 200, 200]
    assert len(double.calls) == 1


def test_a_session_budget_holds_at_its_worst_case(request_of, double, tmp_path):
    with served(request_of("single:big", session_budget_usd=0.02)) as (address, _):
        messages, n_done = [TASK], 0
        while (answer := chat(address, messages, headers={"x-mtrouter-session": "s"})).status_code == 200:
            messages = grown(messages, answer)
            n_done += 1
            assert n_done < 100
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_exhausted")
    (session,) = rows(tmp_path, "served_sessions")
    assert 0 < session["spent_usd"] <= 0.02
    assert len(double.calls) == n_done == len(rows(tmp_path))
    first = rows(tmp_path)[0]
    assert first["held_usd"] == pytest.approx((len(TASK["content"]) + 4) * 5e-6 + 1001 * 10e-6)


def test_a_key_budget_is_that_of_all_its_sessions(request_of, double, tmp_path):
    with served(request_of("single:big", key_budget_usd=0.0205)) as (address, _):
        asked = [[TASK | {"content": f"Find {n}."}] for n in range(20)]
        answers = [chat(address, messages, headers=MINE, model="big") for messages in asked]
        other = chat(address, [TASK], headers=YOURS, model="big")
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {402}
    assert other.status_code == 200
    accounts = {row["key_id"]: row for row in rows(tmp_path, "served_accounts")}
    assert max(row["spent_usd"] for row in accounts.values()) <= 0.0205
    assert {row["held_usd"] for row in accounts.values()} == {0.0}


def test_a_request_that_is_sent_twice_is_answered_alike_and_called_once(request_of, double, tmp_path):
    named = {"x-mtrouter-request": "r1"}
    with served(request_of()) as (address, _):
        first, second = (chat(address, [TASK], headers=named) for _ in range(2))
        streamed = chat(address, [TASK], headers=named, stream=True)
        other = chat(address, [TASK | {"content": "Else."}], headers=named)
    assert first.json()["choices"][0]["message"] == second.json()["choices"][0]["message"]
    assert second.headers["x-mtrouter-replay"] == "true"
    assert second.headers["x-mtrouter-decision"] == first.headers["x-mtrouter-decision"]
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_taken")
    assert len(double.calls) == len(rows(tmp_path)) == 1


def test_a_session_that_waits_for_an_answer_is_busy(request_of, double, tmp_path):
    released = threading.Event()

    async def slowly(model, body):
        while not released.is_set():
            await asyncio.sleep(0.005)
        return said_step(model, body)

    double.answer = slowly
    with served(request_of()) as (address, _):
        answers = []
        named = {"x-mtrouter-session": "s"}
        thread = threading.Thread(target=lambda: answers.append(chat(address, [TASK], headers=named)))
        thread.start()
        while not double.calls:
            pass
        busy = chat(address, [TASK], headers=named)
        released.set()
        thread.join(20)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
    assert answers[0].status_code == 200
    assert len(rows(tmp_path)) == len(double.calls) == 1


def test_a_client_that_goes_away_is_billed_and_its_answer_is_kept(request_of, double, tmp_path):
    double.pause_s = 0.02
    with (
        served(request_of()) as (address, _),
        httpx.stream(
            "POST",
            f"{address}/v1/chat/completions",
            json={"model": "router", "messages": [TASK], "stream": True},
            headers={"x-mtrouter-session": "s"},
        ) as response,
    ):
        next(response.iter_raw())
    (row,) = rows(tmp_path)
    assert row["state"] == "done"
    assert row["cost_usd"] > 0


def test_sessions_go_on_after_a_restart(request_of, tmp_path):
    with served(request_of()) as (address, _):
        first = chat(address, [TASK])
    with served(request_of()) as (address, _):
        second = chat(address, grown([TASK], first))
    assert second.headers["x-mtrouter-turn"] == "1"
    assert second.headers["x-mtrouter-session"] == first.headers["x-mtrouter-session"]
    assert json.loads(rows(tmp_path)[1]["observation"]) == "on"


def test_a_history_that_was_rewritten_stays_in_its_session_by_name(request_of, tmp_path):
    named = {"x-mtrouter-session": "s"}
    with served(request_of()) as (address, _):
        first = chat(address, [TASK], headers=named)
        chat(address, grown([TASK], first, "one"), headers=named)
        chat(address, [TASK, {"role": "user", "content": "In short: nothing yet."}], headers=named)
    assert [row["turn"] for row in rows(tmp_path)] == [0, 1, 2]
    assert json.loads(rows(tmp_path)[2]["observation"]) == "In short: nothing yet."


def test_histories_are_handed_over_without_what_is_anothers(request_of, double):
    thinking = {
        "role": "assistant",
        "content": "Hm.",
        "reasoning_content": "secret",
        "thinking_blocks": [{"signature": "x"}],
    }
    double.answer = lambda model, body: dict(thinking)
    with served(request_of()) as (address, _):
        first = chat(address, [TASK], model="small")
        chat(address, grown([TASK], first), model="small")
        chat(
            address,
            grown([TASK], first),
            model="big",
            headers={"x-mtrouter-session": first.headers["x-mtrouter-session"]},
        )
    _, same, other = [body["messages"][1:] for _, body, _ in double.calls]
    assert same[0]["reasoning_content"] == "secret"
    assert "reasoning_content" not in other[0]
    assert "thinking_blocks" not in other[0]


def test_a_call_that_is_made_again_keeps_to_the_budget(request_of, double, tmp_path):
    """A call that broke off counts as its most, so that another one of the same model may not fit."""
    double.answer = lambda model, body: (200, {"content-type": "application/json"}, b"{")
    with served(request_of("single:small", session_budget_usd=0.0025)) as (address, _):
        named = {"x-mtrouter-session": "s"}
        statuses = [chat(address, [TASK], headers=named, model="small").status_code for _ in range(3)]
    assert statuses == [502, 402, 402]
    assert len(double.calls) == 1
    assert rows(tmp_path, "served_sessions")[0]["spent_usd"] <= 0.0025


def test_a_model_that_the_client_asks_for_is_never_replaced(request_of, double):
    double.answer = lambda model, body: (500, {}, b"no")
    with served(request_of()) as (address, _):
        named = {"x-mtrouter-session": "s"}
        assert [chat(address, [TASK], headers=named, model="big").status_code for _ in range(5)] == [502] * 5
    assert {model for model, _, _ in double.calls} == {"big"}


def test_a_write_that_would_have_to_wait_waits_beside_the_loop(request_of, tmp_path):
    """While somebody else writes, decisions wait, and the service answers what needs no writing."""
    with served(request_of()) as (address, running):
        chat(address, [TASK])
        with contextlib.closing(sqlite3.connect(tmp_path / "served.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with running.service.desk.store.no_wait(), pytest.raises(BusyError):
                running.service.desk.store.beat()
            answers = []
            waiting = threading.Thread(target=lambda: answers.append(chat(address, [TASK])))
            waiting.start()
            for _ in range(5):
                assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
            assert not answers
            other.execute("ROLLBACK")
        waiting.join(20)
        assert [one.status_code for one in answers] == [200]
    assert [row["state"] for row in rows(tmp_path)] == ["done", "done"]


def test_what_was_written_is_moved_to_the_file_by_the_beat(request_of, tmp_path):
    file, copy = tmp_path / "served.sqlite", tmp_path / "copy.sqlite"
    with served(request_of()) as (address, running):
        chat(address, [TASK])
        running.service.desk.store.beat()
        copy.write_bytes(file.read_bytes())  # without the log beside it
    with contextlib.closing(sqlite3.connect(copy)) as found:
        assert found.execute("SELECT count(*) FROM served_decisions WHERE state = 'done'").fetchone() == (1,)
