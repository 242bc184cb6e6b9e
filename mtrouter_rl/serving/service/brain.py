"""The router of a service: its text encoder in threads of its own, its loading, and its change while the service runs."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.resolve import split_cost_weight
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.encoders import bare_encoder
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.records import FloatArray, Observation
from mtrouter_rl.serving.live import LiveRouter, load_router
from mtrouter_rl.serving.service.memory import Recent

_N_VECTORS = 50_000


class ServingEncoder:
    """A text encoder whose vectors are made ahead, in threads, each once; it gives the vectors of the encoder inside.

    Attributes:
        name: Name of the encoder inside.
        dim: Size E of a vector.
    """

    def __init__(self, encoder: TextEncoder, threads: ThreadPoolExecutor, *, n_vectors: int = _N_VECTORS) -> None:
        """Wrap an encoder.

        Args:
            encoder: Makes the vectors; it is asked by one thread at a time, unless its `may_be_shared` is true.
            threads: Where it runs.
            n_vectors: How many vectors are kept.
        """
        self.name = encoder.name
        self.dim = encoder.dim
        self._encoder = encoder
        self._threads = threads
        self._lock = threading.Lock()
        self._alone = contextlib.nullcontext() if getattr(encoder, "may_be_shared", False) else threading.Lock()
        self._kept: Recent[Future[npt.NDArray[np.float32]]] = Recent(n_vectors)

    def ahead(self, text: str) -> "Future[npt.NDArray[np.float32]]":
        """Begin to encode a text, unless it is known."""
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            known = self._kept.get(key)
            if known is None or (known.done() and known.exception() is not None):
                known = self._threads.submit(self._encoded, text)
                self._kept.put(key, known)
        return known

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts, one row each, shape (len(texts), E)."""
        pending = [self.ahead(text) for text in texts]
        if not pending:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([one.result() for one in pending])

    def _encoded(self, text: str) -> npt.NDArray[np.float32]:
        with self._alone:
            vector: npt.NDArray[np.float32] = self._encoder.encode([text])[0]
        return vector


@dataclass(frozen=True, kw_only=True)
class Brain:
    """A router that is in use.

    Attributes:
        live: The router.
        encoders: Its text encoders, empty for a router that reads no text.
        source: What it was loaded from.
        stamp: What tells whether that has changed.
    """

    live: LiveRouter
    encoders: tuple[ServingEncoder, ...]
    source: str
    stamp: str

    def ahead(self, texts: Sequence[str]) -> None:
        """Begin to encode texts that it will be asked about."""
        for encoder in self.encoders:
            for text in texts:
                encoder.ahead(text)

    async def known(self, texts: Sequence[str]) -> None:
        """Wait until texts are encoded."""
        for encoder in self.encoders:
            for text in texts:
                future = encoder.ahead(text)
                if not future.done():
                    await asyncio.wrap_future(future)

    def weigh(self, observation: Observation) -> tuple[FloatArray, dict[str, float] | None]:
        """Probabilities and values; see `LiveRouter.weigh`."""
        chances, values = self.live.weigh(observation)
        return chances, None if values is None else dict(values)


class BrainBox:
    """Loads routers, and changes the one in use. A router that cannot be loaded leaves the old one in use.

    Attributes:
        brain: The one in use.
    """

    def __init__(
        self,
        source: str,
        pool: PoolCard | None,
        *,
        explore: float,
        n_threads: int = 1,
        threads_per_text: int = 1,
        check: Callable[[LiveRouter], None] | None = None,
    ) -> None:
        """Load the first router.

        Args:
            source: Folder of a router, or what else `load_router` takes.
            pool: Its pool; None takes the one that was saved with it, for this router and all that follow.
            explore: Share of the calls that are drawn at random.
            n_threads: Texts that are encoded at once.
            threads_per_text: Threads that share a text, where the encoder can do that.
            check: Raises an error if a router cannot be used.

        Raises:
            RouterError, ResultsError, CardError, PoolMismatchError: As `load_router`.
        """
        self._source, self._pool, self._explore = source, pool, explore
        self._check = check
        self._threads_per_text = threads_per_text
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="encoder")
        self.brain = self._load()
        self._pool = self.brain.live.pool

    def stamp_now(self) -> str:
        """Stamp of the router's files as they are; the router in use has another one if they have changed."""
        return stamp_of(self._source)

    def reload(self) -> None:
        """Load the router again and use it from the next decision on.

        Raises:
            MTRouterError: If it cannot be loaded; the old one stays in use.
        """
        self.brain = self._load()

    def close(self) -> None:
        """End the encoder's threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Brain:
        stamp = stamp_of(self._source)
        made: list[ServingEncoder] = []

        def encoders(name: str, _: Path | None) -> TextEncoder:
            encoder = bare_encoder(name)
            if hasattr(encoder, "threads_per_text"):
                encoder.threads_per_text = self._threads_per_text
            made.append(ServingEncoder(encoder, self._threads))
            return cast(TextEncoder, made[-1])

        live = load_router(self._source, pool=self._pool, explore=self._explore, encoders=encoders)
        if self._check is not None:
            self._check(live)
        for encoder in made:
            encoder.encode(["warm-up: the first text of an encoder takes longer than those that follow"])
        return Brain(live=live, encoders=tuple(made), source=self._source, stamp=stamp)


def stamp_of(source: str) -> str:
    """What tells whether a router's files have changed: names, sizes and times."""
    folder = Path(split_cost_weight(source)[0])
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    told = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return blake2b("\n".join(told).encode(), digest_size=16).hexdigest()
