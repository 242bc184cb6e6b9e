"""What can be changed of a router, one thing at a time."""

from mtrouter_rl.agents.factored.factors import PARTS
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.records import Frozen, JsonValue
from mtrouter_rl.studies.ablations.record import LOG_SIZE
from mtrouter_rl.workflows import load_agent

ENCODER = "encoder"

CHANGES: dict[str, dict[str, dict[str, JsonValue]]] = {
    "embeddings": {"history-only": {"model_embedding": "none"}, "model-only": {"history_inputs": []}},
    "context": {
        "task-only": {"history_inputs": ["task"]},
        "last-turn": {"history_inputs": ["task", "last_observation", "last_action", "progress", "last_turn"]},
    },
    "model-features": {
        "metadata-only": {"model_embedding": "metadata"},
        "residual-only": {"model_embedding": "residual"},
    },
    "memory": {"no-memory": {"memory_size": 0}},
    "factors": {f"no-{part}": {"parts": [one for one in PARTS if one != part]} for part in PARTS},
}
"""Group -> variant -> parameters of the agent card that make it."""

TARGET = "target"
TARGETS: dict[str, tuple[str, dict[str, JsonValue]]] = {
    "return-to-go": ("monte_carlo_q", {}),
    "return-and-penalties": ("monte_carlo_q", {"error_severities": {"*": "medium"}}),
    "this-turn": ("myopic", {}),
}
"""Variant -> algorithm and parameters of its own; whatever else the card says stays, as far as the algorithm knows it."""
_JOINT = ("model_embedding",)
"""Parameters of every agent with a joint Q-function."""

GROUPS = (*CHANGES, ENCODER, LOG_SIZE, TARGET)
"""What can be ablated."""
GROUPS_OF_JOINT = tuple(group for group in GROUPS if group not in ("memory", "factors"))
"""What can be ablated of an agent with a joint Q-function."""


def groups_of(agent: str, env: EnvConfig) -> tuple[str, ...]:
    """What can be ablated of an agent: groups of parameters that its card has, the encoder, the log's size, and its target.

    The target is that of an agent with a joint Q-function whose own target is none of those that it is exchanged for. Who has a
    memory has the past in it, so hiding columns of the past says nothing of the context.
    """
    card = load_agent(agent, env.card)
    has_memory = bool(card.parameters.get("memory_size"))
    known = set(getattr(type(load_algorithm(card)), "parameters_model", Frozen).model_fields)
    has_target = known.issuperset(_JOINT) and card.algorithm not in {algorithm for algorithm, _ in TARGETS.values()}
    return tuple(
        group
        for group in GROUPS
        if all(known.issuperset(change) for change in CHANGES.get(group, {}).values())
        and (group != TARGET or has_target)
        and (group not in ("context", "memory") or (group == "memory") == has_memory)
    )
