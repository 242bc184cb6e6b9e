"""Turns logs of multi-turn LLM runs into routing policies.

Importing this package registers the Gymnasium environments and starts nothing else.
"""

import gymnasium

from mtrouter_rl import moved

__version__ = "0.1.0"

moved.install()

gymnasium.register(
    id="mtrouter_rl/ScienceWorld-v0",
    entry_point="mtrouter_rl.envs.factory:make_env",
    kwargs={"env": "scienceworld"},
)
gymnasium.register(
    id="mtrouter_rl/HumanitysLastExam-v0",
    entry_point="mtrouter_rl.envs.factory:make_env",
    kwargs={"env": "hle"},
)
gymnasium.register(
    id="mtrouter_rl/Corridor-v0",
    entry_point="mtrouter_rl.envs.factory:make_env",
    kwargs={"env": "corridor"},
)
gymnasium.register(
    id="mtrouter_rl/BabyAI-v0",
    entry_point="mtrouter_rl.envs.factory:make_env",
    kwargs={"env": "babyai"},
)
gymnasium.register(
    id="mtrouter_rl/TextWorld-v0",
    entry_point="mtrouter_rl.envs.factory:make_env",
    kwargs={"env": "textworld"},
)
