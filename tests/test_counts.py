"""What the hot paths do, counted: calls, texts, bytes, listings. Counts are the same on every machine, times are not.

A number is pinned where it follows from what has to be done, and bounded a little above what was measured where it does not.
When a test fails, something became slower. When the change is wanted, change the number and say why.
"""

import dataclasses
import functools
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import build_env
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedRouter
from mtrouter_rl.transitions.arrays import Transitions, make_transitions
from mtrouter_rl.transitions.mapped import FeatureWriter, MappedObservations, features_on_disk
from mtrouter_rl.workflows.training import TrainRequest, load_agent, train_router

N_EPISODES = 20


class CountingEncoder:
    """An encoder that keeps every batch of texts that it was given."""

    name, dim = "counting", 8

    def __init__(self):
        self.batches = []

    def encode(self, texts):
        self.batches.append(list(texts))
        return np.array([[len(text) % 7 + 1] * self.dim for text in texts], dtype=np.float32)

    @property
    def texts(self):
        return [text for batch in self.batches for text in batch]


def calls_of(work):
    """Runs some work and counts every function of Python and of C that it calls, by name."""
    counts: Counter[str] = Counter()

    def profile(frame, event, argument):
        if event == "call":
            counts[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts[f"c:{argument.__name__}"] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return counts


def n_python(counts):
    return sum(number for name, number in counts.items() if not name.startswith("c:"))


def n_listings(counts):
    return sum(counts[f"c:{name}"] for name in ("listdir", "scandir"))


@pytest.fixture
def features(corridor_config):
    encoder = CountingEncoder()
    return encoder, HistoryFeatures(encoder=CachedEncoder(encoder, None), pool=corridor_config.pool)


@pytest.fixture(scope="module")
def log(corridor_log):
    dataset = Dataset.load(corridor_log)
    return dataclasses.replace(dataset, episodes=dataset.episodes[:60])


def first_episodes(log, n):
    return dataclasses.replace(log, episodes=log.episodes[:n])


def play(config, decide):
    """Episodes of a router, and what was called while they were played."""
    router = ScriptedRouter(name="counted", model_names=config.pool.model_names, decide=decide)
    specs = sample_specs(config.card, "train", n_episodes=N_EPISODES, seed=0)
    env, played = build_env(config), []
    counts = calls_of(lambda: played.extend(run_episode(env, router, spec).episode for spec in specs))
    return played, counts


def uniform(observation):
    return observation["action_mask"] / observation["action_mask"].sum()


# --- episodes


def test_an_episode_takes_one_reset_and_one_step_of_the_engine_a_turn(corridor_config):
    played, counts = play(corridor_config, uniform)
    n_turns = sum(len(episode.turns) for episode in played)
    assert n_turns >= 100
    assert counts["CorridorTask.reset"] == N_EPISODES
    assert counts["CorridorTask.step"] == n_turns
    assert counts["RoutingEnv.step"] == n_turns
    assert counts["ScriptedRouter.action_probabilities"] == n_turns
    assert counts["CorridorTask.expert_action"] <= 2 * n_turns + N_EPISODES
    assert n_python(counts) <= 280 * n_turns, "calls of Python a turn"


def test_a_live_decision_encodes_what_is_new_in_one_call(corridor_config, features):
    encoder, history = features
    n_of_turn = []

    def decide(observation):
        before = len(encoder.batches)
        history.of_observations([observation])
        n_of_turn.append(len(encoder.batches) - before)
        return uniform(observation)

    play(corridor_config, decide)
    assert max(n_of_turn) == 1
    assert len(encoder.texts) == len(set(encoder.texts)), "a text was encoded again"


def test_every_decision_takes_in_one_turn_however_many_there_were(corridor_config, features):
    _, history = features
    of_turn = {}

    def decide(observation):
        # As a router does: the state of the turn before is known, and one turn is taken in.
        counts = calls_of(lambda: history.of_observations([observation]))
        of_turn.setdefault(int(observation["turn"]), []).append(counts["HistoryFeatures._update"])
        return np.eye(3)[0] if observation["action_mask"][0] else uniform(observation)

    router = ScriptedRouter(name="counted", model_names=corridor_config.pool.model_names, decide=decide)
    env = build_env(corridor_config)
    for spec in sample_specs(corridor_config.card, "train", n_episodes=5, seed=0):
        run_episode(env, router, spec)
    assert max(of_turn) >= 10
    assert set(of_turn.pop(0)) == {0}
    assert {number for numbers in of_turn.values() for number in numbers} == {1}


# --- encoding and laying out a log


def test_a_log_is_encoded_once_each_distinct_text_in_one_batch(corridor_config, features, log):
    encoder, history = features
    lay_out = functools.partial(make_transitions, log, history, reward=corridor_config.reward, gamma=1.0)
    lay_out()
    assert len(encoder.batches) == 1
    assert sorted(encoder.texts) == sorted(set(history.texts_of(log.completed)))
    lay_out()
    assert len(encoder.batches) == 1, "the cache knows all of them"


def test_bytes_of_a_turn_in_memory(corridor_config, features, log):
    _, history = features
    transitions = make_transitions(log, history, reward=corridor_config.reward, gamma=1.0)
    n_turns, n_rows = len(transitions), len(transitions.observations)
    assert transitions.observations.nbytes == 4 * n_rows * (history.dim + transitions.n_models)
    beside = sum(getattr(transitions, name).nbytes for name in Transitions.PER_TRANSITION)
    assert beside == (4 * 8 + 5 * 4) * n_turns


def test_bytes_of_a_turn_on_disk(corridor_log, tmp_path, features, log):
    _, history = features
    folder = tmp_path / "log"
    writer = DatasetWriter(folder, log.info)
    writer.write_shard(0, [TracedEpisode(episode=episode) for episode in log.episodes])
    n_turns = sum(len(episode.turns) for episode in log.episodes)
    assert sum(path.stat().st_size for path in folder.glob("*.parquet")) <= 40_000
    files = features_on_disk(Dataset.load(folder, resident_turns=1), history)
    assert files.n_rows == n_turns + len(log.episodes)
    n_texts = len(set(history.texts_of(log.completed)))
    own = history.dim - 3 * history.encoder.dim
    stored = sum(path.stat().st_size for path in folder.rglob("*.[fi]32"))
    assert stored == 4 * (files.n_rows * (own + 3) + (n_texts + 1) * history.encoder.dim)


@pytest.mark.parametrize("n", [10, 60])
def test_calls_of_python_for_a_turn_that_is_laid_out(corridor_config, features, log, n):
    _, history = features
    some = first_episodes(log, n)
    counts = calls_of(lambda: make_transitions(some, history, reward=corridor_config.reward, gamma=1.0))
    assert counts["HistoryFeatures._update"] == some.n_turns
    assert n_python(counts) <= 75 * some.n_turns


def test_a_batch_from_disk_takes_no_more_memory_in_a_large_log(tmp_path, log, features):
    """Rows of a batch are found by their numbers, never by going through all rows."""
    writer = FeatureWriter(tmp_path, features[1], log_digest="counts")
    files = writer.write([first_episodes(log, N_EPISODES).completed])

    def peak_of(n_times):
        allowed = np.ones((n_times * files.n_rows, 3), dtype=np.uint8)
        observations = MappedObservations([files] * n_times, allowed, np.zeros(0, dtype=np.float32))
        rows = np.arange(16)
        observations[rows]
        tracemalloc.start()
        try:
            observations[rows]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_of(1000) < 1.5 * peak_of(2)


# --- writing


def test_no_shard_lists_its_folder(tmp_path, log):
    writer = DatasetWriter(tmp_path / "log", log.info)
    shards = [[TracedEpisode(episode=episode)] for episode in log.episodes[:30]]

    def write():
        for index, shard in enumerate(shards):
            writer.write_shard(index, shard)

    assert n_listings(calls_of(write)) == 0
    assert len(list((tmp_path / "log").glob("*.parquet"))) == 3 * len(shards)


# --- training


@pytest.fixture(scope="module")
def calls_of_training(corridor_config, corridor_log, tmp_path_factory):
    """What a training of 3 iterations calls, by size of a mini-batch and steps of an iteration."""
    card = load_agent("fitted-q")

    def train(batch_size, n_steps):
        changed = {"batch_size": batch_size, "steps_per_iteration": n_steps, "n_iterations": 3}
        request = TrainRequest(
            agent=card.model_copy(update={"parameters": card.parameters | changed}),
            config=corridor_config,
            seed=0,
            out=tmp_path_factory.mktemp("router") / "router",
            dataset=corridor_log,
            encoder="hashing",
        )
        return functools.partial(train_router, request, show_progress=False)

    train(16, 1)()  # what is imported and cached at the first call is no part of the counts
    return lambda batch_size, n_steps: calls_of(train(batch_size, n_steps))


def test_a_step_of_training_calls_nothing_for_each_transition(calls_of_training):
    small, large = calls_of_training(8, 4), calls_of_training(128, 4)
    more = {name: (small[name], large[name]) for name in large if large[name] > small[name] + 30}
    assert not more, "these are called more often for a larger batch"


def test_calls_of_python_for_a_step_of_training(calls_of_training):
    few, many = calls_of_training(8, 4), calls_of_training(8, 14)
    of_step = {name: (many[name] - few[name]) / 30 for name in many}
    assert of_step["Transitions.sample"] == of_step["Transitions.batch"] == 1
    assert sum(number for name, number in of_step.items() if not name.startswith("c:")) <= 650
    assert of_step.get("c:listdir", 0) == of_step.get("c:open", 0) == 0
