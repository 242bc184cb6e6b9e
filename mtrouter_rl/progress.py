"""How far a long step is: a bar on a terminal, a plain line now and then where nobody watches, nothing when it is hidden."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn, Self, TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0
SHORTEST_STEP_S = 1.0
"""A step that is done sooner is not worth a line."""

HIDE_VARIABLE = "MTROUTER_RL_HIDE_PROGRESS"
"""Environment variable that hides all progress; the worker processes of a command inherit it."""

ItemT = TypeVar("ItemT")


@contextlib.contextmanager
def hidden(is_hidden: bool = True) -> Iterator[None]:
    """Hide all progress of this process, and of workers that it starts, in the block."""
    before = os.environ.get(HIDE_VARIABLE)
    if is_hidden:
        os.environ[HIDE_VARIABLE] = "1"
    try:
        yield
    finally:
        if is_hidden:
            os.environ.pop(HIDE_VARIABLE)
            if before is not None:
                os.environ[HIDE_VARIABLE] = before


class Progress:
    """Progress of one step, on stderr.

    Where stderr is no terminal, a line comes every 30 seconds at most, and one at the end of a step that took a second.

    Args:
        title: What is done.
        total: How many there are; None if nobody knows.
        unit: Word for one of them.
        done: How many were done before.
        is_shown: Whether anything is shown.
        stays: Whether the bar, or the line at the end, is left when the step is done.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None,
        unit: str = "",
        done: int = 0,
        is_shown: bool = True,
        stays: bool = True,
    ) -> None:
        self._title, self._total, self._unit, self._stays = title, total, unit, stays
        self._n, self._n_before, self._note = done, done, ""
        self._started = self._last_line = time.monotonic()
        is_shown = is_shown and HIDE_VARIABLE not in os.environ
        is_terminal = sys.stderr.isatty()
        self._writes_lines = is_shown and not is_terminal
        self._bar: tqdm[NoReturn] | None = None
        if is_shown and is_terminal:
            self._bar = tqdm(total=total, initial=done, desc=title, unit=unit or "it", leave=stays, mininterval=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, n: int = 1, *, note: str | None = None) -> None:
        """Count `n` more; `note` is shown beside the numbers from now on."""
        self._n += n
        self._note = self._note if note is None else note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n)
        elif self._writes_lines and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._write()

    def close(self) -> None:
        """Take the bar away, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._writes_lines and self._stays and self._n > self._n_before and self._seconds >= SHORTEST_STEP_S:
            self._write()
        self._writes_lines = False

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _write(self) -> None:
        seconds = self._seconds
        of_total = "" if self._total is None else f"/{self._total}"
        parts = [f"{self._n}{of_total} {self._unit}".rstrip(), f"{seconds:.0f} s"]
        if self._total is not None and self._n < self._total:
            left = seconds * (self._total - self._n) / max(1, self._n - self._n_before)
            parts.append(f"about {left:.0f} s left")
        parts += [self._note] if self._note else []
        sys.stderr.write(f"{self._title}: {', '.join(parts)}\n")
        sys.stderr.flush()


def track(
    items: Iterable[ItemT],
    title: str,
    *,
    total: int | None = None,
    unit: str = "",
    done: int = 0,
    is_shown: bool = True,
    stays: bool = True,
) -> Iterator[ItemT]:
    """The items, with their progress shown; arguments as of `Progress`."""
    with Progress(title, total=total, unit=unit, done=done, is_shown=is_shown, stays=stays) as progress:
        for item in items:
            yield item
            progress.update()
