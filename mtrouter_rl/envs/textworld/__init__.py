"""TextWorld: text games that are made offline from a seed."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.envs.textworld")
