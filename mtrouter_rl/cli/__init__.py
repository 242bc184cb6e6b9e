"""The command line `mtrouter-rl`: it parses, calls the package and prints."""

from mtrouter_rl.moved import signpost

__getattr__ = signpost("mtrouter_rl.cli")
