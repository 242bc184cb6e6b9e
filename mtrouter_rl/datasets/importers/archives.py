"""Opens files, folders, tar and zip archives alike, one file after the other, without trusting what is in them.

Nothing is unpacked to disk. A member whose path leaves the archive, a link, a device, a file that is too large and an
archive that unpacks to far too much are refused and counted; the rest is read.
"""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.errors import DatasetError

MAX_FILE_BYTES = 256 * 2**20
"""A single file of a log larger than this is refused; JSON of it would take several times as much memory."""
MAX_ARCHIVE_BYTES = 64 * 2**30
"""An archive that unpacks to more than this is not read any further."""
MAX_RATIO = 500
"""What unpacks to more than this many times its packed size, and to over `MIN_BOMB_BYTES`, is refused: a zip member, or all
of a tar archive from there on. Deflate cannot pack better than 1032 times; logs pack 10 to 100 times."""
MIN_BOMB_BYTES = 8 * 2**20

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
ARCHIVE_SUFFIXES = (*_TAR_SUFFIXES, ".zip")
"""Endings, in lower case, of what is read as an archive."""
_UNSAFE = "path that leaves the archive"
_BROKEN = "archive that is cut off or broken"
_BOMB = "file that unpacks to far too much"
_LINK = "link or device in an archive"
_LARGE = "file that is too large"
_UNREADABLE = "folder that cannot be read"
_READ_ERRORS = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """One file of a log.

    Attributes:
        source: Where it is, for messages: file, or archive and member.
        path: Path inside the folder or archive that was given; the file's own name if it was given itself.
        data: Its bytes.
        archive: Name of the archive that it is in; empty if it is in none.
    """

    source: str
    path: PurePosixPath
    data: bytes
    archive: str = ""


def read_files(path: Path, report: ImportReport, *, suffixes: tuple[str, ...] = ()) -> Iterator[LogFile]:
    """Every file of a folder (sorted) or archive (in its own order), or the file itself.

    Args:
        path: File, folder or archive; archives inside a folder are opened too.
        report: Where refused files are counted.
        suffixes: Files of other endings are passed over unread; empty takes all.

    Raises:
        DatasetError: If there is no such file or folder.
    """
    if path.is_dir():
        for inner in _walk(path, report):
            yield from _read_path(inner, report, suffixes, shown=PurePosixPath(inner.relative_to(path).as_posix()))
    elif path.is_file():
        yield from _read_path(path, report, suffixes, shown=PurePosixPath(path.name))
    else:
        raise DatasetError(f"{path}: no such file or folder; give the log's file, folder or archive")


def _walk(folder: Path, report: ImportReport) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders are not followed. Holds the names of one branch at a time."""
    try:
        inner = sorted(folder.iterdir())
    except OSError as error:
        report.reject(_UNREADABLE, source=folder.name, detail=str(error))
        return
    for path in inner:
        if path.is_dir():
            if not path.is_symlink():
                yield from _walk(path, report)
        elif path.is_file():
            yield path


def _read_path(
    path: Path, report: ImportReport, suffixes: tuple[str, ...], *, shown: PurePosixPath
) -> Iterator[LogFile]:
    if path.name.lower().endswith(_TAR_SUFFIXES):
        yield from _read_tar(path, report, suffixes)
    elif path.suffix.lower() == ".zip":
        yield from _read_zip(path, report, suffixes)
    elif not suffixes or path.name.endswith((*suffixes, *(f"{suffix}.gz" for suffix in suffixes))):
        yield from _read_plain(path, report, shown=shown)


def _read_plain(path: Path, report: ImportReport, *, shown: PurePosixPath) -> Iterator[LogFile]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(MAX_FILE_BYTES + 1)
            shown = shown.with_suffix("")
        else:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except _READ_ERRORS as error:
        report.reject(_BROKEN, source=str(shown), detail=str(error))
        return
    if len(data) > MAX_FILE_BYTES:
        report.reject(_LARGE, source=str(shown), detail=f"over {MAX_FILE_BYTES} bytes")
        return
    report.n_files += 1
    yield LogFile(source=str(shown), path=shown, data=data)


def _read_tar(path: Path, report: ImportReport, suffixes: tuple[str, ...]) -> Iterator[LogFile]:
    n_total = 0
    try:
        most = min(MAX_ARCHIVE_BYTES, max(MIN_BOMB_BYTES, MAX_RATIO * path.stat().st_size))
        with tarfile.open(path, mode="r|*") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep all that it has passed
                # Members that nobody wants are unpacked as well, to find the next one.
                n_total += member.size
                if n_total > most:
                    report.reject(_BOMB, source=path.name, detail=f"over {most} bytes in all; what follows is lost")
                    return
                if _is_wanted(member.name, suffixes) and not member.isdir():
                    yield from _read_tar_member(archive, member, report, name=path.name)
    except _READ_ERRORS as error:
        report.reject(_BROKEN, source=path.name, detail=f"{type(error).__name__}: {error}; what follows is lost")


def _read_tar_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, report: ImportReport, *, name: str
) -> Iterator[LogFile]:
    source = f"{name}:{member.name}"
    problem = _problem(member.name, is_file=member.isfile(), n_bytes=member.size)
    file = None if problem else archive.extractfile(member)
    if file is None:
        report.reject(problem or _LINK, source=source, detail=f"{member.size} bytes")
        return
    data = file.read()
    report.n_files += 1
    yield LogFile(source=source, path=PurePosixPath(member.name), data=data, archive=name)


def _read_zip(path: Path, report: ImportReport, suffixes: tuple[str, ...]) -> Iterator[LogFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            n_total = 0
            for member in archive.infolist():
                source = f"{path.name}:{member.filename}"
                if member.is_dir() or not _is_wanted(member.filename, suffixes):
                    continue
                n_total += member.file_size
                ratio = member.file_size / max(member.compress_size, 1)
                is_file = not stat.S_ISLNK(member.external_attr >> 16)
                problem = _problem(member.filename, is_file=is_file, n_bytes=member.file_size, ratio=ratio)
                if problem or n_total > MAX_ARCHIVE_BYTES:
                    report.reject(
                        problem or _BOMB, source=source, detail=f"{member.file_size} bytes, ratio {ratio:.0f}"
                    )
                    continue
                yield from _read_zip_member(archive, member, report, name=path.name)
    except _READ_ERRORS as error:
        report.reject(_BROKEN, source=path.name, detail=f"{type(error).__name__}: {error}")


def _read_zip_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, report: ImportReport, *, name: str
) -> Iterator[LogFile]:
    source = f"{name}:{member.filename}"
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)  # the size in the directory may lie
    except _READ_ERRORS as error:
        report.reject(_BROKEN, source=source, detail=f"{type(error).__name__}: {error}")
        return
    if len(data) > member.file_size:
        report.reject(_BOMB, source=source, detail=f"more than the {member.file_size} bytes that the directory says")
        return
    report.n_files += 1
    yield LogFile(source=source, path=PurePosixPath(member.filename), data=data, archive=name)


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return not suffixes or name.endswith(suffixes)


def _problem(name: str, *, is_file: bool, n_bytes: int, ratio: float = 0.0) -> str:
    """Why a member is refused; empty if it is not."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        return _UNSAFE
    if not is_file:
        return _LINK
    if n_bytes > MIN_BOMB_BYTES and ratio > MAX_RATIO:
        return _BOMB
    return _LARGE if n_bytes > MAX_FILE_BYTES else ""
