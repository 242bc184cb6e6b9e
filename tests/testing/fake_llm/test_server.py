"""What the double says over the wire, and every fault that it can have."""

import dataclasses
import http.client
import json
import threading
import urllib.error
import urllib.request

import pytest

from mtrouter_rl.cards import HarnessCard
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from mtrouter_rl.pools.openai_compatible import action_of
from mtrouter_rl.testing.fake_llm import FAULT_KINDS, FakeLLM, FakeSettings, FaultPlan
from mtrouter_rl.testing.fake_llm.ledger import read_ledger

HELLO = [{"role": "user", "content": "hello"}]


def post(fake, body, **headers):
    """(status, headers, text) of a call."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{fake.base_url}/chat/completions", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def asked(model="m", **more):
    return {"model": model, "messages": HELLO, **more}


def events(text):
    return [line[6:] for line in text.split("\n\n") if line]


def test_an_echo_with_usage():
    with FakeLLM(FakeSettings()) as fake:
        status, _, text = post(fake, asked())
        said = json.loads(text)
    assert status == 200
    assert said["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert said["model"] == "m"
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"] > 0
    assert said["system_fingerprint"] == "fake-llm"


def test_a_script_goes_on_by_turn_and_an_answer_has_its_length():
    with FakeLLM(FakeSettings(script=("one", "two"))) as fake:
        later = [*HELLO, {"role": "assistant", "content": "one"}, *HELLO]
        texts = [json.loads(post(fake, {"model": "m", "messages": some})[2]) for some in (HELLO, later)]
    assert [one["choices"][0]["message"]["content"] for one in texts] == ["one", "two"]
    with FakeLLM(FakeSettings(n_tokens=40)) as fake:
        assert json.loads(post(fake, asked())[2])["usage"]["completion_tokens"] == 40
        assert json.loads(post(fake, asked(max_tokens=7))[2])["usage"]["completion_tokens"] == 7


def test_a_stream_has_its_usage_in_a_last_chunk_without_choices_if_it_is_asked_for():
    with FakeLLM(FakeSettings(script=("a long answer that comes in several pieces, one after another",))) as fake:
        _, headers, text = post(fake, asked(stream=True, stream_options={"include_usage": True}))
        *chunks, done = events(text)
        plain = events(post(fake, asked(stream=True))[2])
    assert done == "[DONE]"
    assert headers["Content-Type"] == "text/event-stream"
    parsed = [json.loads(one) for one in chunks]
    assert parsed[-1]["choices"] == []
    assert parsed[-1]["usage"]["completion_tokens"] > 0
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in parsed[:-1])
    assert said == "a long answer that comes in several pieces, one after another"
    assert not any("usage" in one for one in plain)


def test_a_tool_is_called_with_the_answer():
    tool = {"type": "function", "function": {"name": "act", "parameters": {"properties": {"action": {}}}}}
    with FakeLLM(FakeSettings(script=("open door",))) as fake:
        message = json.loads(post(fake, asked(tools=[tool]))[2])["choices"][0]["message"]
        streamed = events(post(fake, asked(tools=[tool], stream=True))[2])
    assert message["content"] is None
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"action": "open door"}
    assert sum('"arguments"' in one for one in streamed) >= 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is no JSON"),
        ({"messages": HELLO}, 400, "model is missing"),
        ({"model": "m", "messages": []}, 400, "messages must be a list"),
        (asked(max_tokens=0), 400, "must be at least 1"),
        (asked("nobody"), 404, "does not exist"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_openai_s_form(corridor_config, body, status, message):
    with FakeLLM(FakeSettings(pool=corridor_config.pool)) as fake:
        found, _, text = post(fake, body)
    assert found == status
    assert message in json.loads(text)["error"]["message"]


def test_models_health_and_what_is_not_there(corridor_config):
    with FakeLLM(FakeSettings(pool=corridor_config.pool)) as fake:
        connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
        found = {}
        for method, path in (("GET", "/health"), ("GET", "/v1/models"), ("GET", "/v1/nothing"), ("PUT", "/v1/models")):
            connection.request(method, path)
            reply = connection.getresponse()
            found[path, method] = (reply.status, json.loads(reply.read()))
        connection.close()
    assert found["/health", "GET"] == (200, {"status": "ok"})
    assert [one["id"] for one in found["/v1/models", "GET"][1]["data"]] == ["small", "middle", "large"]
    assert (found["/v1/nothing", "GET"][0], found["/v1/models", "PUT"][0]) == (404, 405)


def one_fault(kind, **changes):
    return FakeSettings(script=("open door",), faults=FaultPlan(shares={kind: 1.0}, most_per_turn=1, **changes))


@pytest.mark.parametrize(
    ("kind", "status", "marks"),
    [
        ("429", 429, {"is_billed": False}),
        ("500", 500, {"is_billed": False}),
        ("redirect", 302, {"is_billed": False}),
        ("missing_usage", 200, {"is_billed": True}),
        ("wrong_model", 200, {"is_billed": True}),
    ],
)
def test_a_fault_is_seen_booked_and_gone_at_the_next_try(kind, status, marks):
    with FakeLLM(one_fault(kind)) as fake:
        connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps(asked()), {"x-client-request-id": "r1"})
        first = connection.getresponse()
        body = json.loads(first.read())
        connection.close()
        assert first.status == status
        assert post(fake, asked())[0] == 200
        entry, again = fake.ledger.entries
    assert (entry.fault, entry.status, entry.request_id, entry.is_billed) == (kind, status, "r1", marks["is_billed"])
    assert (again.fault, again.n_try) == ("", 1)
    if kind == "missing_usage":
        assert "usage" not in body
    if kind == "wrong_model":
        assert body["model"] == "another-model"


def test_retry_after_broken_json_zero_usage_and_a_drip():
    with FakeLLM(one_fault("429_retry_after", retry_after_s=2.0)) as fake:
        assert post(fake, asked())[1]["Retry-After"] == "2"
        later = [*HELLO, {"role": "assistant", "content": "x"}, *HELLO]
        assert post(fake, {"model": "m", "messages": later})[1]["Retry-After"].endswith("GMT")
    with FakeLLM(one_fault("broken_json")) as fake:
        text = post(fake, asked())[2]
        with pytest.raises(ValueError, match="delimiter"):
            json.loads(text)
        assert '"usage"' in text
    with FakeLLM(one_fault("zero_usage")) as fake:
        assert json.loads(post(fake, asked())[2])["usage"]["total_tokens"] == 0
        assert fake.ledger.entries[0].usage.n_output > 0
    with FakeLLM(one_fault("drip", drip_s=0.02)) as fake:
        assert json.loads(post(fake, asked())[2])["choices"]


def test_a_cut_stream_and_a_time_out_end_the_connection():
    with FakeLLM(one_fault("cut_stream")) as fake:
        with pytest.raises(http.client.IncompleteRead):
            post(fake, asked())
        assert fake.ledger.entries[0].is_billed
    with FakeLLM(one_fault("timeout", timeout_s=0.01)) as fake:
        with pytest.raises((http.client.RemoteDisconnected, urllib.error.URLError)):
            post(fake, asked())
        assert fake.ledger.entries[0].status == 0


def test_signed_thinking_is_refused_from_another_model():
    with FakeLLM(one_fault("foreign_thinking")) as fake:
        signed = json.loads(post(fake, asked("a"))[2])["choices"][0]["message"]
        assert signed["thinking_blocks"][0]["signature"].startswith("a:")
        later = [*HELLO, signed, *HELLO]
        assert post(fake, {"model": "a", "messages": later})[0] == 200
        status, _, text = post(fake, {"model": "b", "messages": later})
        assert status == 400
        assert "invalid `signature`" in text
        assert fake.ledger.entries[-1].fault == "refused"


def test_faults_depend_on_the_session_alone():
    plan = FaultPlan(shares=FaultPlan.shares_of(["all=0.5"]), seed=7)
    drawn = [plan.draw("short|1|2", turn, 0) for turn in range(200)]
    assert drawn == [plan.draw("short|1|2", turn, 0) for turn in range(200)]
    assert drawn != [plan.draw("short|1|3", turn, 0) for turn in range(200)]
    assert 60 < sum(map(bool, drawn)) < 140
    assert set(drawn) - {""} == set(FAULT_KINDS)


def test_wrong_settings_are_told(corridor_config):
    with pytest.raises(UnknownNameError, match="unknown fault '501'"):
        FaultPlan(shares={"501": 0.1})
    with pytest.raises(InvalidConfigError, match="must be from 0 to 1"):
        FaultPlan(shares={"500": 1.5})
    with pytest.raises(InvalidConfigError, match=r"add up to 1\.2"):
        FaultPlan(shares={"500": 0.6, "429": 0.6})
    with pytest.raises(InvalidConfigError, match="must be KIND=SHARE"):
        FaultPlan.shares_of(["500"])
    with FakeLLM(FakeSettings()) as fake, pytest.raises(InvalidConfigError, match="give another --port"):
        FakeLLM(FakeSettings(port=fake.port)).__enter__()
    own = corridor_config.pool.model_copy(
        update={"backend": corridor_config.pool.backend.model_copy(update={"kind": "x"})}
    )
    wrong = FakeSettings(env=corridor_config.__class__(**{**vars(corridor_config), "pool": own}))
    with pytest.raises(InvalidConfigError, match="the double plays simulated models"):
        FakeLLM(wrong)


def test_a_session_that_is_none_is_told(corridor_config):
    with FakeLLM(FakeSettings(env=corridor_config)) as fake:
        status, _, text = post(fake, asked("small"), **{"x-mtrouter-session": "short"})
        assert (status, "must be TASK|VARIATION|SEED" in text) == (400, True)
        status, _, text = post(fake, asked("small"), **{"x-mtrouter-session": "nowhere|1|1"})
        assert (status, "unknown task" in text or "nowhere" in text) == (400, True)


def test_many_sessions_share_few_copies_of_the_task(corridor_config):
    def play(session, out):
        messages = [{"role": "user", "content": "start"}]
        for _ in range(3):
            body = {"model": "large", "messages": messages}
            _, _, text = post(fake, body, **{"x-mtrouter-session": session})
            said = json.loads(text)["choices"][0]["message"]
            messages = [*messages, said, {"role": "user", "content": "and then?"}]
            out.append(said["content"])

    found = {f"long|{i}|5|{run}": [] for i in range(6) for run in ("a", "b")}
    with FakeLLM(FakeSettings(env=corridor_config, n_copies=2)) as fake:
        threads = [threading.Thread(target=play, args=(session, out)) for session, out in found.items()]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    for i in range(6):
        assert len(found[f"long|{i}|5|a"]) == 3
        assert found[f"long|{i}|5|a"] == found[f"long|{i}|5|b"]


def test_the_ledger_is_a_file_that_is_gone_on_with(tmp_path):
    path = tmp_path / "billed.jsonl"
    for _ in range(2):
        with FakeLLM(FakeSettings(ledger=path)) as fake:
            post(fake, asked())
    with path.open("a") as file:
        file.write('{"request_id":')
    assert [one.model for one in read_ledger(path)] == ["m", "m"]
    with pytest.raises(InvalidConfigError, match="give another file"):
        FakeLLM(FakeSettings(ledger=tmp_path / "no" / "folder"))


def test_the_field_user_names_the_episode_where_a_service_lets_no_header_through(corridor_config):
    with FakeLLM(FakeSettings(env=corridor_config)) as fake:
        by_header = post(fake, asked("large"), **{"x-mtrouter-session": "short|1|2"})[2]
        by_user = post(fake, asked("large", user="short|1|2"))[2]
        echo = post(fake, asked("large", user="somebody"))[2]
    said = [json.loads(text)["choices"][0]["message"]["content"] for text in (by_header, by_user, echo)]
    assert said[0] == said[1] != "hello"
    assert said[2] == "hello"


def test_with_a_harness_an_answer_without_an_action_moves_nothing_and_is_reminded_within_its_turn(corridor_config):
    card = corridor_config.card.model_copy(update={"harness": HarnessCard(action="fenced")})
    with FakeLLM(FakeSettings(env=dataclasses.replace(corridor_config, card=card), form="padded")) as fake:

        def ask(*said):
            messages = [{"role": "user", "content": "start"}]
            for text in said:
                messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "?"}]
            body = {"model": "large", "messages": messages}
            _, _, text = post(fake, body, **{"x-mtrouter-session": "long|1|2"})
            return action_of(json.loads(text)["choices"][0]["message"]["content"])

        first = ask()
        assert ask("hm") == first, "the reminder belongs to the same turn"
        other = ask("hm", "hm")
        two_actions = f"```\n{first}\n```\n```\nwait\n```"
        assert ask("hm", two_actions) == other, "the next turn, with the task where it was"
        assert ask("hm", f"```\n{first}\n```") == ask(f"```\n{first}\n```")
