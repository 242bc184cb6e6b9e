"""Writes files and folders so that a reader, a kill or a full disk never leaves half of one behind."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrouter_rl.files.locks import PARTIAL_SUFFIX, is_still, locked

_MOVED_OUT, _MOVED_IN, _DONE = ".mtrouter-rl-old", ".mtrouter-rl-replaced", ".mtrouter-rl-done"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_NO_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EBUSY, errno.EPERM, errno.EOPNOTSUPP})


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it; what a killed writer left is used again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, descriptor = _open_temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.truncate()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # while it is locked: nobody else takes it for a temporary file
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _open_temporary(path: Path) -> tuple[Path, int]:
    """A file beside `path` that no other process writes to."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    for name in (f".{path.name}.tmp", f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"):
        temporary = path.with_name(name)
        descriptor = os.open(temporary, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process writes there, or the disk knows no locks
            os.close(descriptor)
            continue
        if is_still(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)
    return temporary, os.open(temporary, flags, 0o666)


@contextmanager
def whole(out: Path, *, overwrite: bool = False, replaces: tuple[str, ...] | None = None) -> Iterator[Path]:
    """A place beside `out` to write a file or folder to; it becomes `out` once all is written, and vanishes otherwise.

    A folder that is there already is exchanged for the new one in one step, so that at any moment either is there. Where that
    cannot be done (the folder is the current one, or a mount), its files are exchanged one by one, and a run that is killed
    meanwhile is undone by the next.

    Args:
        out: File or folder to write.
        overwrite: Replace what is in the folder; without it, the folder must be empty at the end, too.
        replaces: Entries of the folder that do not stay, even if the new one lacks them; all others do. None replaces the whole
            folder.

    Raises:
        BusyError: If another process writes to the same place.
        OSError: If the disk refuses it, or something has come into the folder meanwhile.
    """
    target = out.resolve()
    with locked(target):
        _take_up(target)
        partial = _beside(target, PARTIAL_SUFFIX)
        _remove(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if replaces is not None and target.is_dir():
                _link_others(target, partial, but=replaces)
            _put(partial, target, overwrite=overwrite)
        finally:
            with contextlib.suppress(OSError):
                _remove(partial)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}{suffix}")


def _put(partial: Path, target: Path, *, overwrite: bool) -> None:
    if not (partial.is_dir() and target.is_dir()):
        partial.replace(target)
        return
    if not overwrite:
        for path in target.iterdir():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
    if not _exchange(partial, target):
        _fill(partial, target)


def _exchange(partial: Path, target: Path) -> bool:
    """Exchange two folders in one step; False where that is impossible, or would pull the current folder away."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or Path.cwd() == target or target in Path.cwd().parents:
        return False
    if rename(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(target))


def _fill(partial: Path, target: Path) -> None:
    """Exchange the entries of two folders. The names of the folders beside it say how far it got; see `_take_up`."""
    old, replaced, done = (_beside(target, suffix) for suffix in (_MOVED_OUT, _MOVED_IN, _DONE))
    old.mkdir()
    try:
        _move_entries(target, old)
        old.rename(replaced)
        _move_entries(partial, target)
        replaced.rename(done)
    except BaseException:
        with contextlib.suppress(OSError):
            _take_up(target)
        raise
    _remove(done)


def _take_up(target: Path) -> None:
    """Undo what a killed run had begun, so that the folder is what it was before; delete what a finished one left."""
    old, replaced, done = (_beside(target, suffix) for suffix in (_MOVED_OUT, _MOVED_IN, _DONE))
    if replaced.is_dir():
        for path in list(target.iterdir()):
            _remove(path)
        replaced.rename(old)
    if old.is_dir():
        target.mkdir(exist_ok=True)
        _move_entries(old, target)
        old.rmdir()
    _remove(done)


def _move_entries(source: Path, target: Path) -> None:
    # A dataset's info goes out first and comes in last: without it nobody takes the folder for a dataset.
    is_into_place = not target.name.endswith(_MOVED_OUT)
    for name in sorted(
        (path.name for path in source.iterdir()), key=lambda name: (name == "info.json") == is_into_place
    ):
        shutil.move(source / name, target / name)


def _link_others(target: Path, partial: Path, *, but: tuple[str, ...]) -> None:
    """Give the new folder the entries of the old one that are not replaced: the same files under a second name."""
    for path in target.iterdir():
        if path.name in but or (partial / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, partial / path.name, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, partial / path.name)


def _link_or_copy(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
