"""`EmbedHistory`: a routing environment with one flat vector as observation, for agents that take nothing else."""

from pathlib import Path

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import PoolMismatchError
from mtrouter_rl.records import Observation, Split
from mtrouter_rl.registry import DEFAULT_ENCODER, code_allowed


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
        self._mask: npt.NDArray[np.bool_] = np.ones(n_models, dtype=np.bool_)
        self.observation_space = Box(-np.inf, np.inf, shape=(features.dim + n_models,), dtype=np.float32)

    def observation(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Flat vector of one observation, shape (D + M,)."""
        features = self.features.of_observations([observation])[0]
        self._mask = observation["action_mask"].astype(np.bool_)
        return np.concatenate([features, observation["action_mask"].astype(np.float32)])

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which models may be called now, shape (M,): what MaskablePPO of sb3-contrib asks for."""
        return self._mask


def make_vector_env(
    env: str | Path = "scienceworld",
    pool: str | Path | None = None,
    split: Split = "train",
    cost_weight: float | None = None,
    budget_usd: float | None = None,
    max_turns: int | None = None,
    encoder: str = DEFAULT_ENCODER,
    cache: Path | None = None,
    render_mode: str | None = None,
    allow_code: bool = False,
) -> EmbedHistory:
    """Entry point of `gymnasium.make("mtrouter_rl/ScienceWorldVector-v0", ...)`: the embedded vector as observation.

    Args:
        env: Environment card.
        pool: Pool card; None takes the environment's.
        split: Which tasks are drawn from.
        cost_weight: Overrides the card's.
        budget_usd: Overrides the card's, USD.
        max_turns: Overrides the card's.
        render_mode: As in Gymnasium.
        encoder: Registered name of the text encoder.
        cache: Folder of the embedding cache; None keeps vectors in memory alone.
        allow_code: As `make_env`.

    Raises:
        As `make_env`; MissingDependencyError if the encoder's package is not installed.
    """
    with code_allowed(allow_code):
        config = resolve_env(env, pool, cost_weight=cost_weight, budget_usd=budget_usd, max_turns=max_turns)
        features = HistoryFeatures(encoder=make_encoder(encoder, cache), pool=config.pool)
        return EmbedHistory(build_env(config, split=split, render_mode=render_mode), features)
