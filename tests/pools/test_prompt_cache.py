import dataclasses

import pytest

from mtrouter_rl.cards.pool import PoolCard, PromptCacheCard
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.pools.prompt_cache import PromptCache
from mtrouter_rl.records import EpisodeSpec

TTL_S = 60.0


@pytest.fixture
def cache():
    return PromptCache(PromptCacheCard(ttl_s=TTL_S, min_tokens=100))


def test_cold_before_the_first_call(cache):
    assert cache.n_cached("a", n_prompt=1000, now_s=0.0) == 0
    assert not cache.is_warm("a", now_s=0.0)


def test_covers_the_prompt_of_the_last_call(cache):
    cache.record("a", n_prompt=500, now_s=0.0)
    assert cache.n_cached("a", n_prompt=800, now_s=1.0) == 500
    assert cache.is_warm("a", now_s=1.0)
    cache.record("a", n_prompt=800, now_s=1.0)
    assert cache.n_cached("a", n_prompt=900, now_s=2.0) == 800


def test_never_covers_more_than_the_prompt(cache):
    cache.record("a", n_prompt=500, now_s=0.0)
    assert cache.n_cached("a", n_prompt=300, now_s=1.0) == 300


def test_belongs_to_one_model(cache):
    cache.record("a", n_prompt=500, now_s=0.0)
    assert not cache.is_warm("b", now_s=1.0)
    assert cache.n_cached("b", n_prompt=800, now_s=1.0) == 0


def test_outlives_a_short_switch_and_not_a_long_one(cache):
    cache.record("a", n_prompt=500, now_s=0.0)
    cache.record("b", n_prompt=600, now_s=30.0)
    assert cache.is_warm("a", now_s=TTL_S)
    assert not cache.is_warm("a", now_s=TTL_S + 0.001)
    assert cache.n_cached("a", n_prompt=800, now_s=TTL_S + 0.001) == 0
    assert cache.is_warm("b", now_s=TTL_S + 0.001)


def test_every_call_renews_the_time_to_live(cache):
    for now_s in (0.0, 50.0, 100.0):
        cache.record("a", n_prompt=500, now_s=now_s)
    assert cache.is_warm("a", now_s=150.0)


def test_short_prompts_are_not_cached(cache):
    cache.record("a", n_prompt=99, now_s=0.0)
    assert not cache.is_warm("a", now_s=0.0)
    assert cache.n_cached("a", n_prompt=200, now_s=0.0) == 0
    cache.record("a", n_prompt=100, now_s=0.0)
    assert cache.n_cached("a", n_prompt=200, now_s=0.0) == 100


def test_without_a_card_always_cold():
    cache = PromptCache(None)
    cache.record("a", n_prompt=10_000, now_s=0.0)
    assert not cache.is_warm("a", now_s=0.0)
    assert cache.n_cached("a", n_prompt=10_000, now_s=0.0) == 0


def test_a_variant_finds_the_cache_of_its_base():
    cache = PromptCache(PromptCacheCard(ttl_s=TTL_S, min_tokens=100), {"a": "a", "a-high": "a", "b": "b"})
    cache.record("a-high", n_prompt=500, now_s=0.0)
    assert cache.n_cached("a", n_prompt=600, now_s=1.0) == 500
    assert cache.is_warm("a-high", now_s=1.0)
    assert not cache.is_warm("b", now_s=1.0)


def test_a_simulated_pool_may_have_variants_that_share_a_cache():
    corridor = resolve_env("corridor")
    card = corridor.pool.model_dump(mode="json")
    low = {**card["models"][2], "name": "large-low", "variant_of": "large", "max_output_tokens": 1000}
    settings = card["backend"]["settings"]
    settings["models"]["large-low"] = {**settings["models"]["large"], "ability": 3.5}
    pool = PoolCard.model_validate(card | {"models": [*card["models"], low]})
    env = build_env(dataclasses.replace(corridor, pool=pool))
    observation, _ = env.reset(options={"spec": EpisodeSpec(task="middle", variation=2, seed=4, split="train")})
    assert observation["warm"].tolist() == [0, 0, 0, 0]
    bills = []
    for model in ("large", "large-low", "middle"):
        observation, _, ended, _, info = env.step(pool.index(model))
        bills.append((info["usage"].n_cached, info["usage"].n_written))
        assert not ended
    (first_read, first_written), (second_read, _), (other_read, _) = bills
    assert (first_read, other_read) == (0, 0)
    assert second_read == first_written > 0
    assert observation["warm"].tolist() == [0, 1, 1, 1]
