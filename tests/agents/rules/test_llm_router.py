"""A model as router: what it is asked, what its answer means, and that its calls are paid for."""

import dataclasses
import json

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.rules import llm_router
from mtrouter_rl.agents.rules.llm_router import LLMRouter, named_models
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import BackendError, CardError, RouterError, UnknownNameError
from mtrouter_rl.evaluation.closed_loop import paid_decision_notes
from mtrouter_rl.protocols import PaidRouter, Reply, WastedCallError
from mtrouter_rl.records import EpisodeSpec, TokenUsage
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.rollout.collection import dataset_info
from tests.cases.routing_toy import POOL, StateFeatures, make_card, make_context, make_observation

USAGE = TokenUsage(n_fresh=1000, n_cached=0, n_written=0, n_output=5)
COST_USD = 1000 * 0.05e-6 + 5 * 0.2e-6
CORRIDOR = resolve_env("corridor")
SPEC = EpisodeSpec(task="middle", variation=2, seed=4, split="train")


class Answers:
    """A backend that answers with texts, one after another, the last one for ever."""

    def __init__(self, *texts, usage=USAGE, error=None):
        self.texts, self.usage, self.error = list(texts), usage, error
        self.asked = []

    def reply(self, model, messages, *, turn, max_output_tokens):
        self.asked.append((model, [message.content for message in messages], turn, max_output_tokens))
        if self.error:
            raise self.error
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return Reply(text=text, served_model=model, usage=self.usage, latency_s=0.1, hidden={})


@pytest.fixture
def ask(monkeypatch):
    """Makes a router for a pool whose asked model gives these answers."""

    def make(backend, *, routed=POOL, **parameters):
        monkeypatch.setattr(llm_router, "make_backend", lambda card: backend)
        card = make_card("llm_router", **({"pool": "local-llm", "model": "weak"} | parameters))
        return LLMRouter.from_card(card).train(dataclasses.replace(make_context(None), pool=routed))

    return make


def test_the_model_that_is_named_is_chosen_and_the_decision_paid(ask):
    backend = Answers("The middle one: `Middle`.")
    router = ask(backend)
    assert isinstance(router, PaidRouter)
    decision = router.decide(make_observation(1, mask=(1, 1, 0), models=(0,)))
    assert decision.probabilities.tolist() == [0, 1, 0]
    assert decision.cost_usd == pytest.approx(COST_USD, rel=1e-12)
    ((model, (system, user), turn, n_output),) = backend.asked
    assert (model, turn, n_output) == ("weak", 1, 32)
    assert "- small: input 1" in system
    assert "- middle" in system
    assert "large" not in system
    assert "Turn 0, small" in user


@pytest.mark.parametrize("answer", ["", "none of them", "small or middle", "large", "smaller", "small-2"])
def test_an_answer_that_names_no_allowed_model_leaves_the_model_as_it_is(ask, answer):
    router = ask(Answers(answer))
    decision = router.decide(make_observation(1, mask=(1, 1, 0), models=(1,)))
    assert decision.probabilities.tolist() == [0, 1, 0]
    assert decision.cost_usd == pytest.approx(COST_USD)
    assert "allowed models" in decision.hidden["router_error"]


def test_an_answer_that_was_billed_and_cannot_be_used_is_paid_too(ask):
    router = ask(Answers("", error=WastedCallError("cut off", usage=USAGE, served_model="weak")))
    decision = router.decide(make_observation(0))
    assert decision.probabilities.tolist() == [1, 0, 0]  # the cheapest, since nobody was called yet
    assert decision.cost_usd == pytest.approx(COST_USD)
    assert "cut off" in decision.hidden["router_error"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("gpt-5-mini", ["gpt-5-mini"]), ("gpt-5", ["gpt-5"]), ("GPT-5 and gpt-5-mini", ["gpt-5", "gpt-5-mini"]), ("", [])],
)
def test_a_name_that_is_part_of_another_counts_only_alone(text, found):
    assert named_models(text, ["gpt-5", "gpt-5-mini"]) == found
    assert named_models(text, []) == []


def test_a_history_that_is_too_long_is_left_out_from_its_oldest_turn(ask):
    backend = Answers("small")
    router = ask(backend, max_prompt_tokens=700)
    router.decide(make_observation(1, models=(0, 1) * 40))
    ((_, (system, user), _, _),) = backend.asked
    assert len((system + user).encode()) <= 700
    assert "earlier turns are left out)" in user
    assert "Turn 79" in user
    assert "Turn 0," not in user
    with pytest.raises(BackendError, match=r"names of 3 models do not fit.*raise max_prompt_tokens"):
        ask(backend, max_prompt_tokens=50).decide(make_observation(0))


def test_its_cost_is_booked_on_the_turn_that_was_decided(ask, tmp_path):
    env = build_env(CORRIDOR)
    router = ask(Answers("small"), routed=CORRIDOR.pool)
    traced = run_episode(env, router, SPEC)
    episode = traced.episode
    assert episode.status == "completed"
    assert episode.turns
    for turn, hidden in zip(episode.turns, traced.hidden, strict=True):
        assert turn.router_cost_usd == pytest.approx(COST_USD, rel=1e-12)
        price = CORRIDOR.pool.model(turn.served_model).prices.cost_usd(turn.usage)
        assert turn.cost_usd == pytest.approx(price + COST_USD, rel=1e-12)
        assert (turn.propensity, hidden["router_reply"]) == (1.0, "small")
    assert episode.cost_usd <= episode.budget_usd
    (note,) = paid_decision_notes({"free": [], router.name: [episode]})
    assert f"cost {len(episode.turns) * COST_USD:.3g} USD an episode" in note
    info = dataset_info(
        CORRIDOR, dataset_id="toy-v1", policy=router.name, split="train", seed=0, n_episodes=1, created_by={}
    )
    DatasetWriter(tmp_path / "log", info).write_shard(0, [traced])
    assert Dataset.load(tmp_path / "log").episodes == (episode,)


def test_it_does_not_ask_where_the_budget_does_not_hold_both(ask):
    env = build_env(CORRIDOR)
    backend = Answers("small", usage=TokenUsage(n_fresh=0, n_cached=0, n_written=0, n_output=0))
    router = ask(backend, routed=CORRIDOR.pool)
    router.most_usd = lambda observation: CORRIDOR.limits.budget_usd
    episode = run_episode(env, router, SPEC).episode
    assert episode.turns
    assert not backend.asked
    assert all(turn.router_cost_usd == 0 for turn in episode.turns)


def test_a_decision_that_costs_more_than_was_said_fails_the_episode(ask):
    env = build_env(CORRIDOR)
    dear = TokenUsage(n_fresh=10**9, n_cached=0, n_written=0, n_output=0)
    router = ask(Answers("small", usage=dear), routed=CORRIDOR.pool)
    episode = run_episode(env, router, SPEC).episode
    assert episode.status == "failed"
    assert "most_usd" in episode.status_detail


def test_saved_and_loaded_it_names_a_card_and_holds_no_address(ask, tmp_path):
    router = ask(Answers("middle"))
    save_router(router, tmp_path)
    text = (tmp_path / "router.json").read_text()
    assert "http" not in text
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures())
    observation = make_observation(1, models=(2,))
    assert (loaded.decide(observation).probabilities == router.decide(observation).probabilities).all()
    np.testing.assert_array_equal(loaded.action_probabilities([observation]), [[0, 0, 1]])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pool", "./mine.yaml", "settings.pool.*never gives a path"),
        ("pool", "http://10.0.0.1", "settings.pool"),
        ("order", ["small"], "order and models must hold every model"),
        ("models", {"small": "x"}, "order and models must hold every model"),
        ("base_url", "http://10.0.0.1", "base_url"),
    ],
)
def test_a_hostile_file_is_refused(ask, tmp_path, field, value, message):
    save_router(ask(Answers("middle")), tmp_path)
    path = tmp_path / "router.json"
    record = json.loads(path.read_text())
    record["settings"][field] = value
    path.write_text(json.dumps(record))
    with pytest.raises(RouterError, match=message):
        load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures())


def test_who_cannot_be_asked(ask):
    with pytest.raises(CardError, match=r"backend.kind is 'simulated'.*needs 'openai_compatible'"):
        ask(Answers(""), pool="corridor-three", model="small")
    with pytest.raises(UnknownNameError, match="never gives a path"):
        ask(Answers(""), pool="./x.yaml")
    with pytest.raises(UnknownNameError, match="weka"):
        ask(Answers(""), model="weka")
