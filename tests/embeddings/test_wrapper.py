"""`EmbedHistory`: one flat vector, action mask last."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.embeddings.wrapper import EmbedHistory
from mtrouter_rl.errors import PoolMismatchError


class ReplayEnv(gymnasium.Env):
    """Plays back the observations of one logged episode, whatever the action."""

    def __init__(self, observations, n_models):
        self.observations = observations
        self.action_space = spaces.Discrete(n_models)
        self.observation_space = spaces.Discrete(1)  # never looked at: the wrapper replaces it

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return self.observations[0], {}

    def step(self, action):
        self.turn += 1
        return self.observations[self.turn], 0.0, self.turn == len(self.observations) - 1, False, {}


def test_vector_is_features_then_mask(pool, scripted, episode_of):
    episode = episode_of(pool, seed=7, n_turns=9)
    observations = observations_of(episode, pool)
    features = HistoryFeatures(encoder=scripted(), pool=pool)
    env = EmbedHistory(ReplayEnv(observations, 3), features)
    rows = features.of_episode(episode)
    assert env.observation_space.shape == (features.dim + 3,)
    vector, _ = env.reset()
    for row, turn in zip(rows[:-1], episode.turns, strict=True):
        assert env.observation_space.contains(vector)
        assert np.array_equal(vector[: features.dim], row)
        assert np.array_equal(vector[features.dim :], np.array(turn.action_mask, dtype=np.float32))
        if turn is not episode.turns[-1]:
            vector, *_ = env.step(0)


@pytest.mark.filterwarnings("ignore")
def test_passes_gymnasium_checks(pool, scripted, episode_of):
    observations = observations_of(episode_of(pool, seed=7, n_turns=9), pool)
    env = EmbedHistory(ReplayEnv(observations, 3), HistoryFeatures(encoder=scripted(), pool=pool))
    check_env(env, skip_render_check=True)


def test_another_pool_is_refused(pool, scripted):
    with pytest.raises(PoolMismatchError, match=r"Discrete\(2\).*pool 'fake' of 3 models"):
        EmbedHistory(ReplayEnv((), 2), HistoryFeatures(encoder=scripted(), pool=pool))
