"""The one loop that runs episodes (`loop`), and the collection of logs that is built on it (`collection`)."""

from mtrouter_rl.rollout.loop import RolloutJob, RolloutPool, RouterFactory, choose, run_episode

__all__ = ["RolloutJob", "RolloutPool", "RouterFactory", "choose", "run_episode"]
