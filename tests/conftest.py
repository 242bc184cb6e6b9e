"""A tiny end-to-end setting for tests of whole workflows: the toy corridor, simulated models, no Java."""

import gc
import os
import tempfile
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the commands do; equal weights need equal numbers of threads
os.environ.setdefault(
    "MTROUTER_RL_STATE", tempfile.mkdtemp(prefix="mtrouter-rl-state-")
)  # no test books in the user's ledger

from mtrouter_rl.cards import list_cards, load_agent_card
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.ope import logged_turns
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import CollectRequest, collect_dataset, load_agent


def pytest_collection_finish():
    """What was imported and collected stays to the end: the garbage collector leaves it out, and walks old objects seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 500)


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


@pytest.fixture(scope="session", autouse=True)
def quickly_judged():
    """Networks that tell what was due go through the log twice: roll-outs in a model of it are rough, and cost a second."""

    def hasty_card(name: str):
        card = load_agent_card(name)
        return card.model_copy(update={"parameters": card.parameters | {"max_passes": 2}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logged_turns, "load_agent_card", hasty_card)
        yield


@pytest.fixture
def tiny_agent():
    """Makes an agent card whose training takes a second."""

    def make(name: str):
        card = load_agent(name)
        small = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32, "n_trees": 3}
        known = {key: value for key, value in small.items() if key in card.parameters}
        return card.model_copy(update={"parameters": card.parameters | known})

    return make


@pytest.fixture(scope="session")
def corridor_variant(tmp_path_factory):
    """Makes the card of a corridor of another name, with other tasks, limits and reward; gives its path."""
    folder = tmp_path_factory.mktemp("cards")

    def make(name: str, *, pool: dict[str, object] | None = None, **changes: object) -> Path:
        card = yaml.safe_load(list_cards("envs")["corridor"].read_text(encoding="utf-8"))
        card |= {
            "name": name,
            "train_tasks": {"near": 20, "far": 20},
            "ood_tasks": {},
            "topics": {"near": "corridor", "far": "corridor"},
            "settings": {"obstacles": {"near": 2, "far": 5}},
            "limits": {"max_turns": 30, "budget_usd": 1.0, "max_output_tokens": 512},
            "reward": {"cost_weight": 0.3, "cost_unit_usd": 0.02},
        }
        if pool is not None:
            (folder / f"{name}-pool.yaml").write_text(yaml.safe_dump(pool))
            card["pool"] = str(folder / f"{name}-pool.yaml")
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(card | changes))
        return path

    return make


@pytest.fixture(scope="session")
def hallway_config(corridor_variant):
    """A second environment with the models of the corridor."""
    return resolve_env(corridor_variant("hallway"))


@pytest.fixture(scope="session")
def hallway_log(tmp_path_factory, hallway_config) -> Path:
    """A uniform log of 60 episodes of it."""
    folder = tmp_path_factory.mktemp("hallway") / "uniform"
    with RolloutPool(hallway_config, n_workers=1) as pool:
        collect_dataset(pool, CollectRequest(policy="uniform", n_episodes=60, seed=0, out=folder), show_progress=False)
    return folder
