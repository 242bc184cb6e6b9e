"""`EmbedHistory`: a routing environment with one flat vector as observation, for agents that take nothing else."""

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import PoolMismatchError
from mtrouter_rl.records import Observation


class EmbedHistory(gymnasium.ObservationWrapper[npt.NDArray[np.float32], int, Observation]):
    """Turns the observation of a `RoutingEnv` into history features followed by the action mask.

    So d3rlpy, Stable-Baselines3 and Tianshou agents run unchanged. The observation is a float32 vector of shape
    (D + M,); its last M entries are 1 where the model may be called this turn.

    Attributes:
        features: What makes the first D entries.
    """

    features: HistoryFeatures

    def __init__(self, env: gymnasium.Env[Observation, int], features: HistoryFeatures) -> None:
        """Wrap an environment.

        Args:
            env: A `RoutingEnv`, or one with the same observations.
            features: History features made for the environment's pool.

        Raises:
            PoolMismatchError: If the pool of the features is not as large as the action space.
        """
        super().__init__(env)
        n_models = len(features.pool.models)
        if not isinstance(env.action_space, Discrete) or env.action_space.n != n_models:
            raise PoolMismatchError(
                f"action space is {env.action_space}, but the features were made for pool '{features.pool.name}' of "
                f"{n_models} models; make both with the same pool"
            )
        self.features = features
        self.observation_space = Box(-np.inf, np.inf, shape=(features.dim + n_models,), dtype=np.float32)

    def observation(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Flat vector of one observation, shape (D + M,)."""
        features = self.features.of_observations([observation])[0]
        return np.concatenate([features, observation["action_mask"].astype(np.float32)])
