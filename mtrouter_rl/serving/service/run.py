"""Starts a service, keeps it running, and ends it cleanly."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, MTRouterError
from mtrouter_rl.serving.live import LiveRouter
from mtrouter_rl.serving.service.app import make_app
from mtrouter_rl.serving.service.brain import BrainBox
from mtrouter_rl.serving.service.database import StoreError
from mtrouter_rl.serving.service.desk import Desk
from mtrouter_rl.serving.service.metrics import Metrics
from mtrouter_rl.serving.service.service import Service
from mtrouter_rl.serving.service.settings import Keyring, ServiceSettings, tokens_of
from mtrouter_rl.serving.service.store import Store
from mtrouter_rl.serving.service.upstream import Upstream

if TYPE_CHECKING:
    from starlette.applications import Starlette

logger = logging.getLogger(__name__)
BEAT_S = 3.0
_SWITCH_S = 0.0005
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What is served, and where.

    Attributes:
        router: Folder of a router, `FOLDER@WEIGHT`, or a policy.
        pool: Its pool, with the endpoints; None takes the one that was saved with the router.
        store: File of the log, or URL of a PostgreSQL.
        settings: Limits and rules.
        explore: Share of the turns whose model is drawn at random from those that may be called.
        host: Address to listen at.
        port: Port; 0 takes a free one.
        seed: Seed of the draws; None takes one of the operating system.
        watches: Whether the router is loaded again when its files change.
        only_decides: Whether the service decides and calls nobody.
        end_within_s: How long calls that are under way may take at the end, seconds.
        encoder_threads: Texts that are encoded at once.
        torch_threads: Threads of one product of matrices.
        threads_per_text: Threads that share one text, where the encoder can do that, as `minilm-bf16` can.
    """

    router: str
    pool: PoolCard | None = None
    store: str = "served.sqlite"
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    explore: float = 0.0
    host: str = "127.0.0.1"
    port: int = 8484
    seed: int | None = None
    watches: bool = True
    only_decides: bool = False
    end_within_s: float = 30.0
    encoder_threads: int = 1
    torch_threads: int = 1
    threads_per_text: int = 2


@dataclass(frozen=True, kw_only=True)
class Running:
    """The parts of a service."""

    app: "Starlette"
    service: Service
    reload: Callable[[], None]
    keep: Callable[[], "contextlib.AbstractAsyncContextManager[None]"]


def build(request: ServeRequest) -> Running:
    """Load and check everything; nothing is listened at yet.

    Raises:
        MTRouterError: If the router, the pool, a key, a setting or the store cannot be used.
    """
    tokens = tokens_of(request.settings.token_variables)
    if request.host not in LOOPBACK and not tokens:
        logger.warning(
            "listens at %s without a bearer token: everybody who reaches it may spend; see --token-variable",
            request.host,
        )
    metrics = Metrics()

    def check(live: LiveRouter) -> None:
        request.settings.check(live.pool)
        if live.pays_for_decisions:
            raise InvalidConfigError(
                f"router '{live.name}' asks a model before every call, and the service has no account for that; use it in a "
                "RoutingSession, which has, or serve a trained router"
            )

    box = BrainBox(
        request.router,
        request.pool,
        explore=request.explore,
        n_threads=request.encoder_threads,
        threads_per_text=request.threads_per_text,
        check=check,
    )
    try:
        upstream = None if request.only_decides else Upstream(box.brain.live.pool)
        store = Store(request.store)
    except BaseException:
        box.close()
        raise
    keyring = Keyring(store.secret(), tokens)
    desk = Desk(box, store, request.settings, seed=request.seed)
    service = Service(desk, upstream, metrics)

    def reload() -> None:
        try:
            box.reload()
        except MTRouterError as error:
            metrics.reloads.labels("refused").inc()
            logger.error("the router in use stays, since the new one cannot be loaded: %s", error)
            raise
        metrics.reloads.labels("loaded").inc()
        logger.info("router %s is in use", box.brain.live.name)

    @asynccontextmanager
    async def keep() -> AsyncIterator[None]:
        await desk.in_store(store.beat)
        beating = asyncio.create_task(_beat(desk, reload, watches=request.watches))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await service.end(request.end_within_s)
            desk.close()
            box.close()
            store.close_all()

    return Running(app=make_app(service, keyring, reload), service=service, reload=reload, keep=keep)


def serve(request: ServeRequest, *, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP loads the router again.

    Args:
        request: What, and where.
        started: Is told the address when it can be called.

    Raises:
        MTRouterError: As `build`, or if the address cannot be listened at.
    """
    _make_quick(request.torch_threads)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_served(build(request), request, started))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed; it takes half the time of asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _make_quick(torch_threads: int) -> None:
    """Settings of the whole process, so that the encoder's threads do not hold up the one that answers."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported: else idle threads of it spin
    import torch

    torch.set_num_threads(torch_threads)
    sys.setswitchinterval(_SWITCH_S)


async def _served(running: Running, request: ServeRequest, started: Callable[[str], None]) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise MissingDependencyError(
            "the policy service needs uvicorn, which is not installed; run: pip install 'mtrouter-rl[serve]'"
        ) from error
    listening = _listen(request.host, request.port)
    config = uvicorn.Config(
        running.app,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=int(request.end_within_s),
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=None,
    )
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, RuntimeError):  # no signals outside the main thread
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.create_task(_reload_quietly(running)))
    async with running.keep():
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        telling = asyncio.create_task(_tell(server, lambda: started(f"http://{shown}:{port}")))
        try:
            await server.serve(sockets=[listening])
        finally:
            telling.cancel()


async def _tell(server: object, started: Callable[[], None]) -> None:
    while not getattr(server, "started", False):
        await asyncio.sleep(0.02)
    started()


async def _reload_quietly(running: Running) -> None:
    with contextlib.suppress(MTRouterError):  # the log says it
        await asyncio.to_thread(running.reload)


async def _beat(desk: Desk, reload: Callable[[], None], *, watches: bool) -> None:
    """Say every few seconds that this replica is alive, and load the router again when its files have changed."""
    refused = ""
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await desk.in_store(desk.store.beat)
        except StoreError as error:
            logger.error("%s", error)
        if not watches:
            continue
        stamp = await asyncio.to_thread(desk.box.stamp_now)
        if stamp in (desk.box.brain.stamp, refused):
            continue
        await asyncio.sleep(0.2)  # whoever writes it may not be done
        try:
            await asyncio.to_thread(reload)
        except MTRouterError:
            refused = stamp


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio switch Nagle's algorithm off, which holds answers back for 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InvalidConfigError(
            f"cannot listen at {host} port {port}: {error}; give another --host or --port"
        ) from error
    return listening
