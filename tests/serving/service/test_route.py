"""For gateways that call the models themselves: /route, /outcome, /feedback; and what tells how the service is."""

import json
import re
import shutil

import httpx
import pytest

from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import CardError, InvalidConfigError
from mtrouter_rl.serving.live import load_router
from mtrouter_rl.serving.service.database import StoreError
from mtrouter_rl.serving.service.run import ServeRequest, build
from mtrouter_rl.serving.service.store import Store
from tests.cases.served import TASK, chat, post, rows, said_step, served
from tests.serving.test_live import trained  # noqa: F401

USED = {"prompt_tokens": 100, "completion_tokens": 10}


def routed(address, messages, **more):
    return post(f"{address}/route", {"messages": messages, "session": "s", **more})


def test_route_and_outcome(request_of, double, pool, tmp_path):
    with served(request_of(only_decides=True)) as (address, _):
        decided = routed(address, [TASK], request_id="r1", max_output_tokens=50, budget_usd=1.0)
        told = decided.json()
        assert decided.status_code == 200, told
        assert told["propensity"] == 0.5
        assert told["candidates"] == ["small", "big"]
        assert told["budget_left_usd"] == 1.0
        assert told["max_cost_usd"] > 0
        assert routed(address, [TASK], request_id="r1").json() == told
        outcome = {"decision_id": told["decision_id"], "usage": USED, "answer": "I look.", "latency_s": 0.5}
        booked = post(f"{address}/outcome", outcome).json()
        assert booked["spent_usd"] == booked["cost_usd"] > 0
        assert post(f"{address}/outcome", outcome).json() == booked
        assert routed(address, [TASK], request_id="r1").json()["decision_id"] == told["decision_id"]
        after = [TASK, {"role": "assistant", "content": "I look."}, {"role": "user", "content": "A door."}]
        second = routed(
            address, after, candidates=["small", {"model": "big", "max_cost_usd": 9.0, "cached_tokens": 10}]
        )
        assert second.json()["turn"] == 1
        assert second.json()["model"] == "small"
        assert "9 USD" in second.json()["not_allowed"]["big"]
        post(f"{address}/outcome", {"decision_id": second.json()["decision_id"], "usage": USED, "answer": "Open."})
        assert post(f"{address}/feedback", {"session": "s", "score": 0.5, "status": "completed"}).status_code == 200
        assert chat(address, [TASK]).status_code == 404
    assert double.calls == []
    request = ImportRequest(format="served", paths=(tmp_path / "served.sqlite",), pool=pool, out=tmp_path / "out")
    import_log(request, show_progress=False)
    (episode,) = Dataset.load(tmp_path / "out").episodes
    assert [turn.action_text for turn in episode.turns] == ["I look.", "Open."]
    assert [turn.propensity for turn in episode.turns] == [0.5, 1.0]
    assert [turn.action_mask for turn in episode.turns] == [(True, True), (True, False)]
    assert episode.budget_usd == 1.0
    assert episode.utility == 0.5


def test_a_call_that_failed(request_of, tmp_path):
    with served(request_of(only_decides=True)) as (address, _):
        first = routed(address, [TASK]).json()
        done = post(f"{address}/outcome", {"decision_id": first["decision_id"], "error": "rate_limit"})
        again = routed(address, [TASK]).json()
        late = post(f"{address}/outcome", {"decision_id": "nobody", "error": "x"})
    assert done.json()["cost_usd"] is None
    assert again["decision_id"] == first["decision_id"]
    assert late.status_code == 404


def test_a_decision_whose_outcome_never_came_counts_as_its_most(request_of, tmp_path):
    with served(request_of(only_decides=True)) as (address, _):
        first = routed(address, [TASK]).json()
        second = routed(address, [TASK, {"role": "user", "content": "Still there?"}]).json()
        late = post(f"{address}/outcome", {"decision_id": first["decision_id"], "usage": USED, "answer": "x"})
    assert second["turn"] == 0
    assert late.json()["error"]["code"] == "outcome_too_late"
    (session,) = rows(tmp_path, "served_sessions")
    assert session["spent_usd"] == first["max_cost_usd"]


BAD = [
    ("route", {"messages": []}, "messages must be a list with at least one message"),
    ("route", {"messages": [TASK], "candidates": ["x"]}, "candidates.0 must be a model of the pool (small, big)"),
    ("route", {"messages": [TASK], "candidates": []}, "candidates must be a list with at least one model"),
    ("route", {"messages": [TASK], "budget_usd": -1}, "budget_usd is -1, must be a number from 0"),
    ("route", {"messages": [TASK], "max_output_tokens": 1.5}, "max_output_tokens is 1.5, must be a whole number"),
    ("route", {"messages": [TASK], "sesion": "s"}, "unknown field 'sesion'"),
    ("route", {"messages": [{"role": "wizard", "content": "x"}]}, "wizard"),
    ("route", {"messages": [{"role": "system", "content": "x"}]}, "none of role 'user'"),
    ("route", {"messages": [TASK], "session": "a b"}, "session must have 1 to 200 visible ASCII characters"),
    ("outcome", {"usage": USED}, "decision_id is missing"),
    ("outcome", {"decision_id": "x"}, "usage is missing"),
    (
        "outcome",
        {"decision_id": "x", "usage": {"prompt_tokens": -1, "completion_tokens": 1}},
        "usage.prompt_tokens is -1",
    ),
    ("outcome", {"decision_id": "x", "usage": USED}, "answer is missing"),
    ("feedback", {"session": "s"}, "score and status are missing"),
    ("feedback", {"session": "s", "score": 2}, "score is 2, must be a number from -1 to 1"),
    ("feedback", {"session": "s", "status": "good"}, "status must be one of completed, truncated, failed"),
    ("feedback", {"score": 1}, "session is missing"),
]


@pytest.fixture(scope="module")
def deciding(tmp_path_factory):
    """A service that decides, for requests that change nothing."""
    from tests.cases.served import remote_pool

    store = tmp_path_factory.mktemp("deciding") / "served.sqlite"
    request = ServeRequest(
        router="random", pool=remote_pool("http://127.0.0.1:9"), store=str(store), watches=False, only_decides=True
    )
    with served(request) as (address, _):
        yield address


@pytest.mark.parametrize(("path", "body", "message"), BAD)
def test_requests_that_break_a_rule(deciding, path, body, message):
    answer = post(f"{deciding}/{path}", body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_the_schema_names_every_path_and_model(deciding):
    schema = httpx.get(f"{deciding}/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert schema["paths"].keys() == {
        *("/v1/chat/completions", "/v1/models", "/route", "/outcome", "/feedback"),
        *("/reload", "/healthz", "/readyz", "/metrics"),
    }
    assert "big" in json.dumps(schema)


def test_metrics(request_of, double):
    with served(request_of("single:small")) as (address, _):
        chat(address, [TASK])
        double.answer = lambda model, body: (500, {}, b"no")
        chat(address, [TASK])
        double.answer = said_step
        text = httpx.get(f"{address}/metrics").text
    values = dict(re.findall(r"^(mtrouter\S+) (\S+)$", text, re.MULTILINE))
    assert float(values['mtrouter_decisions_total{kind="router",model="small"}']) == 2
    assert float(values['mtrouter_requests_total{path="/v1/chat/completions",status="200"}']) == 1
    assert float(values['mtrouter_requests_total{path="/v1/chat/completions",status="502"}']) == 1
    assert float(values['mtrouter_spend_usd_total{model="small"}']) == pytest.approx(100e-6 + 20e-6)
    assert float(values['mtrouter_errors_total{code="upstream_error"}']) == 1
    assert float(values["mtrouter_decide_seconds_count"]) == 2


def test_readiness_is_that_of_the_store(request_of, monkeypatch):
    def refuses(self):
        raise StoreError("the store cannot be used")

    with served(request_of()) as (address, _):
        assert httpx.get(f"{address}/readyz").status_code == 200
        monkeypatch.setattr(Store, "beat", refuses)
        answer = httpx.get(f"{address}/readyz")
        alive = httpx.get(f"{address}/healthz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store")
    assert alive.status_code == 200


def test_a_router_is_loaded_again_and_a_bad_one_leaves_the_old_one(request_of, trained, pool, tmp_path, monkeypatch):  # noqa: F811
    source, _ = trained
    folder = tmp_path / "router"
    shutil.copytree(source, folder)
    monkeypatch.setenv("TOKEN", "t")
    request = request_of(str(folder), pool=None, only_decides=True, token_variables=("TOKEN",))
    with served(request) as (address, running):
        mine = {"authorization": "Bearer t"}
        old = running.service.desk.box.brain
        weights = folder / "router.json"
        text = weights.read_text()
        weights.write_text("{")
        refused = post(f"{address}/reload", {}, headers=mine)
        assert refused.status_code == 409
        assert running.service.desk.box.brain is old
        assert post(f"{address}/route", {"messages": [TASK]}, headers=mine).status_code == 200
        weights.write_text(text + " ")
        assert post(f"{address}/reload", {}, headers=mine).status_code == 200
        assert running.service.desk.box.brain is not old
        assert running.service.desk.box.brain.stamp != old.stamp
        decided = post(f"{address}/route", {"messages": [TASK]}, headers=mine).json()
        assert decided["q_values"] == pytest.approx(load_router(folder).choose([TASK]).q_values)
        text = running.service.metrics.text().decode()
    assert 'mtrouter_reloads_total{result="refused"} 1.0' in text


def test_a_service_without_tokens_is_not_reloaded_from_outside(deciding):
    assert post(f"{deciding}/reload", {}).status_code == 403


def test_what_cannot_be_served(request_of, pool, tmp_path):
    nobody = pool.model_copy(update={"backend": pool.backend.model_copy(update={"kind": "none"})})
    with pytest.raises(CardError, match=r"backend.kind is 'none', must be 'openai_compatible'"):
        build(request_of(pool=nobody))
    with pytest.raises(InvalidConfigError, match="holds a password"):
        build(request_of(store="postgresql://me:secret@127.0.0.1/served"))
    with pytest.raises(InvalidConfigError, match="'mysql' URL, must be a file or postgresql"):
        build(request_of(store="mysql://me@127.0.0.1/served"))
    with pytest.raises(InvalidConfigError, match="names NOT_SET, which is not set"):
        build(request_of(token_variables=("NOT_SET",)))
    with pytest.raises(InvalidConfigError, match="routed name is 'big', must be a name that no model"):
        build(request_of(routed_name="big"))
