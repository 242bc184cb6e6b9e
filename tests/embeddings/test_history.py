"""History features: known answers, live equal to logged, nothing about the pool's order or size, constant work."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import SCALAR_NAMES, HistoryFeatures, HistoryFeaturesConfig
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, UnknownNameError

LENGTHS = [0, 1, 2, 5, 17, 30]


def block(features, rows, name):
    return rows[..., features.blocks[name]]


def scalar(features, rows, name):
    return block(features, rows, "scalars")[..., SCALAR_NAMES.index(name)]


@pytest.fixture
def worked(pool, scripted, episode_of):
    """A hand-worked episode of three turns, and its features with easy decays."""
    vectors = {
        "task": [1, 0, 0, 0],
        "start": [0, 1, 0, 0],
        "act": [0, 0, 1, 0],
        "other": [0, 0, 0, 1],
        "seen": [0.6, 0.8, 0, 0],
    }
    config = HistoryFeaturesConfig(
        text_decay=0.5, model_decay=0.5, error_decay_fast=0.5, error_decay_slow=0.9, novelty_decay=0.5
    )
    features = HistoryFeatures(encoder=scripted(vectors, dim=4), pool=pool, config=config)
    episode = episode_of(pool, seed=0, n_turns=3)
    script = [("small", "act", "seen", ""), ("small", "act", "start", "bad"), ("large", "other", "seen", "bad")]
    turns = tuple(
        replace(turn, model=model, action_text=action, observation_text=observation, error=error, cost_usd=0.25)
        for turn, (model, action, observation, error) in zip(episode.turns, script, strict=True)
    )
    warm = ((False, False, False), (True, False, False), (False, True, True))
    turns = tuple(replace(turn, warm=bits) for turn, bits in zip(turns, warm, strict=True))
    episode = replace(episode, task_text="task", first_observation="start", budget_usd=1.0, max_turns=4, turns=turns)
    return features, features.of_episode(episode)


def test_layout(pool, scripted):
    features = HistoryFeatures(encoder=scripted(), pool=pool)
    n_features = len(MODEL_FEATURE_NAMES)
    assert features.dim == 4 * 8 + len(SCALAR_NAMES) + 5 * n_features
    assert list(features.blocks) == ["task", "last_observation", "last_action", "recent", "scalars", "model_memory"]
    assert features.model_features.shape == (3, n_features)
    columns = np.concatenate([np.arange(features.dim)[part] for part in features.blocks.values()])
    assert np.array_equal(columns, np.arange(features.dim))


def test_text_blocks_by_hand(worked):
    features, rows = worked
    assert rows.shape == (4, features.dim)
    assert rows.dtype == np.float32
    assert block(features, rows, "task").tolist() == [[1, 0, 0, 0]] * 4
    assert np.allclose(
        block(features, rows, "last_observation")[[0, 1, 2]], [[0, 1, 0, 0], [0.6, 0.8, 0, 0], [0, 1, 0, 0]]
    )
    assert block(features, rows, "last_action").tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    means = np.array([[0.3, 0.4, 0.5, 0], [0, 0.5, 0.5, 0], [0.3, 0.4, 0, 0.5]])
    expected = [
        np.zeros(4),
        means[0],
        (0.5 * means[0] + means[1]) / 1.5,
        (0.25 * means[0] + 0.5 * means[1] + means[2]) / 1.75,
    ]
    np.testing.assert_allclose(block(features, rows, "recent"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("turn_share", [0, 0.25, 0.5, 0.75]),
        ("turns_left_share", [1, 0.75, 0.5, 0.25]),
        ("log_turn", np.log1p([0, 1, 2, 3]) / 4),
        ("budget_left_share", [1, 0.75, 0.5, 0.25]),
        ("log_budget_left_usd", np.log10([1, 0.75, 0.5, 0.25]) / 2),
        ("last_turn_error", [0, 0, 1, 1]),
        ("consecutive_errors", [0, 0, 0.2, 0.4]),
        ("error_rate_fast", [0, 0, 1 / 1.5, 1.5 / 1.75]),
        ("error_rate_slow", [0, 0, 1 / 1.9, 1.9 / 2.71]),
        ("error_share", [0, 0, 1 / 2, 2 / 3]),
        ("action_repeated", [0, 0, 1, 0]),
        ("observation_is_new", [1, 1, 0, 0]),
        ("novelty", [1, 1, 0.5 / 1.5, 0.25 / 1.75]),
        ("model_run_length", [0, 0.1, 0.2, 0.1]),
        ("log_switches", np.log1p([0, 0, 0, 1]) / 4),
        ("log_characters", np.log10(1 + np.array([9, 16, 24, 33])) / 5),
    ],
)
def test_scalars_by_hand(worked, name, expected):
    features, rows = worked
    np.testing.assert_allclose(scalar(features, rows, name), expected, atol=1e-6)


def test_last_model_is_warm_by_hand(worked):
    features, rows = worked
    assert scalar(features, rows, "last_model_is_warm")[:3].tolist() == [0, 1, 0]


def test_model_memory_by_hand(worked):
    features, rows = worked
    small, _, large = features.model_features
    nothing = np.zeros_like(small)
    memory = block(features, rows, "model_memory").reshape(4, 5, -1)
    # Last model, mean of models, models with errors, models without news, last model but one.
    expected = [
        [nothing, nothing, nothing, nothing, nothing],
        [small, small, nothing, nothing, nothing],
        [small, small, small, small, small],
        [large, (0.25 * small + 0.5 * small + large) / 1.75, 0.5 * small + large, 0.5 * small + large, small],
    ]
    np.testing.assert_allclose(memory, expected, atol=1e-6)


@pytest.mark.parametrize(("n_fresh", "latency_s", "is_warm"), [(100, 5.0, True), (99, 5.0, False), (100, 61.0, False)])
def test_cache_after_the_last_turn_follows_the_pool_card(pool, scripted, episode_of, n_fresh, latency_s, is_warm):
    features = HistoryFeatures(encoder=scripted(), pool=pool)
    episode = episode_of(pool, seed=3, n_turns=2)
    last = episode.turns[-1]
    usage = replace(last.usage, n_fresh=n_fresh)
    last = replace(last, model="large", served_model="large", usage=usage, latency_s=latency_s)
    rows = features.of_episode(replace(episode, turns=(replace(last, model="small", served_model="small"), last)))
    assert bool(scalar(features, rows, "last_model_is_warm")[-1]) == is_warm


@pytest.mark.parametrize("n_states", [0, 1, 3, 2048])
def test_live_equals_logged_with_episodes_interleaved(pool, episode_of, n_states):
    encoder = CachedEncoder(make_hashing(), None)
    episodes = [episode_of(pool, seed=seed, n_turns=length) for seed, length in enumerate(LENGTHS)]
    logged = [HistoryFeatures(encoder=encoder, pool=pool).of_episode(episode) for episode in episodes]
    live = HistoryFeatures(encoder=encoder, pool=pool, n_states=n_states)
    observations = [observations_of(episode, pool) for episode in episodes]
    for turn in range(max(LENGTHS)):
        running = [index for index, length in enumerate(LENGTHS) if turn < length]
        rows = live.of_observations([observations[index][turn] for index in running])
        assert np.array_equal(rows, np.stack([logged[index][turn] for index in running]))


@pytest.mark.parametrize("n_states", [0, 2, 2048])
def test_any_order_any_batch_gives_the_same(pool, scripted, episode_of, n_states):
    encoder = scripted()
    episodes = [episode_of(pool, seed=seed, n_turns=length) for seed, length in enumerate(LENGTHS)]
    pairs = [
        (observation, row)
        for episode in episodes
        for observation, row in zip(
            observations_of(episode, pool),
            HistoryFeatures(encoder=encoder, pool=pool).of_episode(episode)[:-1],
            strict=True,
        )
    ]
    live = HistoryFeatures(encoder=encoder, pool=pool, n_states=n_states)
    rng = np.random.default_rng(0)
    for _ in range(30):
        batch = [pairs[index] for index in rng.integers(len(pairs), size=rng.integers(1, 12))]
        assert np.array_equal(
            live.of_observations([observation for observation, _ in batch]), np.stack([row for _, row in batch])
        )
    assert live.of_observations([]).shape == (0, live.dim)


def test_a_turn_taken_back_leaves_no_trace(pool, scripted, episode_of):
    encoder = scripted()
    episode = episode_of(pool, seed=5, n_turns=12)
    branch = replace(episode.turns[6], observation_text="a room of the branch")
    other = replace(episode, turns=(*episode.turns[:6], branch, *episode.turns[6:]))
    live = HistoryFeatures(encoder=encoder, pool=pool)
    for either in (episode, other, episode):
        live_rows = np.vstack([live.of_observations([observation]) for observation in observations_of(either, pool)])
        fresh = HistoryFeatures(encoder=encoder, pool=pool).of_episode(either)
        assert np.array_equal(live_rows, fresh[:-1])


def test_live_encodes_only_what_is_new(pool, scripted, episode_of):
    encoder = scripted()
    features = HistoryFeatures(encoder=encoder, pool=pool)
    observations = observations_of(episode_of(pool, seed=1, n_turns=20), pool)
    features.of_observations(observations[:1])
    for observation in observations[1:]:
        encoder.encoded.clear()
        features.of_observations([observation])
        last = observation["history"][-1]
        assert encoder.encoded == list(dict.fromkeys([last["action"], last["observation"]]))
        encoder.encoded.clear()
        features.of_observations([observation])
        assert encoder.encoded == []


def test_order_of_the_pool_does_not_matter(pool, pool_of, scripted, episode_of):
    episode = episode_of(pool, seed=2, n_turns=20)
    order = [2, 0, 1]
    permuted_pool = pool_of(*(pool.models[index] for index in order))
    turns = tuple(
        replace(
            turn,
            warm=tuple(turn.warm[index] for index in order),
            action_mask=tuple(turn.action_mask[index] for index in order),
        )
        for turn in episode.turns
    )
    permuted = replace(episode, turns=turns)
    one = HistoryFeatures(encoder=scripted(), pool=pool)
    other = HistoryFeatures(encoder=scripted(), pool=permuted_pool)
    assert np.array_equal(one.of_episode(episode), other.of_episode(permuted))
    assert np.array_equal(
        one.of_observations(observations_of(episode, pool)),
        other.of_observations(observations_of(permuted, permuted_pool)),
    )


def test_an_unused_model_does_not_matter(pool, pool_of, model_of, scripted, episode_of):
    episode = episode_of(pool, seed=2, n_turns=20)
    larger_pool = pool_of(model_of("new", scale=7.0), *pool.models)
    turns = tuple(
        replace(turn, warm=(False, *turn.warm), action_mask=(True, *turn.action_mask)) for turn in episode.turns
    )
    one = HistoryFeatures(encoder=scripted(), pool=pool)
    other = HistoryFeatures(encoder=scripted(), pool=larger_pool)
    assert one.dim == other.dim
    assert np.array_equal(one.of_episode(episode), other.of_episode(replace(episode, turns=turns)))


def test_which_model_acted_does_matter(pool, scripted, episode_of):
    episode = episode_of(pool, seed=2, n_turns=4)
    features = HistoryFeatures(encoder=scripted(), pool=pool)
    swapped = replace(episode, turns=tuple(replace(turn, model="middle") for turn in episode.turns))
    assert not np.array_equal(features.of_episode(episode)[-1], features.of_episode(swapped)[-1])


def test_encode_log_leaves_nothing_to_encode(pool, scripted, episode_of):
    inner = scripted()
    features = HistoryFeatures(encoder=CachedEncoder(inner, None), pool=pool)
    episodes = [episode_of(pool, seed=seed, n_turns=length) for seed, length in enumerate(LENGTHS)]
    features.encode_log(episodes, show_progress=False)
    assert len(inner.encoded) == len(set(inner.encoded))
    inner.encoded.clear()
    for episode in episodes:
        features.of_episode(episode)
    assert inner.encoded == []


def test_observations_of_are_what_the_environment_gives(pool, episode_of):
    episode = episode_of(pool, seed=4, n_turns=6)
    observations = observations_of(episode, pool)
    assert len(observations) == 6
    observation, turn = observations[4], episode.turns[4]
    assert observation["task"] == episode.task_text
    assert observation["first_observation"] == episode.first_observation
    assert [view["action"] for view in observation["history"]] == [turn.action_text for turn in episode.turns[:4]]
    assert [pool.model_names[view["model"]] for view in observation["history"]] == list(episode.models[:4])
    assert observation["turn"] == 4
    for name in ("turn", "max_turns"):
        assert isinstance(observation[name], np.int64)
    spent = sum(turn.cost_usd for turn in episode.turns[:4])
    assert np.array_equal(observation["budget_left_usd"], np.array([episode.budget_usd - spent], dtype=np.float32))
    assert np.array_equal(observation["budget_usd"], np.array([episode.budget_usd], dtype=np.float32))
    assert observation["budget_left_usd"].dtype == observation["budget_usd"].dtype == np.float32
    assert tuple(observation["warm"]) == turn.warm
    assert tuple(observation["action_mask"]) == turn.action_mask
    assert observation["warm"].dtype == observation["action_mask"].dtype == np.int8


def test_config_is_provenance(pool, scripted):
    config = HistoryFeatures(encoder=scripted(), pool=pool).to_config()
    assert config["encoder"] == "scripted"
    assert config["model_names"] == ["small", "middle", "large"]
    assert config["config"] == HistoryFeaturesConfig().model_dump()


@pytest.mark.parametrize("parameters", [{"text_decay": 1.0}, {"model_decay": -0.1}, {"typo": 1}, {"run_length_cap": 0}])
def test_bad_config_is_refused(parameters):
    with pytest.raises(ValidationError):
        HistoryFeaturesConfig(**parameters)


def test_bad_input_is_named(pool, pool_of, scripted, episode_of):
    episode = episode_of(pool, seed=1, n_turns=3)
    features = HistoryFeatures(encoder=scripted(), pool=pool)
    smaller = HistoryFeatures(encoder=scripted(), pool=pool_of(*pool.models[:2]))
    stranger = replace(episode, turns=(replace(episode.turns[0], model="larg"),))
    middle = replace(episode, turns=tuple(replace(turn, model="small") for turn in episode.turns))
    observation = observations_of(episode, pool)[2]
    with pytest.raises(InvalidConfigError, match="n_states is -1"):
        HistoryFeatures(encoder=scripted(), pool=pool, n_states=-1)
    with pytest.raises(UnknownNameError, match="'larg'; did you mean 'large'"):
        features.of_episode(stranger)
    with pytest.raises(PoolMismatchError, match="episode 'random-1', turn 0: action_mask and warm have 3 and 3"):
        smaller.of_episode(middle)
    with pytest.raises(PoolMismatchError, match=r"warm has 3 entries .* has 2 models"):
        smaller.of_observations([observation])
    with pytest.raises(InvalidConfigError, match="turn is 1, but history has 2 turns"):
        features.of_observations([observation | {"turn": np.int64(1)}])
