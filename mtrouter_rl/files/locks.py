"""One writer at a time for every place: a second one is refused at once instead of mixing its files with those of the first.

A lock is held on a small file beside the place. The kernel lets go of it when the process ends, however it ends, so a lock
never has to be removed by hand.
"""

import contextlib
import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrouter_rl.errors import BusyError

LOCK_SUFFIX = ".mtrouter-rl-lock"
PARTIAL_SUFFIX = ".mtrouter-rl-partial"
"""End of the name of what is not whole yet. No user has such a name: what a killed run has left there is deleted."""

_guard = threading.RLock()
_held: dict[Path, tuple[int, int]] = {}
"""Lock file -> its descriptor, and how many holders it has in this process."""


def _forget_in_child() -> None:
    for descriptor, _ in _held.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class LockedPlace:
    """A file or folder that no other process writes to while this object lives.

    Within a process a place may be held several times. Where no lock can be made, because the folder around the place cannot be
    written, none is held: whatever is then written fails by itself.
    """

    def __init__(self, place: Path) -> None:
        """Take the lock.

        Raises:
            BusyError: If another process holds it.
        """
        self._made: list[Path] = []
        path = _lock_file(place, self._made)
        self._release = weakref.finalize(self, _release, path if path and _acquire(path, place) else None, self._made)

    def release(self) -> None:
        """Let go of it; a second time does nothing."""
        self._release()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold a place meanwhile. Raises `BusyError` if another process holds it."""
    lock = LockedPlace(place)
    try:
        yield
    finally:
        lock.release()


def _lock_file(place: Path, made: list[Path]) -> Path | None:
    """Where the lock of a place is; the folders above it are made, and told in `made`, the innermost last."""
    try:
        target = place.resolve()
        missing = [folder for folder in target.parents if not folder.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                made.append(folder)
    except (OSError, ValueError):
        return None
    if not target.name or any(part.endswith(PARTIAL_SUFFIX) for part in target.parts):
        return None  # what is not whole yet is held by whoever writes the whole
    beside = target.with_name(f".{target.name}{LOCK_SUFFIX}")
    if os.access(target.parent, os.W_OK) or not target.is_dir():
        return beside
    return target / LOCK_SUFFIX


def _acquire(path: Path, place: Path) -> bool:
    """Take the lock; False where the disk has none to give."""
    with _guard:
        if path in _held:
            descriptor, n_holders = _held[path]
            _held[path] = (descriptor, n_holders + 1)
            return True
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except OSError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 20).decode(errors="replace").strip()
                os.close(descriptor)
                raise BusyError(
                    f"{place} is being written by another command{f' (process {owner})' if owner.isdigit() else ''}; wait "
                    "until it has ended, or give another place to write to"
                ) from None
            except OSError:
                os.close(descriptor)
                return False
            if is_still(path, descriptor):
                break
            os.close(descriptor)  # its holder removed it between the two calls
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        _held[path] = (descriptor, 1)
        return True


def is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one that lies there."""
    try:
        there = path.stat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _release(path: Path | None, made: list[Path]) -> None:
    if path is not None:
        with _guard:
            if path not in _held:  # a child process, which never held it
                return
            descriptor, n_holders = _held[path]
            if n_holders > 1:
                _held[path] = (descriptor, n_holders - 1)
            else:
                del _held[path]
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                os.close(descriptor)
    for folder in reversed(made):
        with contextlib.suppress(OSError):  # something lies in it, which is how it should be
            folder.rmdir()
