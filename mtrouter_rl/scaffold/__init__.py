"""Writes a plug-in package that works, to be made one's own."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.scaffold")
