"""Simulated models: each imitates the task's expert and fails in its own way. No language model is called."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.pools.simulated")
