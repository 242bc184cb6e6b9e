"""A tiny end-to-end setting for tests of whole workflows: the toy corridor, simulated models, no Java."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the commands do; equal weights need equal numbers of threads

from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import CollectRequest, collect_dataset, load_agent


@pytest.fixture(scope="session")
def corridor_config():
    return resolve_env("corridor")


@pytest.fixture(scope="session")
def corridor_log(tmp_path_factory, corridor_config) -> Path:
    """A uniform log of 150 episodes."""
    folder = tmp_path_factory.mktemp("log") / "uniform"
    with RolloutPool(corridor_config, n_workers=1) as pool:
        collect_dataset(pool, CollectRequest(policy="uniform", n_episodes=150, seed=0, out=folder), show_progress=False)
    return folder


@pytest.fixture
def tiny_agent():
    """Makes an agent card whose training takes a second."""

    def make(name: str):
        card = load_agent(name)
        small = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32, "n_trees": 3}
        known = {key: value for key, value in small.items() if key in card.parameters}
        return card.model_copy(update={"parameters": card.parameters | known})

    return make
