"""Saves any router that can be saved, and loads any router that was."""

from pathlib import Path
from typing import Protocol, cast

from mtrouter_rl.agents.base import check_router
from mtrouter_rl.agents.saving import MakeFeatures, SavedRouter, check_pool, read_record
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import RouterError, UnknownNameError
from mtrouter_rl.protocols import Router, SavableRouter
from mtrouter_rl.registry import Registry

ROUTER_KINDS = Registry(
    kind="kind of saved router",
    group="mtrouter_rl.router_kinds",
    is_of_saved_files=True,
    builtin={
        "q": "mtrouter_rl.agents.q.q_router:QRouter",
        "constrained_q": "mtrouter_rl.agents.q.constrained_router:ConstrainedQRouter",
        "frontier_q": "mtrouter_rl.agents.q.frontier_router:FrontierRouter",
        "factored": "mtrouter_rl.agents.factored.router:FactoredRouter",
        "clone": "mtrouter_rl.agents.q.behavior_cloning:CloneRouter",
        "uniform": "mtrouter_rl.agents.rules.heuristics:UniformRouter",
        "fixed_order": "mtrouter_rl.agents.rules.heuristics:FixedOrderRouter",
        "sticky": "mtrouter_rl.agents.rules.behavior_policies:Sticky",
        "mixed": "mtrouter_rl.agents.rules.behavior_policies:Mixed",
        "task_values": "mtrouter_rl.agents.regression.values:TaskValueRouter",
        "turn_values": "mtrouter_rl.agents.regression.values:TurnValueRouter",
        "schedule": "mtrouter_rl.agents.rules.schedules:ScheduleRouter",
        "escalate_on_error": "mtrouter_rl.agents.rules.escalate_on_error:EscalateOnErrorRouter",
        "cascade": "mtrouter_rl.agents.regression.cascade:CascadeRouter",
        "llm_router": "mtrouter_rl.agents.rules.llm_router:LLMRoutingRouter",
        "safe": "mtrouter_rl.agents.safe:SafeRouter",
    },
)
"""Name in `router.json` -> class with `from_saved(saved: SavedRouter) -> Router`."""


class LoadableRouter(Protocol):
    """A router class that can make a router from its saved record."""

    def from_saved(self, saved: SavedRouter) -> Router:
        """Make the router (a class method of router classes)."""


def save_router(router: Router, folder: Path) -> None:
    """Save a router into a folder, which is made if need be.

    Raises:
        RouterError: If the router cannot be saved.
    """
    if not isinstance(router, SavableRouter):
        raise RouterError(
            f"router '{router.name}' ({type(router).__name__}) has no method save(folder), so it cannot be saved; "
            "save the router that it is made of"
        )
    router.save(folder)


def load_router(folder: Path, *, pool: PoolCard, make_features: MakeFeatures) -> Router:
    """Load a saved router.

    Args:
        folder: Where it was saved.
        pool: Must have the models that it was made for, in the same order.
        make_features: Makes history features from their saved configuration; called only if the router needs them.

    Raises:
        RouterError: If the files are missing, broken, or were made by something else.
        PoolMismatchError: If the pool is another one; names the differing models.
    """
    record = read_record(folder)
    check_pool(record, pool)
    try:
        kind = cast(LoadableRouter, ROUTER_KINDS.load(record.kind))
    except UnknownNameError as error:
        raise RouterError(f"router {folder}: {error}") from error
    return check_router(
        kind.from_saved(SavedRouter(folder=folder, record=record, pool=pool, make_features=make_features))
    )
