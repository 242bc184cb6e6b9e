"""Plays episodes under any pool card, for calibration: in worker processes, and kept on disk so that a killed fit goes on."""

import concurrent.futures
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, cast

import numpy as np

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.policy import single_model
from mtrouter_rl.cards.pool import TOKENS_PER_PRICE_UNIT, PoolCard
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.routing import RoutingEnv
from mtrouter_rl.errors import SimulatorError
from mtrouter_rl.files import read_json, write_atomically
from mtrouter_rl.progress import Progress
from mtrouter_rl.protocols import ModelBackend, TextTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.registry import BACKENDS, TASK_FAMILIES
from mtrouter_rl.rollout.collection import fingerprint_cards
from mtrouter_rl.rollout.loop import run_episode
from mtrouter_rl.workers.executors import Workers, end_with_parent, result_of, start_executor, submitted

_EPISODES_PER_JOB = 8


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes of one policy, arrays of shape (n,).

    Attributes:
        utilities: Utility of each.
        costs_usd: Cost of each, USD.
        output_costs_usd: Part of it that output tokens cost, USD.
        clusters: (task, variation) of each.
    """

    utilities: np.ndarray
    costs_usd: np.ndarray
    output_costs_usd: np.ndarray
    clusters: tuple[tuple[str, int], ...]

    @property
    def utility(self) -> float:
        """Mean utility."""
        return float(self.utilities.mean())

    @property
    def cost_usd(self) -> float:
        """Mean cost, USD."""
        return float(self.costs_usd.mean())


Row = tuple[float, float, float]
"""Utility, cost in USD, and cost of the output in USD of an episode."""


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Rows of a few episodes.

    Attributes:
        rows: One for every episode.
        is_pure: Whether, in episodes of a single model, no other one ever had to stand in.
    """

    rows: list[Row]
    is_pure: bool


class _Player:
    """Plays episodes under any pool card; keeps the task, whatever the pool."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        make_task = cast("Callable[[EnvCard], TextTask]", TASK_FAMILIES.load(config.card.family))
        self._task = make_task(config.card)

    def close(self) -> None:
        """Close the task and whatever it runs."""
        self._task.close()

    def play(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> _Batch:
        """Play every episode."""
        make_backend = cast("Callable[[PoolCard, EnvCard], ModelBackend]", BACKENDS.load(pool.backend.kind))
        env = RoutingEnv(
            task=self._task,
            backend=make_backend(pool, self._config.card),
            pool=pool,
            specs=specs,
            system_prompt=self._config.card.system_prompt,
            limits=self._config.limits,
            reward=self._config.reward,
        )
        router = RouterRef.of(policy, None)(replace(self._config, pool=pool))
        rows: list[Row] = []
        is_pure = True
        for spec in specs:
            episode = run_episode(env, router, spec).episode
            if episode.status != "completed":
                raise SimulatorError(f"calibration, episode {spec.key} of {policy}: {episode.status_detail}")
            output_usd = sum(
                turn.usage.n_output * pool.model(turn.served_model).prices.output / TOKENS_PER_PRICE_UNIT
                for turn in episode.turns
            )
            rows.append((episode.utility, episode.cost_usd, output_usd))
            is_pure = is_pure and (single_model(policy) is None or set(episode.models) <= {single_model(policy)})
        return _Batch(rows=rows, is_pure=is_pure)


_player: _Player | None = None
"""The player of this process; set once by `_start` in a process that does nothing else."""


def _start(config: EnvConfig) -> None:
    global _player
    end_with_parent()
    _player = _Player(config)
    multiprocessing.util.Finalize(None, _player.close, exitpriority=10)


def _play_in_worker(pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> _Batch:
    assert _player is not None
    return _player.play(pool, policy, specs)


class Plays:
    """Worker processes that play episodes under any pool card; with one worker, this process. Use as a context manager.

    What was played is kept in a folder, so that a fit that was killed plays nothing twice.
    """

    def __init__(
        self, config: EnvConfig, *, n_workers: Workers, folder: Path | None = None, show_progress: bool = False
    ) -> None:
        """Create the workers; they start with the first episodes.

        Args:
            config: The environment; episodes are played under the pools that are given later.
            n_workers: How many processes.
            folder: Where episodes are kept; None keeps them in memory.
            show_progress: Whether to draw a progress bar for every policy.

        Raises:
            InvalidConfigError: If n_workers is below 1.
        """
        self._config = config
        self._folder = folder
        self._known: dict[str, list[Row]] = {}
        self._show_progress = show_progress
        self._local = _Player(config) if n_workers == 1 else None
        self._executor = start_executor(n_workers, initializer=_start, arguments=(config,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._local is not None:
            self._local.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def play(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> Played:
        """Play episodes of a policy, except those that were played before."""
        batches = [specs[start : start + _EPISODES_PER_JOB] for start in range(0, len(specs), _EPISODES_PER_JOB)]
        keys = [self._key(pool, policy, batch) for batch in batches]
        found = {number: rows for number, key in enumerate(keys) if (rows := self._read(key)) is not None}
        missing = [number for number in range(len(batches)) if number not in found]
        with Progress(policy, total=len(specs), unit="ep", is_shown=self._show_progress, stays=False) as bar:
            bar.update(sum(map(len, found.values())))
            for number, batch in self._run(pool, policy, {number: batches[number] for number in missing}):
                found[number] = batch.rows
                if batch.is_pure:
                    self._keep(keys[number], batch.rows)
                bar.update(len(batch.rows))
        table = np.array([row for number in range(len(batches)) for row in found[number]])
        return Played(
            utilities=table[:, 0],
            costs_usd=table[:, 1],
            output_costs_usd=table[:, 2],
            clusters=tuple((spec.task, spec.variation) for spec in specs),
        )

    def _run(
        self, pool: PoolCard, policy: str, batches: dict[int, Sequence[EpisodeSpec]]
    ) -> Iterator[tuple[int, _Batch]]:
        if self._local is not None:
            for number, specs in batches.items():
                yield number, self._local.play(pool, policy, specs)
            return
        jobs = {
            submitted(self._executor, _play_in_worker, pool, policy, specs): number for number, specs in batches.items()
        }
        try:
            for job in concurrent.futures.as_completed(jobs):
                yield jobs[job], result_of(job)
        finally:
            for job in jobs:
                job.cancel()

    def _key(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> str:
        """Hash of what decides the episodes; what a single model does, the entries of the others do not."""
        model = single_model(policy)
        if model is not None:
            pool = only_entry(pool, model)
        cards = fingerprint_cards(replace(self._config, pool=pool))
        parts = [cards, asdict(self._config.limits), policy, [spec.key for spec in specs]]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()

    def _read(self, key: str) -> list[Row] | None:
        if key in self._known or self._folder is None:
            return self._known.get(key)
        path = self._folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            self._known[key] = [(float(a), float(b), float(c)) for a, b, c in cast("list[Row]", read_json(path))]
        except (ValueError, TypeError) as error:
            raise SimulatorError(
                f"{path} is broken ({error}); delete it, its episodes are then played again"
            ) from error
        return self._known[key]

    def _keep(self, key: str, rows: list[Row]) -> None:
        self._known[key] = rows
        if self._folder is not None:
            write_atomically(self._folder / f"{key}.json", json.dumps(rows).encode())


def only_entry(pool: PoolCard, model: str) -> PoolCard:
    """Pool card in which the simulated entries of all other models are left out; it is a key, not a pool to play with."""
    settings = dict(pool.backend.settings)
    entries = cast("dict[str, object]", settings["models"])
    settings["models"] = {name: entry for name, entry in entries.items() if name == model}
    return pool.model_copy(update={"backend": pool.backend.model_copy(update={"settings": settings})})
