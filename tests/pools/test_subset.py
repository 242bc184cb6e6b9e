import dataclasses

import pytest

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.pool import BackendCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from mtrouter_rl.pools.subset import pool_without
from mtrouter_rl.rollout import run_episode


@pytest.fixture
def config():
    return resolve_env("corridor")


def play(config, policy):
    """Episodes of a policy on test, without what says how large the pool is."""
    env, router = build_env(config, split="test"), RouterRef.of(policy)(config)
    specs = evaluation_specs(config.card, "test", 2)
    episodes = [run_episode(env, router, spec).episode for spec in specs]
    return [
        dataclasses.replace(
            episode, turns=tuple(dataclasses.replace(turn, action_mask=(), warm=()) for turn in episode.turns)
        )
        for episode in episodes
    ]


@pytest.mark.parametrize("gone", ["small", "middle", "large"])
def test_the_others_play_as_they_do_in_the_whole_pool(config, gone):
    rest = dataclasses.replace(config, pool=pool_without(config.pool, gone))
    assert rest.pool.name == f"corridor-three-without-{gone}"
    assert gone not in rest.pool.backend.settings["models"]
    assert gone in config.pool.backend.settings["models"]
    for name in rest.pool.model_names:
        assert rest.pool.model(name) == config.pool.model(name)
        assert play(rest, f"single:{name}") == play(config, f"single:{name}")


def test_settings_without_an_entry_for_every_model_stay(config):
    backend = BackendCard(kind="other", settings={"url": "x"})
    pool = config.pool.model_copy(update={"backend": backend})
    assert pool_without(pool, "small").backend == backend


def test_a_model_that_cannot_leave(config):
    with pytest.raises(UnknownNameError, match="unknown model of pool 'corridor-three' 'larg'; did you mean 'large'"):
        pool_without(config.pool, "larg")
    alone = pool_without(pool_without(config.pool, "small"), "middle")
    with pytest.raises(InvalidConfigError, match="'large' is its only model, so it cannot leave"):
        pool_without(alone, "large")
