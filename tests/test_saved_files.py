"""Files that version 0.1 wrote, before the code was laid out anew, are read as before."""

from pathlib import Path

import pytest

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import load_env_card
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.datasets.logged import logged_pool
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.evaluation.behavior_file import Behavior
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.ope.record import load_report
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import run_episode

OLD = Path(__file__).parent / "data" / "v0.1"


def test_a_dataset():
    dataset = Dataset.load(OLD / "log")
    assert (dataset.info.dataset_id, len(dataset.episodes)) == ("corridor-uniform-v1", 8)
    assert dataset.info.package_version == "0.1.0"
    assert sum(len(episode.turns) for episode in dataset.episodes) == 36


@pytest.mark.parametrize("name", ["tiny-q", "task-table", "cheap-first", "strongest"])
def test_a_router_acts(name):
    pool = logged_pool(Dataset.load(OLD / "log").info)
    router = resolve_router(str(OLD / "saved_routers" / name), pool)
    env = build_env(resolve_env("corridor"), split="test")
    task, variation = episode_specs(load_env_card("corridor"), "test")[0]
    spec = EpisodeSpec(task=task, variation=variation, seed=0, split="test")
    episode = run_episode(env, router, spec).episode
    assert episode.status == "completed"
    assert episode.turns


def test_a_router_plays_the_episodes_that_it_played_then():
    logged = Dataset.load(OLD / "episodes" / "tiny-q").episodes
    config = resolve_env("corridor")
    router = resolve_router(str(OLD / "saved_routers" / "tiny-q"), config.pool)
    env = build_env(config, split="test")
    for episode in logged:
        spec = EpisodeSpec(task=episode.task, variation=episode.variation, seed=episode.seed, split="test")
        assert run_episode(env, router, spec).episode.turns == episode.turns


def test_results():
    results = Results.load(OLD / "results.json")
    row = results.row("tiny-q", "test")
    assert row is not None
    assert row.n_episodes == 8
    assert row.score_ci95 is not None
    assert Behavior.load(OLD / "behavior.json").rows
    assert load_report(OLD / "ope.json").policies
