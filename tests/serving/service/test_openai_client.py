"""The official client, unchanged, in front of the service: chat, streams, tools, errors."""

import json

import pytest

from tests.cases.served import TASK, USAGE, rows, said_step, served

openai = pytest.importorskip("openai")

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "door"}'}}


@pytest.fixture
def client(request_of, tmp_path):
    with (
        served(request_of(session_budget_usd=50.0)) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="mine", max_retries=0, timeout=20) as made,
    ):
        yield made


def test_chat(client, double):
    answer = client.chat.completions.create(model="router", messages=[TASK], max_completion_tokens=50)
    (model, sent, headers) = double.calls[0]
    assert answer.choices[0].message.content == f"{model}: step 1"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 10)
    assert answer.model == model
    assert sent["model"] == model
    assert sent["max_tokens"] == 50
    assert "authorization" not in headers


def test_the_headers_tell_of_the_decision(client, tmp_path):
    raw = client.chat.completions.with_raw_response.create(model="router", messages=[TASK])
    (written,) = rows(tmp_path)
    assert raw.headers["x-mtrouter-decision"] == written["id"]
    assert raw.headers["x-mtrouter-model"] == written["model"]
    assert float(raw.headers["x-mtrouter-propensity"]) == written["propensity"]
    assert raw.headers["x-mtrouter-session"]


def test_streams(client, tmp_path):
    stream = client.chat.completions.create(model="router", messages=[TASK], stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).endswith("step1")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    (written,) = rows(tmp_path)
    assert json.loads(written["usage"]) == USAGE
    assert written["state"] == "done"


def test_streams_with_usage(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="router", messages=[TASK], stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 110


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools(client, double, tmp_path, is_stream):
    double.answer = lambda model, body: {"role": "assistant", "content": None, "tool_calls": [CALL]}
    asked = {"model": "router", "messages": [TASK], "tools": [LOOK]}
    if is_stream:
        pieces = [
            chunk.choices[0].delta.tool_calls or [] for chunk in client.chat.completions.create(stream=True, **asked)
        ]
        arguments = "".join(piece.function.arguments for some in pieces for piece in some)
    else:
        (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
        arguments = call.function.arguments
    assert json.loads(arguments) == {"at": "door"}
    assert double.calls[0][1]["tools"] == [LOOK]
    double.answer = lambda model, body: {"role": "assistant", "content": "A door."}
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "It is shut."}
    client.chat.completions.create(
        model="router",
        messages=[TASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, answer],
        tools=[LOOK],
    )
    first, second = rows(tmp_path)
    assert first["session_id"] == second["session_id"]
    assert json.loads(second["observation"]) == "It is shut."
    assert json.loads(first["action"]) == '[{"name": "look", "arguments": {"at": "door"}}]'


def answers(status, message="no", **headers):
    body = json.dumps({"error": {"message": message, "code": "why", "type": "x", "param": None}})
    return lambda model, body_: (status, {"content-type": "application/json", **headers}, body)


ERRORS = [
    (400, "BadRequestError", 400),
    (422, "UnprocessableEntityError", 422),
    (429, "RateLimitError", 429),
    (401, "InternalServerError", 502),
    (404, "InternalServerError", 502),
    (500, "InternalServerError", 502),
    (503, "InternalServerError", 503),
]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("status", "name", "told"), ERRORS)
def test_errors_of_the_endpoint(client, double, tmp_path, status, name, told, is_stream):
    double.answer = answers(status, **{"retry-after": "7"})
    with pytest.raises(getattr(openai, name)) as caught:
        client.chat.completions.create(model="router", messages=[TASK], stream=is_stream)
    assert caught.value.status_code == told
    assert caught.value.body["code"] == "why"
    assert caught.value.response.headers["retry-after"] == "7"
    (written,) = rows(tmp_path)
    assert written["state"] == "failed"
    assert len(double.calls) == 1
    (session,) = rows(tmp_path, "served_sessions")
    assert (session["spent_usd"], session["held_usd"], session["n_turns"]) == (0, 0, 0)


def test_an_unknown_model(client, double):
    with pytest.raises(openai.NotFoundError, match="valid: router, small, big"):
        client.chat.completions.create(model="gpt-9", messages=[TASK])
    assert double.calls == []


def test_models(client):
    assert [model.id for model in client.models.list()] == ["router", "small", "big"]


def test_a_model_of_ones_own_choice_is_logged_as_such(client, double, tmp_path):
    client.chat.completions.create(model="big", messages=[TASK])
    (written,) = rows(tmp_path)
    assert (written["model"], written["propensity"], written["kind"]) == ("big", 1.0, "asked")
    assert json.loads(written["facts"])["candidates"] == ["big"]
    assert double.calls[0][0] == "big"


def test_a_stream_that_breaks_off_is_an_error_and_booked_at_its_most(client, double, tmp_path):
    double.cut_after = 2
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="router", messages=[TASK], stream=True, max_tokens=10))
    (written,) = rows(tmp_path)
    (session,) = rows(tmp_path, "served_sessions")
    assert written["state"] == "unknown"
    assert session["spent_usd"] == written["held_usd"] > 0
    assert session["held_usd"] == 0


def test_a_retry_after_a_failure_calls_the_same_model_again(client, double, tmp_path):
    double.answer = answers(500, **{"retry-after": "0.01"})
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError):
        patient.chat.completions.create(model="router", messages=[TASK])
    (written,) = rows(tmp_path)
    assert len({model for model, _, _ in double.calls}) == 1
    assert len(json.loads(written["tries"])) == len(double.calls) == 3
    double.answer = said_step
    patient.chat.completions.create(model="router", messages=[TASK])
    first, second = rows(tmp_path)
    assert (first["state"], second["state"]) == ("failed", "done")
    assert (first["turn"], second["turn"], second["draw"]) == (0, 0, 1)
    assert first["model"] != second["model"]
    assert second["propensity"] == 1.0
    assert json.loads(second["facts"])["candidates"] == [second["model"]]
