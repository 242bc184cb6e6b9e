"""BabyAI, a grid world told in words, and its expert."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.envs.babyai")
