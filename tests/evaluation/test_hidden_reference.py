import copy
import dataclasses

import numpy as np
import pytest
import yaml

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import card_root
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import CallOrderError, InvalidConfigError, UnknownNameError
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.evaluation.hidden_reference import REFERENCE_TEXTS, ReferenceRef
from mtrouter_rl.protocols import HiddenStatePolicy, Router, TaskStep
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.reporting.tables import format_table, results_table
from mtrouter_rl.rollout import RolloutPool, run_episode
from mtrouter_rl.testing import ScriptedBackend, ScriptedTask
from mtrouter_rl.testing.stand_ins import plain_reply
from mtrouter_rl.workflows import EvaluateRequest, evaluate_routers, present

POOL = yaml.safe_load((card_root() / "envs/pools/corridor-three.yaml").read_text(encoding="utf-8"))


def config_of(models, *, cost_weight, max_turns=None):
    """Corridor with a pool of these simulated models, at flat prices: `usd` a call."""
    data = copy.deepcopy(POOL)
    data["backend"]["settings"] |= {"difficulty": {}, "models": {}}
    data["models"], data["prompt_cache"] = [], None
    for name, (usd, simulated) in models.items():
        data["models"].append(
            {
                "name": name,
                "prices": {"input": 0, "cached_input": 0, "output": usd * 1e5},
                "context_tokens": 8000,
                "max_output_tokens": 2000,
                "knowledge_cutoff": "2025-01-01",
            }
        )
        tokens = {"output_tokens": {"median": 10, "sigma": 0, "per_second": 10}}
        data["backend"]["settings"]["models"][name] = {"stuck": 0.0, "failures": {"malformed": 1}} | tokens | simulated
    config = resolve_env("corridor", cost_weight=cost_weight, max_turns=max_turns)
    return dataclasses.replace(config, pool=PoolCard.model_validate(data))


def mean_return(config, text, *, n_seeds=12, split="train"):
    env, policy = build_env(config), Contestant.of(text, config, cache=None).ref(config)
    reward = config.reward
    episodes = [run_episode(env, policy, spec).episode for spec in evaluation_specs(config.card, split, n_seeds)]
    assert all(episode.status == "completed" for episode in episodes)
    return float(np.mean([reward.reward(episode.utility, episode.cost_usd) for episode in episodes]))


def test_planning_beats_the_likeliest_success_and_every_single_model_under_a_tight_turn_limit():
    """A cheap model that often fails and a dear one that hardly does: the cheap one while there is time, then the dear one."""
    models = {
        "cheap": (0.0001, {"ability": 0.0}),
        "dear": (0.0013, {"ability": 4.0}),
    }
    config = config_of(models, cost_weight=0.4, max_turns=7)
    returns = {text: mean_return(config, text) for text in (*REFERENCE_TEXTS, "uniform", "single:cheap", "single:dear")}
    best = returns.pop("reference:hidden")
    assert returns.pop("reference:believing") == best  # nobody is ever stuck
    assert returns.pop("reference:memoryless") == pytest.approx(best, abs=0.02)
    assert best > max(returns.values()) + 0.02, returns


def test_planning_avoids_the_model_that_may_lose_everything():
    """The likeliest success is not the best choice where its failures are fatal and there is time to try again."""
    bold = {"failures": {"malformed": 1, "fatal": 1e6}, "fatal_skills": ["walk", "operate", "think"]}
    models = {
        "bold": (0.0001, {"ability": 2.0, **bold}),
        "timid": (0.0001, {"ability": 0.5}),
    }
    config = config_of(models, cost_weight=0.0, max_turns=20)
    assert mean_return(config, "reference:hidden", n_seeds=3) == pytest.approx(1.0, abs=0.05)
    assert mean_return(config, "reference:likeliest", n_seeds=3) < 0.5


def test_without_complementarity_the_best_single_model_is_about_as_good():
    """One model is best at everything, nobody is stuck and money is no object: there is nothing to gain."""
    config = resolve_env("corridor", cost_weight=0.0)
    data = copy.deepcopy(POOL)
    data["backend"]["settings"]["complementarity"] = 0.0
    for simulated in data["backend"]["settings"]["models"].values():
        simulated["stuck"] = 0.0
    config = dataclasses.replace(config, pool=PoolCard.model_validate(data))
    singles = [mean_return(config, f"single:{name}", n_seeds=2) for name in config.pool.model_names]
    assert mean_return(config, "reference:hidden", n_seeds=2) == pytest.approx(max(singles), abs=0.02)


def test_not_seeing_who_is_stuck_costs_something_and_knowing_all_else_still_pays():
    """Two equal models, each stuck at a third of the sub-goals: after a failure it is the other one's turn."""
    models = {name: (0.0001, {"ability": 2.0, "stuck": 0.33}) for name in ("one", "other")}
    config = config_of(models, cost_weight=0.0, max_turns=8)
    references = ("reference:hidden", "reference:believing", "reference:memoryless", "reference:likeliest")
    texts = (*references, "uniform", "single:one")
    returns = {text: mean_return(config, text) for text in texts}
    assert returns["reference:hidden"] > returns["reference:believing"] + 0.02, returns
    assert returns["reference:believing"] > max(returns["uniform"], returns["single:one"]) + 0.02, returns
    assert returns["reference:memoryless"] == pytest.approx(returns["uniform"], abs=0.01)  # equal values: drawn alike


def test_belief_in_being_stuck_follows_bayes():
    config = config_of({"slow": (0.0001, {"ability": 0.0, "stuck": 0.2})}, cost_weight=0.0)
    env = build_env(config)
    env.reset(options={"spec": EpisodeSpec(task="middle", variation=0, seed=1, split="train")})
    n_failed, is_over, most = 0, False, 0
    while not is_over:
        state = env.hidden_state()
        expected = 0.2 / (0.2 + 0.8 * 0.5**n_failed)
        assert state.success[0, 0] == pytest.approx(0.5)
        assert state.believed_stuck[0, 0] == pytest.approx(expected)
        assert state.believed_stuck[1:, 0] == pytest.approx(0.2)
        assert state.often_stuck == pytest.approx([0.2])
        _, _, terminated, truncated, info = env.step(0)
        n_failed = n_failed + 1 if info["hidden"]["failure"] else 0
        most, is_over = max(most, n_failed), terminated or truncated
    assert most >= 2  # so that the rule was put to the test


# --- who sees what


def test_a_reference_is_no_router():
    config = resolve_env("corridor")
    for text in REFERENCE_TEXTS:
        policy = ReferenceRef.of(text, config)(config)
        assert isinstance(policy, HiddenStatePolicy)
        assert not isinstance(policy, Router)
        with pytest.raises(InvalidConfigError, match="is no router: it sees the simulator's hidden state"):
            resolve_router(text, config.pool)


def test_a_router_is_never_shown_the_hidden_state(monkeypatch):
    config = resolve_env("corridor")
    env = build_env(config)
    spec = EpisodeSpec(task="short", variation=0, seed=0, split="train")
    monkeypatch.setattr(env, "hidden_state", lambda: pytest.fail("a router was about to see the hidden state"))
    for text in ("uniform", "cheapest", "sticky:0.3", "single:large"):
        router = Contestant.of(text, config, cache=None).ref(config)
        assert not isinstance(router, HiddenStatePolicy)
        assert run_episode(env, router, spec).episode.status == "completed"


def test_what_is_seen_is_what_is_simulated():
    """Skills, probabilities and who is stuck of the state are those that the log of hidden information shows afterwards."""
    config = resolve_env("corridor")
    env = build_env(config)
    env.reset(options={"spec": EpisodeSpec(task="middle", variation=1, seed=7, split="train")})
    truncated = terminated = False
    while not (terminated or truncated):
        state = env.hidden_state()
        _, _, terminated, truncated, info = env.step(1)
        seen = info["hidden"]
        assert (state.actions[0], state.skills[0], state.topic) == (seen["expert_action"], seen["skill"], seen["topic"])
        assert state.success[0, 1] == pytest.approx(seen["success_probability"])
        assert state.stuck[0, 1] == seen["stuck"]
        assert sum(shares[0, 1] for shares in state.failures.values()) == pytest.approx(1.0)
        assert state.n_prompt_tokens == info["usage"].n_prompt
        assert state.n_cached_tokens[1] == info["usage"].n_cached
    assert state.is_whole_plan
    assert state.gains.sum() == pytest.approx(1 - state.utility)


def test_no_episode_no_hidden_state():
    with pytest.raises(CallOrderError, match="while no episode is running; call reset"):
        build_env(resolve_env("corridor")).hidden_state()


def test_an_endpoint_has_no_hidden_state():
    config = resolve_env("corridor")
    spec = EpisodeSpec(task="short", variation=0, seed=0, split="train")
    env = RoutingEnv(
        task=ScriptedTask([TaskStep(observation="", score=0.0)]),
        backend=ScriptedBackend(pool=config.pool, answer=plain_reply),
        pool=config.pool,
        specs=[spec],
        system_prompt="",
        limits=EpisodeLimits(max_turns=3, budget_usd=1.0, max_output_tokens=100),
        reward=config.reward,
    )
    env.reset(options={"spec": spec})
    with pytest.raises(InvalidConfigError, match="knows no hidden state; a reference policy"):
        env.hidden_state()


def test_a_pool_that_is_not_simulated_has_no_reference():
    config = resolve_env("corridor")
    backend = config.pool.backend.model_copy(update={"kind": "openai"})
    config = dataclasses.replace(config, pool=config.pool.model_copy(update={"backend": backend}))
    with pytest.raises(
        InvalidConfigError, match="sees the hidden state of simulated models, and pool 'corridor-three'"
    ):
        Contestant.of("reference:hidden", config, cache=None)


def test_an_unknown_reference():
    with pytest.raises(UnknownNameError, match="reference:hidden"):
        Contestant.of("reference:hiden", resolve_env("corridor"), cache=None)


# --- in an evaluation


def test_an_evaluation_shows_it_last_and_ranks_it_nowhere(tmp_path):
    config = resolve_env("corridor")
    routers = ("reference:hidden", "random", "single:middle", "single:large")
    with RolloutPool(config, n_workers=1) as pool:
        request = EvaluateRequest(routers=routers, split="test", n_seeds=1, out=tmp_path)
        results = evaluate_routers(pool, request, show_progress=False)
    rows = results.split_rows("test")
    assert [row.policy for row in rows][-1] == "hidden-state-reference"
    assert rows[-1].return_mean > max(row.return_mean for row in rows[:-1])
    assert "hidden-state-reference" not in results.roles.names
    assert all(index != len(rows) - 1 for index, _ in results_table(results, "test").best)
    assert "hidden-state-reference: no router, it sees the simulator's hidden state." in format_table(results, "test")
    assert "hidden-state-reference" in present(tmp_path, config, routers=routers).read_text(encoding="utf-8")
