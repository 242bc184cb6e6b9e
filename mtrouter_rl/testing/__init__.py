"""For tests of whoever plugs something in: scripted stand-ins for the seams, and the contract kit for environments.

`mtrouter_rl.testing.contract.check_environment` runs every rule that an environment has to keep.
"""

from mtrouter_rl.testing.stand_ins import ModelCall, ScriptedBackend, ScriptedRouter, ScriptedTask, plain_reply

__all__ = ["ModelCall", "ScriptedBackend", "ScriptedRouter", "ScriptedTask", "plain_reply"]
