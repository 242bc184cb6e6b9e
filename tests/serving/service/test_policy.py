"""Who chooses: exploration, canary share, shadow, fall-back. The logged probabilities are those that models were drawn with."""

import dataclasses
import json
import time
from collections import Counter

import numpy as np
import pytest

from mtrouter_rl.agents.loading import save_router
from mtrouter_rl.agents.rules.llm_router import LLMRouter
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.serving.live import LiveRouter
from mtrouter_rl.serving.service.policy import Chances, PolicySettings, draw
from mtrouter_rl.serving.service.run import build
from tests.cases.routing_toy import make_card, make_context
from tests.cases.served import TASK, chat, rows, served

BIG, SMALL = np.array([0.0, 1.0]), np.array([1.0, 0.0])


def drawn_many(n, *, canary, router, default, n_turns):
    """Logged probability of every sequence of models, and how often it came about."""
    settings = PolicySettings(canary=canary, default="small")
    rng = np.random.default_rng(0)
    logged, found = {}, Counter()
    for number in range(n):
        weight, sequence, propensity = settings.router_weight, (), 1.0
        for turn in range(n_turns):
            one = draw(
                Chances(router=router(turn, sequence), default=default(turn, sequence)),
                np.ones(2),
                arm=settings.arm_of(f"session {number}"),
                router_weight=weight,
                is_shadow=False,
                rng=rng,
            )
            weight, sequence, propensity = one.router_weight, (*sequence, one.model), propensity * one.propensity
        assert logged.setdefault(sequence, propensity) == pytest.approx(propensity)
        found[sequence] += 1
    return logged, found


def test_the_propensities_of_the_mixture_are_exact():
    """The product over the turns is the share of sessions in which the sequence comes about."""
    n = 20_000
    logged, found = drawn_many(
        n,
        canary=0.3,
        router=lambda turn, before: np.array([0.2, 0.8]) if turn else np.array([0.6, 0.4]),
        default=lambda turn, before: SMALL,
        n_turns=3,
    )
    assert sum(logged.values()) == pytest.approx(1.0)
    for sequence, probability in logged.items():
        assert found[sequence] / n == pytest.approx(probability, abs=4 * np.sqrt(probability / n))
    assert logged[0, 0, 0] == pytest.approx(0.7 + 0.3 * 0.6 * 0.2 * 0.2)


def test_once_the_default_would_not_have_done_it_the_session_is_the_routers():
    one = draw(
        Chances(router=BIG, default=SMALL), np.ones(2), arm="router", router_weight=0.1, is_shadow=False, rng=None
    )
    assert (one.model, one.propensity, one.router_weight) == (1, pytest.approx(0.1), 1.0)


def test_the_canary_share_is_that_of_the_sessions_and_depends_on_their_id_alone():
    settings = PolicySettings(canary=0.25, default="small")
    arms = [settings.arm_of(str(number)) for number in range(4000)]
    assert arms == [settings.arm_of(str(number)) for number in range(4000)]
    assert arms.count("router") / 4000 == pytest.approx(0.25, abs=0.03)


def facts(row):
    return json.loads(row["facts"])


def test_exploration(request_of, tmp_path):
    with served(request_of("single:small", explore=0.5)) as (address, _):
        for _ in range(12):
            assert chat(address, [TASK]).status_code == 200
    written = rows(tmp_path)
    assert {row["model"]: row["propensity"] for row in written} == {"small": 0.75, "big": 0.25}
    assert all(facts(row)["candidates"] == ["small", "big"] for row in written)


def test_shadow(request_of, tmp_path):
    policy = PolicySettings(is_shadow=True, default="big")
    with served(request_of("single:small", policy=policy)) as (address, _):
        answer = chat(address, [TASK])
    (row,) = rows(tmp_path)
    assert answer.headers["x-mtrouter-kind"] == row["kind"] == "shadow"
    assert (row["model"], row["propensity"]) == ("big", 1.0)
    assert facts(row)["router_probabilities"] == {"small": 1.0, "big": 0.0}


def test_canary(request_of, tmp_path):
    policy = PolicySettings(canary=0.5, default="big")
    with served(request_of("single:small", policy=policy)) as (address, _):
        for number in range(12):
            messages = [TASK]
            for _ in range(2):
                answer = chat(address, messages, headers={"x-mtrouter-session": f"s{number}"})
                messages = [*messages, answer.json()["choices"][0]["message"], {"role": "user", "content": "on"}]
    for row in rows(tmp_path):
        assert row["model"] == ("small" if row["kind"] == "router" else "big")
        assert row["propensity"] == (0.5 if row["turn"] == 0 else 1.0)
    assert {row["kind"] for row in rows(tmp_path)} == {"router", "default"}


def fails(self, observation):
    raise ZeroDivisionError("broken")


def is_late(self, observation):
    time.sleep(0.3)
    return np.array([1.0, 0.0]), None


@pytest.mark.parametrize(("weigh", "why"), [(fails, "failed: ZeroDivisionError"), (is_late, "within 0.05 s")])
def test_the_fall_back_answers_for_a_router_that_fails_or_is_late(request_of, tmp_path, monkeypatch, weigh, why):
    monkeypatch.setattr(LiveRouter, "weigh", weigh)
    policy = PolicySettings(fallback="big", decide_within_s=0.05)
    with served(request_of(policy=policy)) as (address, running):
        answer = chat(address, [TASK])
        metrics = running.service.metrics.text().decode()
    (row,) = rows(tmp_path)
    assert answer.status_code == 200
    assert (row["kind"], row["model"], row["propensity"]) == ("fallback", "big", 1.0)
    assert facts(row)["candidates"] == ["big"]
    assert why in facts(row)["reason"]
    assert "mtrouter_fallbacks_total 1.0" in metrics


def test_without_a_fall_back_a_router_that_fails_is_an_error(request_of, double, tmp_path, monkeypatch):
    monkeypatch.setattr(LiveRouter, "weigh", fails)
    with served(request_of()) as (address, _):
        answer = chat(address, [TASK])
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "router_failed")
    assert double.calls == []
    assert rows(tmp_path) == []


def test_a_shadow_that_fails_harms_nobody(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(LiveRouter, "weigh", fails)
    with served(request_of(policy=PolicySettings(is_shadow=True, default="big"))) as (address, _):
        assert chat(address, [TASK]).status_code == 200
    (row,) = rows(tmp_path)
    assert (row["kind"], row["model"]) == ("shadow", "big")
    assert "router_probabilities" not in facts(row)


BAD = [
    ({"canary": 1.5, "default": "big"}, "canary is 1.5, must be a share from 0 to 1"),
    ({"canary": 0.5}, "default is missing: the sessions outside the canary share 0.5 call a default model"),
    ({"is_shadow": True}, "default is missing: the shadow mode calls a default model"),
    ({"fallback": "bgi"}, "unknown model of pool 'two' 'bgi'; did you mean 'big'"),
    ({"decide_within_s": 0}, "decide_within_s is 0, must be above 0"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_that_do_not_fit(pool, settings, message):
    with pytest.raises(InvalidConfigError, match=message.replace("'", ".")):
        PolicySettings(**settings).check(pool)


def test_a_router_that_asks_a_model_is_refused(request_of, pool, tmp_path):
    card = make_card("llm_router", pool="local-llm", model="weak")
    save_router(
        LLMRouter.from_card(card).train(dataclasses.replace(make_context(None), pool=pool)), tmp_path / "asking"
    )
    with pytest.raises(InvalidConfigError, match=r"asks a model before every call.*use it in a RoutingSession"):
        build(request_of(str(tmp_path / "asking")))


def test_models_are_drawn_as_numpys_choice_draws_them():
    chances = np.array([0.1, 0.0, 0.6, 0.3])
    one, two = np.random.default_rng(5), np.random.default_rng(5)
    both = Chances(router=chances, default=chances)
    for _ in range(200):
        drawn = draw(both, np.ones(4), arm="router", router_weight=1.0, is_shadow=False, rng=one)
        assert drawn.model == two.choice(4, p=chances)
