"""ScienceWorld, a text game of school science: its engine in a Java process, and its gold paths."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.envs.scienceworld")
