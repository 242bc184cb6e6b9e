"""Turns logs of multi-turn LLM runs into routing policies.

Importing this package registers the Gymnasium environments and starts nothing else: `mtrouter_rl/NAME-v0` with texts as
observations, `mtrouter_rl/NAMEVector-v0` with one embedded vector, and `mtrouter_rl/Routing-v0` for any card, by `env=`.
"""

import gymnasium

from mtrouter_rl import moved

__version__ = "0.1.0"

moved.install()

_ENVS = {
    "ScienceWorld": "scienceworld",
    "HumanitysLastExam": "hle",
    "Corridor": "corridor",
    "BabyAI": "babyai",
    "TextWorld": "textworld",
    "Replay": "replay",
}
"""Name in Gymnasium's ids -> environment card."""

for _name, _card in _ENVS.items():
    gymnasium.register(
        id=f"mtrouter_rl/{_name}-v0", entry_point="mtrouter_rl.envs.factory:make_env", kwargs={"env": _card}
    )
    gymnasium.register(
        id=f"mtrouter_rl/{_name}Vector-v0",
        entry_point="mtrouter_rl.embeddings.wrapper:make_vector_env",
        kwargs={"env": _card},
    )
gymnasium.register(id="mtrouter_rl/Routing-v0", entry_point="mtrouter_rl.envs.factory:make_env")
