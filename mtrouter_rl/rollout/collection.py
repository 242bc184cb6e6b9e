"""Collection: runs a list of episodes and writes them shard by shard, resumably. Evaluation stores its episodes likewise."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from mtrouter_rl import __version__
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.pools.remote.settings import what_is_called
from mtrouter_rl.progress import Progress
from mtrouter_rl.records import EpisodeSpec, Split, TracedEpisode
from mtrouter_rl.rollout import RolloutJob, RolloutPool, RouterFactory

EPISODES_PER_JOB = 5
EPISODES_PER_SHARD = 50
PAID_EPISODES_PER_SHARD = 5
"""Where models cost money, so that a kill loses few episodes that were paid."""


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """One dataset to be collected.

    Attributes:
        folder: Where it goes.
        info: What it is.
        factory: Makes the behaviour policy.
        specs: Its episodes, in order.
        overwrite: Whether another dataset in the folder is replaced.
        is_paid: Whether episodes cost money: they are then written in small shards, and each is a job of its own.
    """

    folder: Path
    info: DatasetInfo
    factory: RouterFactory
    specs: tuple[EpisodeSpec, ...]
    overwrite: bool = False
    is_paid: bool = False

    @property
    def episodes_per_shard(self) -> int:
        """Number of episodes of every shard but the last."""
        return PAID_EPISODES_PER_SHARD if self.is_paid else EPISODES_PER_SHARD

    def shard(self, index: int) -> tuple[EpisodeSpec, ...]:
        """Episodes of a shard."""
        return self.specs[index * self.episodes_per_shard : (index + 1) * self.episodes_per_shard]

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.specs) // self.episodes_per_shard)


def dataset_info(
    config: EnvConfig,
    *,
    dataset_id: str,
    policy: str,
    split: Split,
    seed: int,
    n_episodes: int,
    created_by: dict[str, object],
) -> DatasetInfo:
    """Provenance of a dataset that is collected in an environment."""
    return DatasetInfo(
        dataset_id=dataset_id,
        env=config.card.name,
        pool_name=config.pool.name,
        models=config.pool.models,
        prompt_cache=config.pool.prompt_cache,
        behavior_policy=policy,
        split=split,
        seed=seed,
        n_episodes_planned=n_episodes,
        max_turns=config.limits.max_turns,
        budget_usd=config.limits.budget_usd,
        is_simulated=config.pool.backend.kind == "simulated",
        package_version=__version__,
        created_by=created_by | {"cards": fingerprint_cards(config)},
    )


def _at_default(card: BaseModel, *fields: str) -> set[str]:
    """Those of the fields that hold their default."""
    defaults = type(card).model_fields
    return {name for name in fields if getattr(card, name) == defaults[name].get_default(call_default_factory=True)}


def _what_is_called(pool: PoolCard) -> PoolCard:
    """The pool without settings that change no answer."""
    if pool.backend.kind != "openai_compatible":
        return pool
    backend = pool.backend.model_copy(update={"settings": what_is_called(pool.backend.settings)})
    return pool.model_copy(update={"backend": backend})


def fingerprint_cards(config: EnvConfig) -> str:
    """Hash of what decides an episode in the environment and pool cards, 16 hexadecimal digits.

    A changed card makes another dataset. Descriptions, the sizes of a study, parameters of agents, what an expert solves,
    and the reward, which is worked out from a log when it is read, do not count. Nor do settings that cards came to have
    later, where they are left as they were before: a log that is older than a setting keeps its hash. Nor does how
    patiently and how often an endpoint is called: a collection that was stopped can go on at another rate.
    """
    left_out = {"description", "reward", "studies", "agents", "expert_solves"} | _at_default(config.card, "harness")
    env = config.card.model_dump_json(exclude=left_out)
    models = {
        index: {"aliases"} | _at_default(model, "variant_of", "handover")
        for index, model in enumerate(config.pool.models)
    }
    pool = _what_is_called(config.pool).model_dump_json(exclude={"description": True, "models": models})
    return hashlib.blake2b((env + pool).encode(), digest_size=8).hexdigest()


@dataclass(kw_only=True)
class _Open:
    """A dataset in the making: its writer and the parts of shards that are not whole yet."""

    plan: CollectionPlan
    writer: DatasetWriter
    parts: dict[int, dict[int, list[TracedEpisode]]] = field(default_factory=dict)

    def jobs(self, number: int) -> Iterator[RolloutJob]:
        finished = self.writer.finished_shards()
        n_of_job = 1 if self.plan.is_paid else EPISODES_PER_JOB
        for shard in range(self.plan.n_shards):
            specs = self.plan.shard(shard)
            if shard in finished:
                continue
            for part in range(0, len(specs), n_of_job):
                batch = specs[part : part + n_of_job]
                yield RolloutJob(key=(number, shard, part), factory=self.plan.factory, specs=batch)

    def add(self, shard: int, part: int, episodes: list[TracedEpisode]) -> None:
        """Take in a part; write the shard once it is whole."""
        parts = self.parts.setdefault(shard, {})
        parts[part] = episodes
        if sum(len(done) for done in parts.values()) == len(self.plan.shard(shard)):
            self.writer.write_shard(shard, [episode for key in sorted(parts) for episode in parts[key]])
            del self.parts[shard]


class _Bar:
    """Progress bar with rate, time left, mean score and spend."""

    def __init__(self, *, total: int, done: int, title: str, is_shown: bool, is_simulated: bool) -> None:
        self._spent = "simulated spend" if is_simulated else "spent"
        self._bar = Progress(title, total=total, done=done, unit="ep", is_shown=is_shown)
        self._n_scored, self._score, self._spend_usd = 0, 0.0, 0.0

    def update(self, episodes: Sequence[TracedEpisode]) -> None:
        for traced in episodes:
            self._spend_usd += traced.episode.cost_usd
            if traced.episode.status == "completed":
                self._n_scored += 1
                self._score += 100 * traced.episode.utility
        mean = self._score / self._n_scored if self._n_scored else float("nan")
        digits = 2 if self._spend_usd >= 1 else 4  # a small run of real models should not show $0.00
        self._bar.update(len(episodes), note=f"score {mean:.1f}, {self._spent} ${self._spend_usd:.{digits}f}")

    def close(self) -> None:
        self._bar.close()


def collect(
    pool: RolloutPool, plans: Sequence[CollectionPlan], *, title: str, show_progress: bool = True
) -> list[Dataset]:
    """Collect datasets; what is already there is kept, what is missing is run.

    A shard is written as soon as its episodes are done, so that a killed collection loses the shards in flight alone, and
    the finished dataset is the same as if it had never been killed.

    Args:
        pool: Workers.
        plans: The datasets.
        title: Title of the progress bar.
        show_progress: Whether to draw it.

    Returns:
        The datasets, loaded and validated, in the order of the plans.

    Raises:
        DatasetError: If a folder holds another dataset, or cannot be written.
        SimulatorError: If a worker process died.
    """
    opened = [
        _Open(plan=plan, writer=DatasetWriter(plan.folder, plan.info, overwrite=plan.overwrite)) for plan in plans
    ]
    jobs = [job for number, one in enumerate(opened) for job in one.jobs(number)]
    total = sum(len(plan.specs) for plan in plans)
    done = total - sum(len(job.specs) for job in jobs)
    is_simulated = pool.config.pool.backend.kind == "simulated"
    bar = _Bar(total=total, done=done, title=title, is_shown=show_progress, is_simulated=is_simulated)
    try:
        for job, episodes in pool.run(jobs) if jobs else ():
            number, shard, part = job.key
            opened[number].add(shard, part, episodes)
            bar.update(episodes)
    finally:
        bar.close()
    return [Dataset.load(plan.folder) for plan in plans]
