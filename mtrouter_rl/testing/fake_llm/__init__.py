"""A test double of an endpoint of OpenAI's chat completions: simulated pools over the real protocol, with faults on demand.

`FakeLLM` serves it inside a process, for tests; `mtrouter-rl fake-llm` does as a command.
"""

from mtrouter_rl.testing.fake_llm.faults import FAULT_KINDS, FaultPlan
from mtrouter_rl.testing.fake_llm.ledger import Ledger, LedgerEntry
from mtrouter_rl.testing.fake_llm.server import FakeLLM, FakeSettings
from mtrouter_rl.testing.fake_llm.twin import remote_twin, write_twin

__all__ = ["FAULT_KINDS", "FakeLLM", "FakeSettings", "FaultPlan", "Ledger", "LedgerEntry", "remote_twin", "write_twin"]
