"""The shipped corridor cards as data that a test may change."""

import copy

import pytest
import yaml

from mtrouter_rl.cards import EnvCard, card_root, load_env_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs import corridor
from mtrouter_rl.pools.simulated.backend import make_backend

_POOL = yaml.safe_load((card_root() / "envs/pools/corridor-three.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def pool_data():
    """The corridor's pool card as plain data; change it freely."""
    return copy.deepcopy(_POOL)


@pytest.fixture
def env_card() -> EnvCard:
    return load_env_card("corridor")


@pytest.fixture
def corridor_task(env_card):
    return corridor.make_task(env_card)


@pytest.fixture
def backend_of(env_card):
    """Function (pool data) -> simulated backend."""

    def make(data):
        return make_backend(PoolCard.model_validate(data), env_card)

    return make
