"""The one loop: environment x router -> episodes. Collection and evaluation both use it.

An episode depends on its specification and on the router alone: not on the worker that ran it, nor on what was run before.
"""

import concurrent.futures
import multiprocessing.util
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from mtrouter_rl.envs.factory import EnvConfig, build_env
from mtrouter_rl.envs.routing import MONEY_TOLERANCE_USD, RoutingEnv
from mtrouter_rl.errors import BackendError, InvalidConfigError, SimulatorError
from mtrouter_rl.protocols import HiddenStatePolicy, PaidDecision, PaidRouter, Router
from mtrouter_rl.records import Episode, EpisodeSpec, FloatArray, JsonValue, Observation, TracedEpisode, Turn
from mtrouter_rl.workers.executors import (
    Cluster,
    Workers,
    check_workers,
    end_with_parent,
    result_of,
    start_executor,
    submitted,
)

_ROUTER_STREAM = 2
_PROPENSITY_TOLERANCE = 1e-6


Policy = Router | HiddenStatePolicy
"""Who chooses: a router, which sees observations alone, or a reference policy that sees the hidden state as well."""


class RouterFactory(Protocol):
    """Makes a router, or a reference policy, inside a worker process; has to be picklable."""

    @property
    def name(self) -> str:
        """What tells routers apart inside a worker: the same name is the same router."""

    def __call__(self, config: EnvConfig) -> Policy:
        """Make the router for an environment."""


@dataclass(kw_only=True)
class _Log:
    """What one episode gathers while it runs."""

    turns: list[Turn] = field(default_factory=list)
    hidden: list[dict[str, JsonValue]] = field(default_factory=list)
    probabilities: list[FloatArray] = field(default_factory=list)


def choose(probabilities: FloatArray, rng: np.random.Generator) -> int:
    """Draw an action from one row of probabilities, shape (M,).

    Raises:
        InvalidConfigError: If they are no distribution: the log would hold a wrong propensity.
    """
    is_valid = np.isfinite(probabilities).all() and (probabilities >= 0).all()
    if not is_valid or abs(float(probabilities.sum()) - 1.0) > _PROPENSITY_TOLERANCE:
        raise InvalidConfigError(
            f"router gave probabilities {probabilities.tolist()}, must be finite, non-negative and sum to 1; fix the router"
        )
    edges = np.cumsum(probabilities)
    drawn = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    return min(drawn, int(np.flatnonzero(probabilities)[-1]))


def run_episode(env: RoutingEnv, router: Policy, spec: EpisodeSpec) -> TracedEpisode:
    """Run one episode.

    An episode that breaks for outside reasons (a failed call, a broken simulator) comes back with status "failed" and
    the turns it had; the environment is closed then, so that the next reset starts a fresh simulator.

    Args:
        env: The environment.
        router: Who chooses.
        spec: Which episode.

    Returns:
        The log, with what only the simulator knows apart from it.
    """
    log = _Log()
    observation: Observation | None = None
    status_detail = ""
    try:
        observation, _ = env.reset(seed=spec.seed, options={"spec": spec})
        _run_turns(env, router, spec, observation, log)
    except (BackendError, SimulatorError) as error:
        status_detail = f"{type(error).__name__}: {error}{_unlogged_spend(env, log)}"
        env.close()
    episode = Episode(
        episode_id=spec.key,
        task=spec.task,
        variation=spec.variation,
        seed=spec.seed,
        split=spec.split,
        task_text=observation["task"] if observation else "",
        first_observation=observation["first_observation"] if observation else "",
        behavior_policy=router.name,
        budget_usd=env.limits.budget_usd,
        max_turns=env.limits.max_turns,
        turns=tuple(log.turns),
        status="failed" if status_detail else "completed",
        status_detail=status_detail,
        usage_source="cost_only" if env.is_billed else "logged",
    )
    probabilities = np.stack(log.probabilities) if log.probabilities else np.zeros((0, len(env.pool.models)))
    return TracedEpisode(episode=episode, hidden=tuple(log.hidden), action_probabilities=probabilities)


def _unlogged_spend(env: RoutingEnv, log: _Log) -> str:
    """Note on money that was spent on a call whose turn never came to its end: it is in no turn of the log."""
    spent_usd = env.limits.budget_usd - env.budget_left_usd - sum(turn.cost_usd for turn in log.turns)
    if spent_usd <= MONEY_TOLERANCE_USD:
        return ""
    return f" (and {spent_usd:.6f} USD were spent on a call that has no turn)"


def _decider(env: RoutingEnv, policy: Policy) -> Callable[[Observation], PaidDecision]:
    """What makes a decision of a state. The hidden state is shown to those policies alone that are declared to see it."""
    if isinstance(policy, HiddenStatePolicy):
        return lambda observation: PaidDecision(
            probabilities=policy.privileged_action_probabilities(observation, env.hidden_state()), cost_usd=0.0
        )

    def decide(observation: Observation) -> PaidDecision:
        return PaidDecision(probabilities=policy.action_probabilities([observation])[0], cost_usd=0.0)

    if not isinstance(policy, PaidRouter):
        return decide

    def pay(observation: Observation) -> PaidDecision:
        mask = env.action_masks(reserve_usd=policy.most_usd(observation))
        if not mask.any():
            return decide(observation)
        decision = policy.decide({**observation, "action_mask": mask.astype(np.int8)})
        env.charge(decision.cost_usd)
        return decision

    return pay


def _run_turns(env: RoutingEnv, router: Policy, spec: EpisodeSpec, observation: Observation, log: _Log) -> None:
    entropy = [spec.seed, zlib.crc32(spec.task.encode()), spec.variation, _ROUTER_STREAM]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    decide = _decider(env, router)
    is_over = not observation["action_mask"].any()
    while not is_over:
        decision = decide(observation)
        probabilities = decision.probabilities
        action = choose(probabilities, rng)
        before = observation
        observation, _, terminated, truncated, info = env.step(action)
        log.turns.append(_turn(before, info, float(probabilities[action]), terminated=terminated, truncated=truncated))
        log.hidden.append({**info["hidden"], **decision.hidden})
        log.probabilities.append(np.asarray(probabilities, dtype=np.float64))
        is_over = terminated or truncated


def _turn(before: Observation, info: dict[str, Any], propensity: float, *, terminated: bool, truncated: bool) -> Turn:
    return Turn(
        model=info["model"],
        served_model=info["served_model"],
        action_text=info["action_text"],
        observation_text=info["observation_text"],
        usage=info["usage"],
        cost_usd=info["cost_usd"],
        utility_gain=info["utility_gain"],
        propensity=min(propensity, 1.0),
        action_mask=tuple(bool(allowed) for allowed in before["action_mask"]),
        warm=tuple(bool(warm) for warm in before["warm"]),
        error=info["error"],
        latency_s=info["latency_s"],
        terminated=terminated,
        truncated=truncated,
        router_cost_usd=info["router_cost_usd"],
    )


class _Worker:
    """One environment and the routers made for it; lives in a worker process, or in this one."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._env: RoutingEnv | None = None
        self._routers: dict[str, Policy] = {}

    def run(self, factory: RouterFactory, specs: Sequence[EpisodeSpec]) -> list[TracedEpisode]:
        if self._env is None:  # built by the first job, whose caller then sees the error of a wrong card
            self._env = build_env(self._config)
        if factory.name not in self._routers:
            self._routers[factory.name] = factory(self._config)
        return [run_episode(self._env, self._routers[factory.name], spec) for spec in specs]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


_worker: _Worker | None = None
"""The worker of this process; set once by `_start_worker` in a process that does nothing else."""


def _start_worker(config: EnvConfig) -> None:
    global _worker
    end_with_parent()
    _worker = _Worker(config)
    multiprocessing.util.Finalize(None, _worker.close, exitpriority=10)


def _run_in_worker(factory: RouterFactory, specs: Sequence[EpisodeSpec]) -> list[TracedEpisode]:
    if _worker is None:
        raise InvalidConfigError("this process is no rollout worker; use RolloutPool")
    return _worker.run(factory, specs)


@dataclass(frozen=True, kw_only=True)
class RolloutJob:
    """A batch of episodes of one router.

    Attributes:
        key: What tells the caller which job this is: number of the dataset, shard, first episode within the shard.
        factory: Makes the router.
        specs: The episodes.
    """

    key: tuple[int, int, int]
    factory: RouterFactory
    specs: tuple[EpisodeSpec, ...]


class RolloutPool:
    """Workers, each with an environment (and its simulator) of its own: processes, a cluster, or with one worker this process.

    Use as a context manager; leaving it closes the environments.
    """

    def __init__(self, config: EnvConfig, *, n_workers: Workers) -> None:
        """Create the pool; nothing is started before the first job.

        Raises:
            InvalidConfigError: If n_workers is below 1, or a cluster is to call models that cost money.
        """
        check_workers(n_workers)
        if isinstance(n_workers, Cluster) and config.pool.backend.kind != "simulated":
            raise InvalidConfigError(
                f"workers is '{n_workers}', but pool '{config.pool.name}' calls real models, and what they cost is kept in a "
                "ledger on this machine; take a number of --workers"
            )
        self.config = config
        self._n_workers = n_workers
        self._local: _Worker | None = None
        self._executor: concurrent.futures.Executor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers; jobs that have not begun are dropped."""
        if self._local is not None:
            self._local.close()
            self._local = None
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def run(self, jobs: Sequence[RolloutJob]) -> Iterator[tuple[RolloutJob, list[TracedEpisode]]]:
        """Run jobs and give each as soon as it is done, in any order.

        Raises:
            SimulatorError: If a worker process died.
        """
        if self._n_workers == 1:
            yield from self._run_here(jobs)
        else:
            yield from self._run_in_processes(jobs)

    def _run_here(self, jobs: Sequence[RolloutJob]) -> Iterator[tuple[RolloutJob, list[TracedEpisode]]]:
        if self._local is None:
            self._local = _Worker(self.config)
        for job in jobs:
            yield job, self._local.run(job.factory, job.specs)

    def _run_in_processes(self, jobs: Sequence[RolloutJob]) -> Iterator[tuple[RolloutJob, list[TracedEpisode]]]:
        if self._executor is None:
            self._executor = start_executor(self._n_workers, initializer=_start_worker, arguments=(self.config,))
        pending: dict[concurrent.futures.Future[list[TracedEpisode]], RolloutJob] = {}
        try:
            for job in jobs:
                pending[submitted(self._executor, _run_in_worker, job.factory, job.specs)] = job
            for future in concurrent.futures.as_completed(pending):
                yield pending[future], result_of(future)
        except SimulatorError:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None  # it may take no more jobs: the next run starts fresh workers
            raise
        finally:
            for future in pending:
                future.cancel()
