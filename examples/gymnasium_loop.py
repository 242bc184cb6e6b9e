"""The routing MDP as a plain Gymnasium environment: one flat vector in, one model out, for any RL library.

Shows `gymnasium.make`, the `EmbedHistory` wrapper, and the action mask at the end of the vector. Run it with:
python examples/gymnasium_loop.py
"""

import gymnasium
import numpy as np

import mtrouter_rl  # noqa: F401 - registers the environments
from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.embeddings.wrapper import EmbedHistory


def main() -> None:
    """Run three episodes, calling a random allowed model at every turn."""
    pool = load_pool_card("corridor-three")
    features = HistoryFeatures(encoder=CachedEncoder(make_hashing(), folder=None), pool=pool)
    env = EmbedHistory(gymnasium.make("mtrouter_rl/Corridor-v0", split="train"), features)
    n_models = len(pool.models)
    print(f"observation: {env.observation_space.shape}, of which the last {n_models} are the action mask")
    rng = np.random.default_rng(0)
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        total, n_turns, is_over = 0.0, 0, False
        while not is_over:
            allowed = np.flatnonzero(observation[-n_models:])
            observation, reward, terminated, truncated, info = env.step(int(rng.choice(allowed)))
            total, n_turns, is_over = total + float(reward), n_turns + 1, terminated or truncated
        print(f"{info['spec'].key}: {n_turns} turns, return {total:.3f}, {info['budget_left_usd']:.4f} USD left")
    env.close()


if __name__ == "__main__":
    main()
