"""Money and propensities over random pools, prices, caches, masks and behaviour policies: 2,000 episodes."""

import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrouter_rl.agents.rules.behavior_policies import parse_policy
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices, PromptCacheCard, TokenCounter
from mtrouter_rl.envs.routing import MONEY_TOLERANCE_USD, EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import NoModelAllowedError
from mtrouter_rl.protocols import Reply, TaskStep
from mtrouter_rl.records import EpisodeSpec, TokenUsage
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedBackend, ScriptedTask

prices = st.one_of(st.just(0.0), st.floats(1e-6, 1e4))


@st.composite
def pools(draw):
    def model(index):
        return ModelCard(
            name=f"m{index}",
            prices=Prices(
                input=draw(prices), cached_input=draw(prices), cache_write=draw(st.none() | prices), output=draw(prices)
            ),
            context_tokens=draw(st.integers(20, 4000)),
            max_output_tokens=draw(st.integers(1, 500)),
        )

    return PoolCard(
        name="drawn",
        models=tuple(model(index) for index in range(draw(st.integers(1, 4)))),
        token_counter=TokenCounter(kind=draw(st.sampled_from(["characters", "utf8_bytes"]))),
        prompt_cache=draw(
            st.none() | st.builds(PromptCacheCard, ttl_s=st.floats(0.1, 100), min_tokens=st.integers(0, 200))
        ),
    )


@st.composite
def policies(draw, pool):
    own = st.sampled_from(
        [
            "uniform",
            f"sticky:{draw(st.floats(0, 1)):.3f}",
            f"mixed:{draw(st.floats(0, 1)):.3f}",
            f"single:{pool.model_names[0]}",
        ]
    )
    text = draw(own)
    if draw(st.booleans()):
        text = f"epsilon-greedy:{draw(st.floats(0.01, 1)):.3f}:{text}"
    return text


def policy_of(text, pool):
    return parse_policy(text, pool=pool, load_router=lambda inner: policy_of(inner, pool))


@st.composite
def settings_of_an_episode(draw):
    pool = draw(pools())
    return pool, draw(policies(pool)), draw(st.floats(1e-9, 1.0)), draw(st.integers(1, 8)), draw(st.integers(0, 2**31))


def play(pool, policy, budget_usd, max_turns, seed):
    """An episode whose replies bill anything that the contract lets them, the dearest possible among it."""
    rng = np.random.default_rng(seed)

    def answer(call):
        n_output = int(rng.integers(0, call.max_output_tokens + 1)) if rng.random() < 0.7 else call.max_output_tokens
        parts = np.sort(rng.integers(0, call.n_prompt + 1, size=2))
        n_cached, n_written, n_fresh = int(parts[0]), int(parts[1] - parts[0]), int(call.n_prompt - parts[1])
        return Reply(
            text="x" * int(rng.integers(0, 60)),
            usage=TokenUsage(n_fresh=n_fresh, n_cached=n_cached, n_written=n_written, n_output=n_output),
            latency_s=float(rng.random() * 3),
            served_model=call.model,
        )

    spec = EpisodeSpec(task="script", variation=0, seed=seed, split="train")
    env = RoutingEnv(
        task=ScriptedTask([TaskStep(observation="ok", score=0.0)]),
        backend=ScriptedBackend(pool=pool, answer=answer),
        pool=pool,
        specs=[spec],
        system_prompt="system",
        limits=EpisodeLimits(max_turns=max_turns, budget_usd=budget_usd, max_output_tokens=400),
        reward=RewardCard(cost_weight=0.5, cost_unit_usd=0.01),
    )
    try:
        return run_episode(env, policy_of(policy, pool), spec)
    except NoModelAllowedError:
        return None


SLOW = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(settings_of_an_episode())
def test_no_episode_spends_more_than_its_budget(drawn):
    pool, _, budget_usd, max_turns, _ = drawn
    traced = play(*drawn)
    if traced is None:
        return
    episode, spent_usd = traced.episode, 0.0
    assert episode.status == "completed", episode.status_detail
    assert len(episode.turns) <= max_turns
    for turn in episode.turns:
        expected = pool.model(turn.served_model).prices.cost_usd(turn.usage)
        assert turn.cost_usd == expected >= 0
        spent_usd += turn.cost_usd
        assert spent_usd <= budget_usd + MONEY_TOLERANCE_USD
    assert math.isclose(episode.cost_usd, spent_usd, abs_tol=1e-12)


@SLOW
@given(settings_of_an_episode())
def test_every_propensity_is_that_of_the_chosen_model_among_the_allowed(drawn):
    pool, policy = drawn[:2]
    traced = play(*drawn)
    if traced is None:
        return
    for turn, row in zip(traced.episode.turns, traced.action_probabilities, strict=True):
        chosen = pool.index(turn.model)
        mask = np.array(turn.action_mask)
        assert mask[chosen]
        assert row.shape == (len(pool.models),)
        assert math.isclose(row.sum(), 1.0, abs_tol=1e-9)
        assert (row >= 0).all()
        assert not row[~mask].any()
        assert 0 < turn.propensity <= 1
        assert turn.propensity == row[chosen]
        if policy == "uniform":
            assert np.allclose(row[mask], 1 / mask.sum())
        if policy.startswith("epsilon-greedy:"):
            epsilon = float(policy.split(":")[1])
            assert (row[mask] >= epsilon / mask.sum() - 1e-9).all()
