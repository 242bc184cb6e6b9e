"""The agent card: an algorithm and its hyper-parameters."""

from pydantic import Field

from mtrouter_rl.records import Frozen


class AgentCard(Frozen):
    """A router: which algorithm, which hyper-parameters.

    Attributes:
        name: Name of the card, and of the router in tables.
        description: One sentence for the user who chooses.
        algorithm: Registered name of the algorithm.
        parameters: Checked by the algorithm.
    """

    name: str
    description: str
    algorithm: str
    parameters: dict[str, object] = Field(default_factory=dict)
