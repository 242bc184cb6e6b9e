"""A log in d3rlpy's own form: collect episodes, export them, and train one of d3rlpy's algorithms on them.

Run it with: python examples/d3rlpy_run.py
"""

import tempfile
from pathlib import Path

import numpy as np
from d3rlpy.algos import DiscreteCQLConfig

from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.exporters.base import export_dataset
from mtrouter_rl.exporters.d3rlpy import load_d3rlpy
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import CollectRequest, collect_dataset


def main() -> None:
    """Collect on the toy environment, export, train, ask."""
    config = resolve_env("corridor")
    with tempfile.TemporaryDirectory() as name:
        log, export = Path(name) / "log", Path(name) / "d3rlpy"
        with RolloutPool(config, n_workers=1) as pool:
            request = CollectRequest(policy="uniform", split="train", n_episodes=60, out=log, seed=0)
            collect_dataset(pool, request, show_progress=False)
        reward = {"cost_weight": config.cost_weight, "cost_unit_usd": config.reward.cost_unit_usd}
        export_dataset("d3rlpy", log, export, reward)
        buffer = load_d3rlpy(export)
        print(f"{buffer.size()} episodes with {buffer.transition_count} transitions (simulated models)")
        algorithm = DiscreteCQLConfig(batch_size=64).create(device="cpu:0")
        algorithm.fit(buffer, n_steps=200, n_steps_per_epoch=100, show_progress=False, logger_adapter=_no_logs())
        first = np.stack([episode.observations[0] for episode in buffer.episodes])
        names = config.pool.model_names
        calls = np.bincount(algorithm.predict(first), minlength=len(names))
        print("first calls: " + ", ".join(f"{name} {n}" for name, n in zip(names, calls, strict=True)))


def _no_logs():  # noqa: ANN202 - a factory of d3rlpy's
    from d3rlpy.logging import NoopAdapterFactory

    return NoopAdapterFactory()


if __name__ == "__main__":
    main()
