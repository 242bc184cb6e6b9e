"""A pool behind the double plays the episodes that it plays in one process, and every bill finds its way into the log."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.pools.spend import SpendPlan, summary_of
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedRouter
from mtrouter_rl.testing.fake_llm import FAULT_KINDS, FakeLLM, FakeSettings, FaultPlan, remote_twin, write_twin
from mtrouter_rl.testing.fake_llm.conversation import ChatRequest, RefusedError
from mtrouter_rl.testing.fake_llm.reconcile import reconcile
from mtrouter_rl.testing.fake_llm.simulated import SimulatedAnswers

EXAMPLES = Path(__file__).parents[3] / "examples" / "cards"


def played(dataset):
    """What was done, paid and scored, episode by episode."""
    return [
        [(t.model, t.action_text, t.observation_text, t.usage, t.cost_usd, t.utility_gain) for t in episode.turns]
        for episode in dataset.episodes
    ]


@pytest.mark.parametrize(("stream", "form"), [(False, "plain"), (True, "padded")])
def test_episodes_over_the_protocol_are_those_of_the_simulated_pool(corridor_config, collected, stream, form):
    own = collected(corridor_config, "own")
    with FakeLLM(FakeSettings(env=corridor_config, form=form, n_copies=2)) as fake:
        remote = collected(corridor_config, "remote", base_url=fake.base_url, stream=stream)
    assert played(remote) == played(own)
    assert fake.ledger.billed_usd == pytest.approx(sum(episode.cost_usd for episode in remote.episodes), abs=1e-12)
    assert fake.ledger.n_requests == sum(len(episode.turns) for episode in remote.episodes)


def in_world(config, **settings):
    """The environment with a simulated pool of these settings."""
    backend = config.pool.backend
    changed = backend.model_copy(update={"settings": backend.settings | settings})
    return dataclasses.replace(config, pool=config.pool.model_copy(update={"backend": changed}))


@pytest.mark.parametrize(
    "settings", [{"tired_by_tokens": 2.0, "tired_by_others": 0.5}, {"together": 0.8, "task_spread": 1.0}]
)
def test_worlds_over_the_protocol_are_those_of_the_simulated_pool(corridor_config, collected, settings):
    """Also where a model gets worse by what others did before: the double remembers whose calls failed."""
    config = in_world(corridor_config, **settings)
    own = collected(config, "own")
    with FakeLLM(FakeSettings(env=config, n_copies=1)) as fake:
        remote = collected(config, "remote", base_url=fake.base_url)
    assert played(remote) == played(own)
    assert played(own) != played(collected(corridor_config, "plain"))


def test_a_simulated_outage_is_a_503_over_the_protocol(corridor_config):
    config = in_world(corridor_config, outages={"start": 0.5, "turns": 2})
    answers = SimulatedAnswers(config, n_copies=1)
    codes = []
    for seed in range(30):
        body = {"model": "large", "max_tokens": 50, "messages": [{"role": "user", "content": "go"}]}
        request = ChatRequest.read(json.dumps(body).encode())
        try:
            answers.answer(request, f"short|0|{seed}")
        except RefusedError as refused:
            codes.append(refused.status)
    answers.close()
    assert 5 < len(codes) < 25
    assert set(codes) == {503}


@pytest.mark.java
def test_scienceworld_over_the_protocol_is_scienceworld(collected):
    config = resolve_env("scienceworld", max_turns=8)
    own = collected(config, "own", n_episodes=3)
    with FakeLLM(FakeSettings(env=config, form="padded", n_copies=1)) as fake:
        remote = collected(config, "remote", base_url=fake.base_url, n_episodes=3)
    assert played(remote) == played(own)
    assert fake.ledger.billed_usd == pytest.approx(sum(episode.cost_usd for episode in remote.episodes), abs=1e-12)


def test_the_example_of_a_talking_environment_is_played_in_fenced_blocks(corridor_config):
    talk = resolve_env(str(EXAMPLES / "corridor-talk.yaml"))
    with FakeLLM(FakeSettings(env=corridor_config, form="padded")) as fake:
        config = dataclasses.replace(talk, pool=remote_twin(corridor_config.pool, fake.base_url))
        names = config.pool.model_names
        best = ScriptedRouter(name="best", model_names=names, decide=lambda _: [0.0, 0.0, 1.0])
        env = build_env(config)
        specs = sample_specs(config.card, "train", n_episodes=8, seed=0)
        episodes = [run_episode(env, best, spec).episode for spec in specs]
    assert all(one.status == "completed" for one in episodes)
    assert sum(one.utility for one in episodes) > 4
    assert all("```" not in turn.action_text for one in episodes for turn in one.turns)


def test_with_faults_the_log_is_whole_and_agrees_with_the_ledger_of_the_double(corridor_config, collected, tmp_path):
    own = collected(corridor_config, "own", n_episodes=15)
    shares = FaultPlan.shares_of(["all=0.3"])
    faults = FaultPlan(shares=shares, seed=1, retry_after_s=0.01, timeout_s=0.05, drip_s=0.02)
    plan = SpendPlan(file=str(tmp_path / "spend.sqlite"), run="here")
    with FakeLLM(FakeSettings(env=corridor_config, form="padded", faults=faults)) as fake, plan.in_force():
        remote = collected(
            corridor_config, "remote", base_url=fake.base_url, n_episodes=15, usage_estimate="token_counter"
        )
    met = {entry.fault for entry in fake.ledger.entries} - {""}
    assert len(met) >= len(FAULT_KINDS) - 2, "the seed should meet nearly all kinds"
    assert [one.status for one in remote.episodes] == ["completed"] * 15
    assert [[t.action_text for t in e.turns] for e in remote.episodes] == [
        [t.action_text for t in e.turns] for e in own.episodes
    ]
    assert [one.utility for one in remote.episodes] == [one.utility for one in own.episodes]
    spent = summary_of(plan)
    assert spent.booked_usd == pytest.approx(sum(one.cost_usd for one in remote.episodes), abs=1e-9)
    assert spent.n_tries == fake.ledger.n_requests
    books = reconcile(fake.ledger.entries, plan)
    assert books.problems == ()
    assert books.n_estimated > 0
    assert books.known_usd + books.estimated_usd == pytest.approx(spent.booked_usd, abs=1e-9)
    assert books.estimated_billed_usd <= books.estimated_usd
    assert abs(books.billed_usd - spent.booked_usd) < 0.01, "to the cent"


def test_a_switch_after_signed_thinking_is_never_refused(corridor_config, collected):
    faults = FaultPlan(shares={"foreign_thinking": 0.5})
    with FakeLLM(FakeSettings(env=corridor_config, faults=faults)) as fake:
        remote = collected(corridor_config, "remote", base_url=fake.base_url, n_episodes=4)
    kinds = {entry.fault for entry in fake.ledger.entries}
    assert "foreign_thinking" in kinds
    assert "refused" not in kinds
    assert all(one.status == "completed" for one in remote.episodes)


def test_no_bill_is_lost_when_the_collector_is_killed(corridor_config, tmp_path):
    card, ledger, out = tmp_path / "pool.yaml", tmp_path / "spend.sqlite", tmp_path / "log"
    code = "import sys; from mtrouter_rl.cli import main; sys.exit(main())"
    with FakeLLM(FakeSettings(env=corridor_config, latency_s=0.02)) as fake:
        write_twin(card, corridor_config.pool, fake.base_url)
        words = f"collect --env corridor --pool {card} --policy uniform --episodes 40 --workers 1 --out {out} --yes"
        running = subprocess.Popen([sys.executable, "-c", code, *words.split(), "--spend-ledger", str(ledger)])
        while fake.ledger.n_requests < 12 and running.poll() is None:
            time.sleep(0.005)
        running.kill()
        assert running.wait() == -signal.SIGKILL
    books = reconcile(fake.ledger.entries, SpendPlan(file=str(ledger), run=str(out.resolve())))
    assert books.problems == ()
    assert books.n_requests >= 12
    assert books.n_unknown <= 1, "all but the call that was under way when it was killed"
    assert books.known_usd + books.unknown_billed_usd == pytest.approx(books.billed_usd)
