"""How often, and how many at a time, this process may call a model."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RateLimit:
    """A token bucket that holds a second's worth of calls, and places for calls at the same time. Of this process alone."""

    def __init__(
        self,
        *,
        per_minute: float | None,
        at_once: int | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create it, full; None stands for no limit."""
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        n_saved = max(math.ceil(per_minute / 60.0) if per_minute else 0, 1)
        self._saved_s = (n_saved - 1) * self._gap_s
        self._places = threading.BoundedSemaphore(at_once) if at_once else None
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._next_s = -math.inf

    @contextmanager
    def turn(self, *, within_s: float) -> Iterator[bool]:
        """Wait for a turn and hold a place meanwhile; False, without waiting, if the turn comes later than `within_s`."""
        ends_s = self._clock() + within_s
        if self._places is not None and not self._places.acquire(timeout=max(within_s, 0.0)):
            yield False
            return
        try:
            wait_s = self._booked_wait(ends_s - self._clock())
            if wait_s is not None and wait_s > 0:
                self._sleep(wait_s)
            yield wait_s is not None
        finally:
            if self._places is not None:
                self._places.release()

    def _booked_wait(self, within_s: float) -> float | None:
        """Seconds until the next free turn, which is then taken; None if that is too late."""
        if not self._gap_s:
            return 0.0
        with self._lock:
            now_s = self._clock()
            earliest = max(self._next_s, now_s - self._saved_s)
            wait_s = max(earliest - now_s, 0.0)
            if wait_s > within_s:
                return None
            self._next_s = earliest + self._gap_s
            return wait_s
