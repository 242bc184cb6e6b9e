"""Collections of the corridor, in one process and over the protocol."""

import dataclasses

import pytest

from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.testing.fake_llm import remote_twin
from mtrouter_rl.workflows import CollectRequest, collect_dataset

QUICK = {"deadline_s": 20.0, "pause_s": 0.001}


@pytest.fixture
def collected(tmp_path):
    """Collects a log with an environment's own pool, or with its twin behind a double."""

    def collect(config, name, *, base_url=None, n_episodes=10, seed=3, **settings):
        if base_url is not None:
            config = dataclasses.replace(config, pool=remote_twin(config.pool, base_url, of_pool=QUICK, **settings))
        request = CollectRequest(policy="uniform", n_episodes=n_episodes, seed=seed, out=tmp_path / name)
        with RolloutPool(config, n_workers=1) as pool:
            return collect_dataset(pool, request, show_progress=False)

    return collect
