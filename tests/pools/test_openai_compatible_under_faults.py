"""The backend for endpoints against the double: what is tried again, what is booked, who is left alone."""

import json
import logging
import re

import pytest

from mtrouter_rl.cards import HarnessCard
from mtrouter_rl.envs.factory import EnvConfig, build_env
from mtrouter_rl.errors import BackendError, CardError, SpendLimitError
from mtrouter_rl.pools.openai_compatible import OpenAICompatibleBackend
from mtrouter_rl.pools.remote.settings import RemotePool, read_settings
from mtrouter_rl.pools.spend import SpendLedger, SpendPlan
from mtrouter_rl.protocols import SelectiveBackend, WastedCallError
from mtrouter_rl.records import EpisodeSpec, Message, TokenUsage
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings, FaultPlan, remote_twin

ASKED = [Message(role="user", content="What now?")]


class Waits:
    """Sleeps in no time, and keeps for how long it was asked to."""

    def __init__(self):
        self.slept, self.now_s = [], 0.0

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now_s += seconds

    def clock(self):
        return self.now_s


@pytest.fixture
def served(corridor_config):
    """A double with a script and one fault, a backend that calls it, and the waits of the backend."""
    running = []

    def make(kind=None, *, plan=None, harness=None, script=("open door",), of_pool=None, fake=None, **settings):
        plan = plan or FaultPlan(shares={kind: 1.0} if kind else {}, most_per_turn=fake.pop("most", 1) if fake else 1)
        double = FakeLLM(FakeSettings(pool=corridor_config.pool, script=script, faults=plan, **(fake or {})))
        running.append(double.__enter__())
        twin = remote_twin(corridor_config.pool, double.base_url, of_pool=of_pool or {}, **settings)
        waits = Waits()
        one = OpenAICompatibleBackend(twin, read_settings(twin), harness=harness, sleep=waits.sleep, clock=waits.clock)
        return double, one, waits

    yield make
    for double in running:
        double.__exit__(None, None, None)


def call(backend, model="small", messages=ASKED):
    return backend.reply(model, messages, turn=0, max_output_tokens=50)


@pytest.mark.parametrize("kind", ["429", "500", "timeout", "redirect"])
def test_what_passes_is_tried_again_with_growing_pauses(served, kind):
    plan = FaultPlan(shares={kind: 1.0}, most_per_turn=2, timeout_s=0.01)
    double, backend, waits = served(plan=plan)
    assert call(backend).text == "open door"
    assert double.ledger.n_requests == 3
    assert 0.25 <= waits.slept[0] <= 0.75
    assert 0.5 <= waits.slept[1] <= 1.5


def test_a_redirect_that_stays_is_an_error_and_is_never_followed(served):
    double, backend, _ = served(plan=FaultPlan(shares={"redirect": 1.0}, most_per_turn=9))
    with pytest.raises(BackendError, match=r"sends the call on to '.*', which is not followed.*\(3 tries\)"):
        call(backend)
    assert double.ledger.n_requests == 3


def test_the_pause_is_as_long_as_the_endpoint_asks_and_no_longer_than_the_deadline(served):
    _, backend, waits = served(
        "429_retry_after", plan=FaultPlan(shares={"429_retry_after": 1.0}, most_per_turn=1, retry_after_s=7)
    )
    call(backend)
    assert 7.0 <= waits.slept[0] <= 7.1
    _, backend, waits = served(
        plan=FaultPlan(shares={"429_retry_after": 1.0}, retry_after_s=70), of_pool={"deadline_s": 60.0}
    )
    with pytest.raises(BackendError, match=r"the next try would be in 70\.\d s, after the deadline"):
        call(backend)
    assert waits.slept == []


@pytest.mark.parametrize(
    ("kind", "stream", "problem"),
    [
        ("wrong_model", False, "it was answered by 'another-model', and 'small' was asked"),
        ("wrong_model", True, "it was answered by 'another-model'"),
        ("broken_json", False, "the reply is no usable JSON"),
        ("broken_json", True, "an event of the stream is no JSON"),
    ],
)
def test_a_bill_without_an_answer_is_told_with_its_tokens(served, kind, stream, problem):
    double, backend, _ = served(kind, stream=stream)
    with pytest.raises(WastedCallError, match=re.escape(problem)) as raised:
        call(backend)
    (entry,) = double.ledger.entries
    assert raised.value.usage == entry.usage
    assert f"{entry.cost_usd:.6f} USD were billed for it" in str(raised.value)


@pytest.mark.parametrize("stream", [False, True])
def test_a_bill_that_cannot_be_known_is_counted_and_told(served, stream):
    double, backend, _ = served("cut_stream", stream=stream)
    reply = call(backend)
    assert double.ledger.n_requests == reply.hidden["n_tries"] == 2
    assert reply.hidden["unknown_bills"] == 1
    assert reply.hidden["unknown_bills_most_usd"] >= double.ledger.entries[0].cost_usd
    _, backend, _ = served("cut_stream", fake={"most": 9}, stream=stream)
    with pytest.raises(BackendError, match=r"\(3 tries; the bills of 3 tries are not known, together at most 0\.0"):
        call(backend)


@pytest.mark.parametrize("kind", ["missing_usage", "zero_usage"])
def test_no_usage_is_an_error_unless_an_estimate_is_allowed(served, kind):
    _, backend, _ = served(kind)
    with pytest.raises(BackendError, match=r"nobody can say what it cost.*usage_estimate"):
        call(backend)
    double, backend, _ = served(kind, usage_estimate="token_counter")
    reply = call(backend)
    assert reply.hidden["usage_estimate"] == "token_counter"
    (entry,) = double.ledger.entries
    assert (reply.usage.n_prompt, reply.usage.n_output) == (entry.usage.n_prompt, entry.usage.n_output)


def test_an_estimate_takes_the_dearest_way_to_bill_a_prompt(served):
    _, backend, _ = served("missing_usage", usage_estimate="token_counter")
    usage = call(backend, "large").usage
    assert usage == TokenUsage(n_fresh=0, n_written=usage.n_prompt, n_output=usage.n_output)


def test_a_cost_that_the_provider_tells_is_kept_and_told_once_if_the_card_says_otherwise(served, caplog):
    _, backend, _ = served(fake={"cost_factor": 1.005})
    hidden = call(backend).hidden
    assert "cost_differs" not in hidden
    assert hidden["reported_cost_usd"] > 0
    double, backend, _ = served(fake={"cost_factor": 1.5})
    with caplog.at_level(logging.WARNING):
        found = [call(backend).hidden for _ in range(3)]
    assert all(one["cost_differs"] for one in found)
    assert found[0]["reported_cost_usd"] == pytest.approx(1.5 * double.ledger.entries[0].cost_usd)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "correct the prices of pool 'corridor-three'" in told


def test_a_model_that_fails_again_and_again_is_left_alone_for_a_while(served):
    card = {"failures": 2, "pause_s": 30.0}
    plan = FaultPlan(shares={"500": 1.0}, most_per_turn=4)
    double, backend, waits = served(plan=plan, of_pool={"breaker": card})
    assert isinstance(backend, SelectiveBackend)
    with pytest.raises(BackendError, match="left alone for a while"):
        call(backend)
    assert double.ledger.n_requests == 2
    assert backend.not_callable(ASKED) == {"small": "circuit open after 2 failures, for another 30 s"}
    waits.now_s += 30
    assert backend.not_callable(ASKED) == {}
    with pytest.raises(BackendError, match="left alone"):
        call(backend)
    assert double.ledger.n_requests == 3
    waits.now_s += 30
    with pytest.raises(BackendError, match="left alone"):
        call(backend)
    waits.now_s += 30
    assert call(backend).text == "open door"
    assert backend.not_callable(ASKED) == {}


def test_an_open_circuit_shows_in_the_action_mask(served, corridor_config):
    _, backend, _ = served(plan=FaultPlan(shares={"500": 1.0}, most_per_turn=9), of_pool={"breaker": {"failures": 1}})
    config = EnvConfig(
        card=corridor_config.card, pool=backend._pool, limits=corridor_config.limits, reward=corridor_config.reward
    )
    env = build_env(config)
    env._backend = env._selective = backend
    spec = EpisodeSpec(task="short", variation=0, seed=0, split="train")
    observation, _ = env.reset(options={"spec": spec})
    assert observation["action_mask"].tolist() == [1, 1, 1]
    with pytest.raises(BackendError):
        env.step(1)
    observation, _ = env.reset(options={"spec": spec})
    assert observation["action_mask"].tolist() == [1, 0, 1]
    env.close()


def test_a_history_that_cannot_be_handed_over_is_told(served):
    _, backend, _ = served()
    sealed = {"role": "assistant", "content": None, "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}
    messages = [*ASKED, Message(role="assistant", content="", author="large", raw=sealed), *ASKED]
    assert set(backend.not_callable(messages)) == {"small", "middle"}


def test_a_tool_is_offered_and_its_call_comes_back_raw(served):
    harness = HarnessCard(action="tool")
    _, backend, _ = served(harness=harness)
    reply = call(backend)
    assert reply.message is not None
    (tool,) = reply.message.tool_calls
    assert (tool.name, json.loads(tool.arguments)) == ("act", {"action": "open door"})
    assert reply.message.raw["tool_calls"][0]["id"] == tool.id
    _, streamed, _ = served(harness=harness, stream=True)
    assert call(streamed).message.tool_calls == reply.message.tool_calls


def test_thinking_comes_back_to_its_model_and_to_no_other(served):
    double, backend, _ = served("foreign_thinking")
    said = call(backend, "large").message
    assert said.raw["thinking_blocks"]
    later = [*ASKED, said, *ASKED]
    counter = backend._pool.token_counter
    assert counter.count_message(said) > counter.count(said.content) + 40, "its thinking is part of the prompt"
    assert call(backend, "large", later).text == "open door"
    reply = call(backend, "small", later)
    assert reply.hidden["stripped"] == {"thinking": 1}
    assert [entry.status for entry in double.ledger.entries] == [200, 200, 200]


def test_a_limit_of_the_run_is_asked_before_every_try(served, tmp_path, corridor_config):
    double, backend, _ = served("500")
    ledger = SpendLedger(SpendPlan(file=str(tmp_path / "spend"), run="r", run_usd=0.0))
    backend._spending = ledger
    with pytest.raises(SpendLimitError, match="the limit of the run, 0 USD"):
        call(backend)
    assert double.ledger.n_requests == 0


def test_request_fields_of_a_variant_are_sent_and_those_of_the_conversation_are_kept(corridor_config):
    remote = RemotePool.model_validate(
        {"models": {"small": {"base_url": "http://127.0.0.1:1/v1", "extra_body": {"top_p": 0.5}}}}
    ).models["small"]
    from mtrouter_rl.pools.remote.requests import request_body

    changed = remote.model_copy(
        update={"reasoning_effort": "low", "temperature": 0.2, "limit_field": "max_completion_tokens"}
    )
    body = request_body(changed, "small", [{"role": "user", "content": "x"}], max_output_tokens=5, harness=None)
    assert body == {
        "model": "small",
        "messages": [{"role": "user", "content": "x"}],
        "top_p": 0.5,
        "reasoning_effort": "low",
        "temperature": 0.2,
        "max_completion_tokens": 5,
    }
    own = {"small": {"base_url": "http://127.0.0.1:1/v1", "extra_body": {"messages": []}}}
    backend = corridor_config.pool.backend.model_copy(update={"settings": {"models": own}})
    with pytest.raises(CardError, match="messages cannot be set here"):
        read_settings(corridor_config.pool.model_copy(update={"backend": backend}))


@pytest.mark.parametrize(
    ("asked", "served_as", "told", "is_own"),
    [
        ("gpt-5", (), "gpt-5-2026-01-31", True),
        ("gpt-5", (), "gpt-5-20260131", True),
        ("gpt-5", (), "gpt-5-mini", False),
        ("gpt-5", ("azure-5",), "azure-5", True),
        ("gpt-5", (), "pool-name", True),
    ],
)
def test_whose_reply_it_is(asked, served_as, told, is_own):
    remote = RemotePool.model_validate(
        {"models": {"m": {"base_url": "http://127.0.0.1:1/v1", "model": asked, "served_as": served_as}}}
    ).models["m"]
    assert remote.is_served_by(told, names=("pool-name",)) is is_own


def test_no_key_is_in_an_error_of_an_endpoint_that_echoes_it(served, monkeypatch, corridor_config):
    monkeypatch.setenv("PLANTED", "sk-planted-key")
    _, backend, _ = served(script=("the key is sk-planted-key",), key_variable="PLANTED")
    reply = call(backend)
    assert "planted" not in reply.text
    assert "[key]" in reply.text
