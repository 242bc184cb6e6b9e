"""Any Gymnasium environment that is played in text, plugged in by a card alone."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.envs.gymnasium_text")
