"""Collecting a log."""

from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.pools.spend import costs_money
from mtrouter_rl.records import Split
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.rollout.collection import CollectionPlan, collect, dataset_info


@dataclass(frozen=True, kw_only=True)
class CollectRequest:
    """What `mtrouter-rl collect` is asked for.

    Attributes:
        policy: Behaviour policy, as `mtrouter_rl.agents.resolve.resolve_router` takes it.
        split: Split whose (task, variation) pairs are run.
        n_episodes: How many episodes.
        seed: Seed of the draw of episodes.
        out: Folder of the dataset.
        dataset_id: Its id; None makes one from environment and policy.
        cache: Folder of the embedding cache, for learned behaviour policies.
        overwrite: Whether another dataset in `out` is replaced.
    """

    policy: str
    n_episodes: int
    seed: int
    out: Path
    split: Split = "train"
    dataset_id: str | None = None
    cache: Path | None = None
    overwrite: bool = False


def collect_dataset(pool: RolloutPool, request: CollectRequest, *, show_progress: bool = True) -> Dataset:
    """Collect a log; resumes where a killed collection stopped.

    Raises:
        UnknownNameError: If the policy is unknown.
        InvalidConfigError: If the number of episodes is below 1.
        DatasetError: If `out` holds another dataset.
    """
    config = pool.config
    if request.n_episodes < 1:
        raise InvalidConfigError(f"episodes is {request.n_episodes}, must be at least 1")
    ref = RouterRef.of(request.policy, request.cache)
    router = ref(config)  # an unknown policy is refused before anything is started
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in router.name)
    info = dataset_info(
        config,
        dataset_id=request.dataset_id or f"{config.card.name}-{plain}-v1",
        policy=router.name,
        split=request.split,
        seed=request.seed,
        n_episodes=request.n_episodes,
        created_by={"command": "collect", "policy": router.name, "router": ref.key.rpartition("#")[2]},
    )
    specs = sample_specs(config.card, request.split, n_episodes=request.n_episodes, seed=request.seed)
    plan = CollectionPlan(
        folder=request.out,
        info=info,
        factory=ref,
        specs=specs,
        overwrite=request.overwrite,
        is_paid=costs_money(config.pool),
    )
    return collect(pool, [plan], title=f"collect {router.name}", show_progress=show_progress)[0]
