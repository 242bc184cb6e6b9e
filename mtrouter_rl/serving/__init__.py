"""Trained routers at work in front of an agent: `load_router(folder).choose(messages)` names the model of the next call."""

from mtrouter_rl.serving.live import Decision, LiveRouter, load_router
from mtrouter_rl.serving.session import RoutingSession

__all__ = ["Decision", "LiveRouter", "RoutingSession", "load_router"]
