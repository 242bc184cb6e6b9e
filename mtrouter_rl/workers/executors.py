"""Where work is done: in this process, in processes of this machine, or on a Ray cluster. The same tasks, the same results.

A task is a function of a module with its arguments. Which worker does it, in which order, and how often it was begun before a
worker or a machine was lost, changes nothing: episodes depend on their specification alone, and trainings on their seed.

On Ray a task that is lost with its worker or its node begins again elsewhere; Ray sees to that. Folders are paths: routers,
logs and caches must lie where every node sees them, under the same name.
"""

import concurrent.futures
import concurrent.futures.process
import hashlib
import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, SimulatorError
from mtrouter_rl.registry import ALLOW_CODE_VARIABLE

T = TypeVar("T")
Initializer = Callable[..., None]

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""One thread per worker: more threads than free cores are many times slower, and a training's result may depend on them."""
RETRIES = 5
"""How often a task begins again that was lost with its worker or its node."""
_RAY = "ray"
_KEY_VARIABLE = "MTROUTER_RL_WORKER"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster that does the work.

    Attributes:
        address: Of a running cluster, such as "auto" (the one that this machine belongs to) or "ray://HOST:PORT"; None starts
            one on this machine, with all its cores.
    """

    address: str | None = None

    def __str__(self) -> str:
        return _RAY if self.address is None else f"{_RAY}:{self.address}"


Workers = int | Cluster
"""Processes on this machine (1 is this process), or a cluster."""


def parse_workers(text: str) -> Workers:
    """What `--workers` says.

    Raises:
        ValueError: If it is neither a number nor a cluster.

    Example:
        >>> parse_workers("4"), parse_workers("ray"), str(parse_workers("ray:auto"))
        (4, Cluster(address=None), 'ray:auto')
    """
    name, colon, address = text.partition(":")
    if name == _RAY and (address or not colon):
        return Cluster(address=address or None)
    return int(text)


def check_workers(workers: Workers) -> None:
    """Refuse a number that is none.

    Raises:
        InvalidConfigError: If it is below 1.
    """
    if isinstance(workers, int) and workers < 1:
        raise InvalidConfigError(f"workers is {workers}, must be at least 1, or 'ray' for a cluster")


def start_executor(
    workers: Workers, *, initializer: Initializer, arguments: tuple[object, ...] = ()
) -> concurrent.futures.Executor:
    """An executor of tasks; its workers start with the first of them.

    Args:
        workers: Where.
        initializer: Called once in every worker before its first task.
        arguments: Its arguments.

    Raises:
        InvalidConfigError: If there are no workers, or no cluster answers at the address.
        MissingDependencyError: If Ray is not installed.
    """
    check_workers(workers)
    if isinstance(workers, Cluster):
        return _RayExecutor(workers, initializer=initializer, arguments=arguments)
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    return concurrent.futures.ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=initializer,
        initargs=arguments,
    )


def submitted(
    executor: concurrent.futures.Executor, function: Callable[..., T], *arguments: object
) -> "concurrent.futures.Future[T]":
    """A task that was handed to an executor.

    Raises:
        SimulatorError: If a worker died before.
    """
    try:
        return executor.submit(function, *arguments)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise _worker_died() from error


def result_of(future: "concurrent.futures.Future[T]") -> T:
    """Result of a task, or the error that it raised.

    Raises:
        SimulatorError: If its worker died: at once among processes of this machine, `RETRIES` times on a cluster.
    """
    try:
        return future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise _worker_died() from error
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):  # Ray wraps what a task raised
            raise cause from None
        if type(error).__module__.startswith("ray."):
            raise SimulatorError(
                f"a task was lost {RETRIES + 1} times with its worker or its node ({error}); what was finished is kept: mend "
                "the cluster and run the same command again"
            ) from error
        raise


def end_with_parent() -> None:
    """To be called in a worker process: it ends when its parent does.

    Without it, the workers of a command that was killed would go on for nobody, and write beside those of the next one.
    """
    threading.Thread(target=_end_after_parent, name="end-with-parent", daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _worker_died() -> SimulatorError:
    return SimulatorError(
        "a worker process died (killed, or out of memory); what was finished is kept: run the same command again to go on, "
        "with fewer --workers if memory was short"
    )


class _RayExecutor(concurrent.futures.Executor):
    """Tasks on a Ray cluster. Workers of one executor are shared with no other, since they are initialized for it."""

    _n_open: ClassVar[int] = 0
    _is_ours: ClassVar[bool] = False
    """Whether the connection was made here; one that the program had before is left as it is."""

    def __init__(self, cluster: Cluster, *, initializer: Initializer, arguments: tuple[object, ...]) -> None:
        """Join the cluster, or start one."""
        self._ray = _imported()
        if not self._ray.is_initialized():
            _join(self._ray, cluster)
            type(self)._is_ours = True
        type(self)._n_open += 1
        start = (initializer, arguments)
        key = hashlib.blake2b(pickle.dumps(start), digest_size=8).hexdigest()
        variables = dict.fromkeys(ONE_THREAD, "1") | {_KEY_VARIABLE: key}
        variables |= {ALLOW_CODE_VARIABLE: os.environ[ALLOW_CODE_VARIABLE]} if ALLOW_CODE_VARIABLE in os.environ else {}
        self._remote = self._ray.remote(num_cpus=1, max_retries=RETRIES, runtime_env={"env_vars": variables})(_on_node)
        self._start = self._ray.put(start)
        self._key = key
        self._references: list[Any] = []

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> "concurrent.futures.Future[T]":
        """See `concurrent.futures.Executor.submit`."""
        reference = self._remote.remote(self._key, self._start, fn, args, kwargs)
        self._references.append(reference)
        future: concurrent.futures.Future[T] = reference.future()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; one that was started here stops with the last executor. Tasks that run are cancelled if asked."""
        if cancel_futures:
            _, unfinished = self._ray.wait(self._references, num_returns=len(self._references), timeout=0)
            for reference in unfinished:
                self._ray.cancel(reference, force=True)
        elif wait and self._references:
            self._ray.wait(self._references, num_returns=len(self._references))
        self._references.clear()
        type(self)._n_open -= 1
        if not type(self)._n_open and type(self)._is_ours:
            self._ray.shutdown()
            type(self)._is_ours = False


_initialized_for = ""
"""Key of the executor that this worker of a cluster was initialized for."""


def _on_node(
    key: str,
    start: tuple[Initializer, tuple[object, ...]],
    function: Callable[..., object],
    arguments: tuple[object, ...],
    named: dict[str, object],
) -> object:
    """A task in a worker of a cluster."""
    global _initialized_for
    if _initialized_for != key:
        initializer, initial = start
        initializer(*initial)
        _initialized_for = key
    return function(*arguments, **named)


def _imported() -> Any:  # noqa: ANN401
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("package 'ray' is missing; run: pip install 'mtrouter-rl[ray]'") from error
    return ray


def _join(ray: Any, cluster: Cluster) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if cluster.address is None:
            ray.init(address="local", include_dashboard=False, **settings)
        else:
            ray.init(address=cluster.address, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InvalidConfigError(
            f"workers is '{cluster}', but no cluster answers there: {error}; start one with 'ray start --head', or write 'ray' "
            "to start one on this machine"
        ) from error
