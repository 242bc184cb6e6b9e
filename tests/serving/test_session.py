"""A routed conversation keeps its account, and its log is a dataset to learn from."""

import asyncio
import json
import multiprocessing

import numpy as np
import pytest

from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import CallOrderError, InvalidConfigError, NoModelAllowedError, UnknownNameError, UsageError
from mtrouter_rl.protocols import PaidDecision
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.serving import LiveRouter, RoutingSession
from tests.cases.call_rows import POOL
from tests.serving.test_live import Fixed, cached_router, deployment

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
TOOL = {"id": "c", "type": "function", "function": {"name": "ls", "arguments": "{}"}}


class Drawing(Fixed):
    """Draws uniformly from what is allowed."""

    def action_probabilities(self, observations):
        allowed = observations[0]["action_mask"] / observations[0]["action_mask"].sum()
        return allowed[None, :]


def live(kind=Fixed, **changes):
    return LiveRouter(kind(("small", "big"), [0.2, 0.7]), POOL, deployment(**changes), seed=1)


def play(session, n_calls=3, score=1.0):
    """An agent's loop: every call is answered by a tool call, every tool gives an error."""
    messages = [{"role": "system", "content": "You fix."}, {"role": "user", "content": "Fix it."}]
    for _ in range(n_calls):
        session.choose(messages)
        answer = {"role": "assistant", "content": None, "tool_calls": [TOOL]}
        session.record(USAGE, answer=answer)
        messages += [answer, {"role": "tool", "tool_call_id": "c", "content": "error: exit code 1"}]
    session.finish(score)
    return messages


def imported(path, tmp_path, **options):
    request = ImportRequest(format="openai-jsonl", paths=(path,), pool=POOL, out=tmp_path / "out", options=options)
    report = import_log(request, show_progress=False)
    assert report.n_rejected == 0, str(report)
    return Dataset.load(tmp_path / "out").episodes


def test_the_log_of_a_session_is_an_episode_with_exact_propensities(tmp_path):
    path = tmp_path / "log.jsonl"
    session = RoutingSession(live(Drawing), log=path, session_id="s1", task="fix", budget_usd=5.0, max_turns=9)
    play(session)
    (episode,) = imported(path, tmp_path, propensities="exact")
    assert (episode.episode_id, episode.task, episode.utility) == ("s1", "fix", 1.0)
    assert (episode.budget_usd, episode.max_turns) == (5.0, 9)
    assert list(episode.models) == session.models
    assert [turn.propensity for turn in episode.turns] == [0.5] * 3
    assert episode.turns[0].usage == TokenUsage(n_fresh=600, n_cached=400, n_output=100)
    assert episode.cost_usd == pytest.approx(session.spent_usd)
    assert [turn.action_text for turn in episode.turns] == ['[{"name": "ls", "arguments": {}}]'] * 3
    assert [turn.observation_text for turn in episode.turns] == [*["error: exit code 1"] * 2, ""]


def test_money_is_counted_and_a_budget_rules_models_out(tmp_path):
    session = RoutingSession(live(), budget_usd=0.0125, log=tmp_path / "log.jsonl")
    messages = [{"role": "user", "content": "Fix it."}]
    assert session.choose(messages, max_output_tokens=10).model == "big"
    cost = session.record(USAGE, answer="tried")
    assert cost == session.spent_usd == pytest.approx((600 * 10 + 400 * 1 + 100 * 20) / 1e6)
    messages += [{"role": "assistant", "content": "tried"}, {"role": "user", "content": "no"}]
    assert session.choose(messages, max_output_tokens=1000).model == "small", "the dear one may cost more than is left"
    session.record(USAGE, answer="tried")
    messages += [{"role": "assistant", "content": "tried"}, {"role": "user", "content": "no"}]
    with pytest.raises(NoModelAllowedError, match="USD are left"):
        session.choose(messages, max_output_tokens=8000)
    session.finish(0.0, status="truncated")
    (episode,) = imported(tmp_path / "log.jsonl", tmp_path)
    assert episode.turns[1].action_mask == (True, False)
    assert episode.turns[-1].truncated


def test_calls_out_of_order_are_refused():
    session = RoutingSession(live())
    messages = [{"role": "user", "content": "Fix it."}]
    with pytest.raises(CallOrderError, match="nothing was decided"):
        session.record(USAGE, answer="x")
    session.choose(messages)
    with pytest.raises(CallOrderError, match=r"turn 0 was decided and not recorded; call record"):
        session.choose(messages)
    with pytest.raises(CallOrderError, match="record or skip it"):
        session.finish(1.0)
    session.skip()
    session.choose(messages)
    with pytest.raises(UnknownNameError, match="'bg'; did you mean 'big'"):
        session.record(USAGE, answer="x", served_model="bg")
    with pytest.raises(UsageError):
        session.record({"prompt_tokens": -1, "completion_tokens": 1}, answer="x")
    session.record(USAGE, answer="x", served_model="vendor/small")
    assert session.spent_usd == pytest.approx((600 * 1 + 400 * 0.1 + 100 * 2) / 1e6), "who answered is billed"
    with pytest.raises(InvalidConfigError, match=r"score is 42, must be from -1 to 1"):
        session.finish(42)
    session.finish()
    with pytest.raises(CallOrderError, match="is finished"):
        session.choose(messages)
    with pytest.raises(InvalidConfigError, match="budget_usd is 0"):
        RoutingSession(live(), budget_usd=0)


def test_an_agent_that_is_asynchronous():
    async def agent():
        session = RoutingSession(live())
        decision = await session.achoose([{"role": "user", "content": "Fix it."}])
        return decision.model, await session.arecord(USAGE, answer="done")

    model, cost = asyncio.run(agent())
    assert (model, cost > 0) == ("big", True)


def _many(path, number):
    for index in range(5):
        play(RoutingSession(live(), log=path, session_id=f"p{number}-{index}"), n_calls=4)


def test_processes_share_one_file_without_a_lost_or_mixed_line(tmp_path):
    path = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_many, args=(path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 3 * 5 * 5
    episodes = imported(path, tmp_path)
    assert sorted(len(episode.turns) for episode in episodes) == [4] * 15


def test_a_killed_agent_loses_no_recorded_call(tmp_path):
    path = tmp_path / "log.jsonl"
    session = RoutingSession(live(), log=path, session_id="s")
    session.choose([{"role": "user", "content": "Fix it."}])
    session.record(USAGE, answer="tried")
    del session  # nothing was finished
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["s/0"]


def test_a_session_knows_whose_prompt_cache_is_warm_until_it_cools():
    clock = [0.0]
    session = RoutingSession(cached_router([0.9, 0.1, 0.2]), now=lambda: clock[0])
    messages = [{"role": "user", "content": "x" * 1000}]
    assert session.choose(messages).cold_cache_usd == {"small": 0.0, "small-long": 0.0, "big": 0.0}
    session.record(USAGE, answer="tried")
    messages += [{"role": "assistant", "content": "tried"}, {"role": "user", "content": "no"}]
    clock[0] = 299.0
    warm = session.choose(messages)
    assert warm.cold_cache_usd["small-long"] == 0.0, "a variant shares the cache"
    assert warm.cold_cache_usd["big"] == pytest.approx(1000 * 8 / 1e6)
    session.skip()
    clock[0] = 301.0
    assert session.choose(messages).cold_cache_usd["big"] == 0.0


# --- routers that pay for their decisions


class Asking(Fixed):
    """Asks a model that names the dearest allowed one, for a dime."""

    def most_usd(self, observation):
        return 0.1

    def decide(self, observation):
        row = np.zeros(len(self.model_names))
        row[int(np.flatnonzero(observation["action_mask"])[-1])] = 1.0
        return PaidDecision(probabilities=row, cost_usd=0.1)

    def action_probabilities(self, observations):
        return np.array([[1.0, 0.0]])


def test_what_decisions_cost_is_spent_and_logged(tmp_path):
    path = tmp_path / "log.jsonl"
    session = RoutingSession(live(Asking), log=path, session_id="s1", budget_usd=5.0, max_turns=9)
    play(session, n_calls=2)
    (episode,) = imported(path, tmp_path, propensities="exact")
    assert session.models == ["big", "big"]
    assert [turn.router_cost_usd for turn in episode.turns] == [0.1, 0.1]
    assert episode.cost_usd == pytest.approx(session.spent_usd)
    assert session.spent_usd > 0.2


def test_a_skipped_decision_is_paid_and_logged_with_the_next_call(tmp_path):
    session = RoutingSession(live(Asking), log=tmp_path / "log.jsonl", session_id="s1", max_turns=9)
    messages = [{"role": "user", "content": "Fix it."}]
    decision = session.choose(messages)
    assert decision.cost_usd == 0.1
    assert decision.reason.endswith("a model was asked for 0.1 USD")
    session.skip()
    session.choose(messages)
    session.record(USAGE, answer="done")
    session.finish(1.0)
    (episode,) = imported(tmp_path / "log.jsonl", tmp_path)
    assert [turn.router_cost_usd for turn in episode.turns] == [0.2]
    assert episode.cost_usd == pytest.approx(session.spent_usd)


def test_a_decision_that_no_call_follows_is_told_at_the_end(caplog):
    session = RoutingSession(live(Asking), max_turns=9)
    session.choose([{"role": "user", "content": "Fix it."}])
    session.skip()
    session.finish()
    assert "0.100000 USD were spent on decisions that no call followed" in caplog.text


def test_nobody_is_asked_where_the_budget_does_not_hold_a_decision_and_a_call():
    router = live(Asking)
    messages = [{"role": "user", "content": "Fix it."}]
    free = router.choose(messages, budget_left_usd=0.1, max_output_tokens=10)
    assert (free.model, free.cost_usd) == ("small", 0.0)
    dear = router.choose(messages, budget_left_usd=0.2, max_output_tokens=10)
    assert (dear.model, dear.cost_usd) == ("big", 0.1)
    assert router.pays_for_decisions
    assert not live().pays_for_decisions
