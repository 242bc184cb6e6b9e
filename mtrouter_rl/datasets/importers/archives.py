"""Opens files, folders, packed files and archives alike, one file after the other, without trusting what is in them.

Nothing is unpacked to disk. A member whose path leaves the archive, a link, a device, a file that is too large and an
archive that unpacks to far too much are refused and counted; the rest is read. What is passed over because it is no file of
the wanted kind is listed.
"""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa

from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.errors import DatasetError

MAX_FILE_BYTES = 256 * 2**20
"""A single file of a log larger than this is refused; JSON of it would take several times as much memory."""
MAX_ARCHIVE_BYTES = 64 * 2**30
"""What unpacks to more than this is not read any further."""
MAX_RATIO = 500
"""What unpacks to more than this many times its packed size, and to over `MIN_BOMB_BYTES`, is refused: a zip member, or all
of a packed file or tar archive from there on. Deflate cannot pack better than 1032 times; logs pack 10 to 100 times."""
MIN_BOMB_BYTES = 8 * 2**20
MAX_MEMBERS = 1_000_000
"""An archive with more members than this is not read any further."""
MAX_DEPTH = 3
"""Archives in archives in archives are opened, and none in those."""
MAX_HEADER_BYTES = 2**20
"""A long name or another header of a tar member that is larger than this is no name."""

_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_SHORT_TARS = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
ARCHIVE_SUFFIXES = (".tar", ".zip", *(f".tar{packed}" for packed in _PACKED_SUFFIXES), *_SHORT_TARS)
"""Endings, in lower case, of what is read as an archive."""
SKIPPED = "file of another kind, not read"
_ROTATED = re.compile(r"([.-]\d{1,3}|[.-]\d{8}([-_.T]?\d{2,6})?|[.-]\d{4}-\d{2}-\d{2}([-_.T]?\d{2,6})?)$")
_UNSAFE = "path that leaves the archive"
_BROKEN = "archive that is cut off or broken"
_BOMB = "file that unpacks to far too much"
_LINK = "link or device in an archive"
_LARGE = "file that is too large"
_DEEP = "archive in too many archives"
_UNREADABLE = "folder that cannot be read"
_BUFFER_BYTES = 2**16


class BombError(OSError):
    """Something unpacks to far more than a log would."""


READ_ERRORS = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    pa.ArrowException,
)
"""What reading a broken file may raise; `BombError` is one of them."""


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


@dataclass(frozen=True, kw_only=True)
class LogStream:
    """One file of a log that is read piece by piece, before the next one is asked for.

    Attributes:
        source: Where it is, for messages: file, or archive and member.
        path: Path inside the folder or archive that was given; the file's own name if it was given itself.
        file: Its bytes, unpacked.
        archive: Name of the archive that it is in; empty if it is in none.
    """

    source: str
    path: PurePosixPath
    file: IO[bytes]
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
    for stream in open_files(path, report, suffixes=suffixes):
        try:
            data = stream.file.read(MAX_FILE_BYTES + 1)
        except READ_ERRORS as error:
            reject_broken(report, stream.source, error)
            continue
        if len(data) > MAX_FILE_BYTES:
            report.reject(_LARGE, source=stream.source, detail=f"over {MAX_FILE_BYTES} bytes")
            continue
        report.n_files += 1
        yield LogFile(source=stream.source, path=stream.path, data=data, archive=stream.archive)


def open_files(path: Path, report: ImportReport, *, suffixes: tuple[str, ...] = ()) -> Iterator[LogStream]:
    """As `read_files`, for files that are read piece by piece; whoever reads them counts them and what breaks in them."""
    opener = _Opener(report, tuple(suffix.lower() for suffix in suffixes))
    if path.is_dir():
        for inner in _walk(path, report):
            yield from opener.open_path(inner, PurePosixPath(inner.relative_to(path).as_posix()))
    elif path.is_file():
        yield from opener.open_path(path, PurePosixPath(path.name))
    else:
        raise DatasetError(f"{path}: no such file or folder; give the log's file, folder or archive")


def reject_broken(report: ImportReport, source: str, error: Exception) -> None:
    """Count a file or archive that cannot be read to its end; once, if what broke is the last member that was read."""
    if report.last_broken.startswith(f"{source}:"):
        return
    report.last_broken = source
    if isinstance(error, BombError):
        report.reject(_BOMB, source=source, detail=f"{error}; what follows is lost")
        return
    detail = f"{type(error).__name__}: {error}; what follows is lost"
    if source.lower().endswith((".zst", ".zstd")):
        detail = f".zst is not read: {detail}; unpack it with unzstd, and give what that makes of it"
    report.reject(_BROKEN, source=source, detail=detail)


def plain_name(name: str) -> str:
    """Name of a file in lower case, without what packing and rotation append.

    Example:
        >>> plain_name("Calls.JSONL.2.gz"), plain_name("calls.jsonl-20250102"), plain_name("a.v1.jsonl")
        ('calls.jsonl', 'calls.jsonl', 'a.v1.jsonl')
    """
    lower = name.lower()
    for suffix in _PACKED_SUFFIXES:
        lower = lower.removesuffix(suffix)
    return _ROTATED.sub("", lower)


def _walk(folder: Path, report: ImportReport) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders are not followed. Holds the names of one branch at a time."""
    try:
        inner = sorted(folder.iterdir(), key=_rank)
    except OSError as error:
        report.reject(_UNREADABLE, source=folder.name, detail=str(error))
        return
    for path in inner:
        if path.is_dir():
            if not path.is_symlink():
                yield from _walk(path, report)
        elif path.is_file():
            yield path


def _rank(path: Path) -> tuple[str, int, str]:
    """Order in a folder: by name, and of a rotated log the oldest part first, the one still written to last."""
    lower = path.name.lower()
    for suffix in _PACKED_SUFFIXES:
        lower = lower.removesuffix(suffix)
    match = _ROTATED.search(lower)
    if match is None or "." not in lower[: match.start()]:
        return path.name, 1, ""
    number = match[0][1:]
    base = path.name[: match.start()]
    return (base, -int(number), "") if len(number) <= 3 else (base, 0, number)


class _Opener:
    """Opens whatever comes; `depth` counts the archives around it."""

    def __init__(self, report: ImportReport, suffixes: tuple[str, ...]) -> None:
        self._report = report
        self._suffixes = suffixes

    def open_path(self, path: Path, shown: PurePosixPath) -> Iterator[LogStream]:
        if not self._is_of_interest(path.name):
            self._skip(str(shown))
            return
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                budget = _Budget(min(MAX_ARCHIVE_BYTES, max(MIN_BOMB_BYTES, MAX_RATIO * size)))
                is_archive = path.name.lower().endswith(ARCHIVE_SUFFIXES)
                source = path.name if is_archive else str(shown)
                yield from self._open(cast("IO[bytes]", file), shown, source, "", budget, 0)
        except READ_ERRORS as error:
            reject_broken(self._report, str(shown), error)

    def _open(
        self, file: IO[bytes], path: PurePosixPath, source: str, archive: str, budget: "_Budget", depth: int
    ) -> Iterator[LogStream]:
        """One file, or all that is in it if it is an archive."""
        lower = path.name.lower()
        for short, long in _SHORT_TARS.items():
            if lower.endswith(short):
                lower = lower.removesuffix(short) + long
        if lower.endswith(ARCHIVE_SUFFIXES) and depth >= MAX_DEPTH:
            self._report.reject(_DEEP, source=source, detail=f"more than {MAX_DEPTH} archives in each other")
            return
        for packed in _PACKED_SUFFIXES:
            if lower.endswith(packed):
                file = _counted(_unpacked(file, packed), budget)
                lower = lower.removesuffix(packed)
                path = path.with_name(path.name[: -len(packed)]) if not lower.endswith(".tar") else path
        if lower.endswith(".tar"):
            yield from self._open_tar(file, source, budget, depth)
        elif lower.endswith(".zip"):
            yield from self._open_zip(file, source, budget, depth)
        else:
            yield LogStream(source=source, path=path, file=file, archive=archive)

    def _open_tar(self, file: IO[bytes], source: str, budget: "_Budget", depth: int) -> Iterator[LogStream]:
        try:
            with tarfile.open(fileobj=file, mode="r|", tarinfo=_CarefulTarInfo) as archive:
                n_members = 0
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep all that it has passed
                    n_members += 1
                    budget.see_members(n_members)
                    if not member.isdir():
                        yield from self._open_tar_member(archive, member, source, budget, depth)
        except READ_ERRORS as error:
            reject_broken(self._report, source, error)

    def _open_tar_member(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, source: str, budget: "_Budget", depth: int
    ) -> Iterator[LogStream]:
        inner = f"{source}:{member.name}"
        budget.see_size(member.size)
        if not self._is_of_interest(PurePosixPath(member.name).name):
            self._skip(inner)
            return
        problem = _problem(member.name, is_file=member.isfile(), n_bytes=member.size)
        file = None if problem else archive.extractfile(member)
        if file is None:
            self._report.reject(problem or _LINK, source=inner, detail=f"{member.size} bytes")
            return
        yield from self._open(file, PurePosixPath(member.name), inner, _last(source), budget, depth + 1)

    def _open_zip(self, file: IO[bytes], source: str, budget: "_Budget", depth: int) -> Iterator[LogStream]:
        try:
            if depth:  # a stream inside another archive cannot be read backwards
                data = file.read(MAX_FILE_BYTES + 1)
                if len(data) > MAX_FILE_BYTES:
                    self._report.reject(_LARGE, source=source, detail=f"over {MAX_FILE_BYTES} bytes")
                    return
                file = io.BytesIO(data)
            with zipfile.ZipFile(file) as archive:
                budget.see_members(len(archive.infolist()))
                for member in archive.infolist():
                    if not member.is_dir():
                        yield from self._open_zip_member(archive, member, source, budget, depth)
        except READ_ERRORS as error:
            reject_broken(self._report, source, error)

    def _open_zip_member(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str, budget: "_Budget", depth: int
    ) -> Iterator[LogStream]:
        inner = f"{source}:{member.filename}"
        if not self._is_of_interest(PurePosixPath(member.filename).name):
            self._skip(inner)
            return
        ratio = member.file_size / max(member.compress_size, 1)
        is_file = not stat.S_ISLNK(member.external_attr >> 16)
        problem = _problem(member.filename, is_file=is_file, n_bytes=member.file_size, ratio=ratio)
        if problem:
            self._report.reject(problem, source=inner, detail=f"{member.file_size} bytes, ratio {ratio:.0f}")
            return
        try:
            with archive.open(member) as file:
                limited = _counted(file, _Budget(member.file_size, parent=budget))
                yield from self._open(limited, PurePosixPath(member.filename), inner, _last(source), budget, depth + 1)
        except READ_ERRORS as error:
            reject_broken(self._report, inner, error)

    def _is_of_interest(self, name: str) -> bool:
        lower = name.lower()
        if name.startswith("._"):  # what macOS adds to archives
            return False
        is_archive = lower.endswith(ARCHIVE_SUFFIXES)
        return is_archive or not self._suffixes or plain_name(name).endswith(self._suffixes)

    def _skip(self, source: str) -> None:
        self._report.note(SKIPPED, source=source)


def _last(source: str) -> str:
    """Name of the innermost archive of a place."""
    return PurePosixPath(source.rpartition(":")[2]).name


class _Budget:
    """How much may be unpacked in all."""

    def __init__(self, most: int, *, parent: "_Budget | None" = None) -> None:
        self._most = most
        self._used = 0
        self._parent = parent

    def use(self, n_bytes: int) -> None:
        """Count bytes that were unpacked.

        Raises:
            BombError: If they are too many.
        """
        self._used += n_bytes
        if self._used > self._most:
            raise BombError(f"over {self._most} bytes in all")
        if self._parent is not None:
            self._parent.use(n_bytes)

    def see_size(self, n_bytes: int) -> None:
        """See a size that a header gives, before anything of it is unpacked.

        Raises:
            BombError: If it is too large.
        """
        if self._used + n_bytes > self._most:
            raise BombError(f"over {self._most} bytes in all")

    def see_members(self, n_members: int) -> None:
        """See how many members there are.

        Raises:
            BombError: If they are too many.
        """
        if n_members > MAX_MEMBERS:
            raise BombError(f"over {MAX_MEMBERS} members")


class _CountedReader(io.RawIOBase):
    """Passes bytes on and counts them."""

    def __init__(self, file: IO[bytes], budget: _Budget) -> None:
        self._file = file
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._file.read(len(view))
        self._budget.use(len(data))
        view[: len(data)] = data
        return len(data)


def _counted(file: IO[bytes], budget: _Budget) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_CountedReader(file, budget), _BUFFER_BYTES))


def _unpacked(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if suffix == ".bz2":
        return cast("IO[bytes]", bz2.BZ2File(file))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return cast("IO[bytes]", pa.input_stream(file, compression="zstd"))


class _CarefulTarInfo(tarfile.TarInfo):
    """Header of a tar member; one that claims to be longer than any name, or a file with holes, is refused unread."""

    _EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_CarefulTarInfo":
        header = super().frombuf(buf, encoding, errors)
        if header.type in cls._EXTENDED and header.size > MAX_HEADER_BYTES:
            raise BombError(f"a name of {header.size} bytes")
        return header

    def _refuse_holes(self, *_: object) -> None:
        raise BombError("a file with holes, which is no log")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_holes


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
