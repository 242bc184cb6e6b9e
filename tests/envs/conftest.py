"""Small pools and environments around scripted tasks and backends; Java for the tests that are marked so."""

import datetime

import pytest

from mtrouter_rl.cards import RewardCard, load_env_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.envs.scienceworld.jvm import find_java
from mtrouter_rl.errors import MissingDependencyError
from mtrouter_rl.protocols import TaskStep
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.testing import ScriptedBackend, ScriptedTask, plain_reply

SPEC = EpisodeSpec(task="script", variation=0, seed=0, split="train")


def make_pool(*models, counter=None, cache=None):
    """Pool of (name, prices, context, output limit); one character is one token."""
    return PoolCard.model_validate(
        {
            "name": "scripted",
            "description": "made up",
            "models": [
                {
                    "name": name,
                    "prices": prices,
                    "context_tokens": context,
                    "max_output_tokens": output,
                    "knowledge_cutoff": datetime.date(2025, 1, 1),
                }
                for name, prices, context, output in models
            ],
            "token_counter": counter or {"kind": "characters", "characters_per_token": 1, "tokens_per_message": 0},
            "prompt_cache": cache,
            "backend": {"kind": "simulated"},
        }
    )


TWO_MODELS = (
    ("cheap", {"input": 1.0, "cached_input": 1.0, "output": 2.0}, 100_000, 100),
    ("dear", {"input": 10.0, "cached_input": 1.0, "cache_write": 20.0, "output": 100.0}, 100_000, 50),
)


@pytest.fixture
def pool_of():
    return make_pool


@pytest.fixture
def env_of():
    """Function that makes a `RoutingEnv` around stand-ins; every part can be replaced."""

    def make(
        *,
        task=None,
        pool=None,
        answer=plain_reply,
        max_turns=5,
        budget_usd=1.0,
        max_output_tokens=1000,
        cost_weight=0.5,
        cost_unit_usd=0.01,
        system_prompt="",
        **options,
    ):
        pool = pool or make_pool(*TWO_MODELS)
        return RoutingEnv(
            task=task or ScriptedTask([TaskStep(observation="ok", score=0.0)]),
            backend=options.pop("backend", None) or ScriptedBackend(pool=pool, answer=answer),
            pool=pool,
            specs=options.pop("specs", [SPEC]),
            system_prompt=system_prompt,
            limits=EpisodeLimits(max_turns=max_turns, budget_usd=budget_usd, max_output_tokens=max_output_tokens),
            reward=RewardCard(cost_weight=cost_weight, cost_unit_usd=cost_unit_usd),
            **options,
        )

    return make


@pytest.fixture(scope="session")
def java():
    """Path of a Java runtime; tests that need one are skipped without."""
    try:
        return find_java()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def science_task(java):
    """One ScienceWorld game for all tests of a file."""
    from mtrouter_rl.envs.scienceworld.task import make_task

    with make_task(load_env_card("scienceworld")) as task:
        yield task
