"""A circuit breaker for every model: one that fails again and again is left alone for a while."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mtrouter_rl.pools.remote.settings import BreakerCard


@dataclass
class _State:
    n_failed: int = 0
    open_until_s: float = 0.0


class CircuitBreakers:
    """Circuits of the models of a pool; may be used by several threads.

    A circuit opens after so many failures one after another. When its pause is over it lets calls through again: the first that
    succeeds closes it, the first that fails opens it for another pause.
    """

    def __init__(
        self, card: BreakerCard, models: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create closed circuits."""
        self._card = card
        self._clock = clock
        self._lock = threading.Lock()
        self._states = {name: _State() for name in models}

    def failed(self, model: str) -> None:
        """Count a failure."""
        with self._lock:
            state = self._states[model]
            state.n_failed += 1
            if state.n_failed >= self._card.failures:
                state.open_until_s = self._clock() + self._card.pause_s

    def succeeded(self, model: str) -> None:
        """Close a circuit."""
        with self._lock:
            self._states[model] = _State()

    def is_open(self, model: str) -> bool:
        """Whether a model is left alone now."""
        with self._lock:
            return self._clock() < self._states[model].open_until_s

    def opened(self) -> Mapping[str, str]:
        """Models that are left alone now -> why. If all are, none is named: that is an outage, and no choice of a model."""
        with self._lock:
            now_s = self._clock()
            told = {
                name: f"circuit open after {state.n_failed} failures, for another {state.open_until_s - now_s:.0f} s"
                for name, state in self._states.items()
                if now_s < state.open_until_s
            }
            return {} if len(told) == len(self._states) else told
