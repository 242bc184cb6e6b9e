"""MaskablePPO of sb3-contrib on the routing MDP: an on-policy agent that calls models itself, for comparison with offline ones.

It needs `pip install sb3-contrib`. Run it with: python examples/maskable_ppo.py
"""

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO

import mtrouter_rl  # noqa: F401 - registers the environments


def mean_return(env: gymnasium.Env, model: MaskablePPO | None, n_episodes: int) -> float:
    """Mean return of an agent, or of random choices without one."""
    rng = np.random.default_rng(0)
    returns = []
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        total, is_over = 0.0, False
        while not is_over:
            masks = env.get_wrapper_attr("action_masks")()
            if model is None:
                action = int(rng.choice(np.flatnonzero(masks)))
            else:
                action = int(model.predict(observation, action_masks=masks, deterministic=True)[0])
            observation, reward, terminated, truncated, _ = env.step(action)
            total, is_over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def main() -> None:
    """Train for a few episodes on the toy environment, then compare with random choices."""
    env = gymnasium.make("mtrouter_rl/CorridorVector-v0", split="train")
    model = MaskablePPO("MlpPolicy", env, n_steps=256, batch_size=64, n_epochs=4, seed=0, device="cpu")
    model.learn(1024)
    test = gymnasium.make("mtrouter_rl/CorridorVector-v0", split="test")
    print(f"random: return {mean_return(test, None, 16):.3f} on 16 test episodes (simulated models)")
    print(f"MaskablePPO after 1024 turns: return {mean_return(test, model, 16):.3f}")


if __name__ == "__main__":
    main()
