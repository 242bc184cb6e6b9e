"""On-disk cache of text vectors, so that a text is encoded once, whoever asks first."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import MTRouterError
from mtrouter_rl.protocols import TextEncoder

Float32Array = npt.NDArray[np.float32]

CACHE_FILE = "text-vectors.sqlite"
"""Name of the file in the cache folder; it holds the vectors of any number of encoders."""

_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 60.0
_RETRY_S = 0.02
_MAX_IN_MEMORY = 200_000
"""Vectors that are kept in memory; when there are more, the older half goes, and is read or encoded again if need be."""
_KEYS_PER_SELECT = 500
_STORED_DTYPE = np.dtype("<f4")
_DELETE_IT = "delete the file, it is filled again as texts are encoded"


class EncoderCacheError(MTRouterError):
    """The on-disk cache of text vectors is corrupt, cannot be used, or was written by something else."""


class CachedEncoder:
    """A text encoder that remembers, in memory and, given a folder, on disk.

    The first vector of a text sticks: it is stored bit for bit, and whoever asks later gets it, in this process or
    another. Several processes may read and write one folder at once. Copies sent to another process open the file anew.

    Attributes:
        name: Name of the encoder inside.
        dim: Size E of a vector.
        n_hits: Texts that were answered without encoding, repeats within a call included.
        n_misses: Texts that were encoded.
    """

    def __init__(self, encoder: TextEncoder, folder: Path | None) -> None:
        """Wrap an encoder; nothing is opened yet.

        Args:
            encoder: Encoder that is asked for new texts.
            folder: Folder of the cache file, made if needed. None remembers in memory only.
        """
        self.name = encoder.name
        self.dim = encoder.dim
        self.n_hits = 0
        self.n_misses = 0
        self._encoder = encoder
        self._disk = None if folder is None else _VectorFile(folder / CACHE_FILE, dim=encoder.dim)
        self._prefix = blake2b(encoder.name.encode(), digest_size=16).digest()
        self._memory: dict[bytes, Float32Array] = {}

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Vectors of texts, one row each, shape (len(texts), E).

        Raises:
            EncoderCacheError: If the cache file is corrupt or cannot be used.
        """
        keys = [self._key(text) for text in texts]
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._memory}
        if unknown and self._disk is not None:
            found = self._disk.read(list(unknown))
            self._memory |= found
            unknown = {key: text for key, text in unknown.items() if key not in found}
        if unknown:
            self._add(unknown)
        self.n_misses += len(unknown)
        self.n_hits += len(keys) - len(unknown)
        rows = np.empty((len(keys), self.dim), dtype=np.float32)
        for row, key in zip(rows, keys, strict=True):
            row[:] = self._memory[key]
        if len(self._memory) > _MAX_IN_MEMORY:
            self._memory = dict(list(self._memory.items())[-_MAX_IN_MEMORY // 2 :])
        return rows

    def forget(self) -> None:
        """Give the memory of the vectors back; they are read from the file again, or encoded again where there is none."""
        self._memory.clear()

    def close(self) -> None:
        """Close the cache file; the next call opens it again."""
        if self._disk is not None:
            self._disk.close()

    def _key(self, text: str) -> bytes:
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._prefix).digest()

    def _add(self, unknown: dict[bytes, str]) -> None:
        encoded = np.ascontiguousarray(self._encoder.encode(list(unknown.values())), dtype=np.float32)
        vectors = dict(zip(unknown, encoded, strict=True))
        if self._disk is not None:
            vectors = self._disk.write(vectors)
        self._memory |= vectors


class _VectorFile:
    """The SQLite file: key -> float32 bytes. Opened at first use, once per process."""

    def __init__(self, path: Path, *, dim: int) -> None:
        self._path = path
        self._dim = dim
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_dim": self._dim, "_connection": None, "_process": 0}

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Float32Array]:
        """Vectors of those keys that are stored."""
        with self._errors():
            return self._select(self._open(), keys)

    def write(self, vectors: dict[bytes, Float32Array]) -> dict[bytes, Float32Array]:
        """Store vectors; where another process was faster, its vector is kept. Returns what is stored."""
        with self._errors():
            connection = self._open()
            rows = [(key, vector.astype(_STORED_DTYPE).tobytes()) for key, vector in vectors.items()]
            with connection:
                n_before = connection.total_changes
                connection.executemany("INSERT OR IGNORE INTO vectors (key, vector) VALUES (?, ?)", rows)
                all_new = connection.total_changes - n_before == len(rows)
            return vectors if all_new else self._select(connection, list(vectors))

    def close(self) -> None:
        """Close the connection of this process."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        # A connection must not be used on the other side of a fork.
        if self._connection is None or self._process != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._connect_patiently()
            self._process = os.getpid()
        return self._connection

    def _connect_patiently(self) -> sqlite3.Connection:
        # SQLite does not wait, whatever its timeout, where two processes turn on write-ahead logging at once.
        deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                return self._connect()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                    raise
                time.sleep(_RETRY_S)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        self._prepare(connection)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check the version of the file, or make its table if it is new."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == _SCHEMA_VERSION:
            return
        if version != 0:
            connection.close()
            raise EncoderCacheError(
                f"text-vector cache {self._path}: version is {version}, must be {_SCHEMA_VERSION}; delete the file, or "
                "use the release that wrote it"
            )
        connection.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _select(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Float32Array]:
        found: dict[bytes, Float32Array] = {}
        for start in range(0, len(keys), _KEYS_PER_SELECT):
            chunk = keys[start : start + _KEYS_PER_SELECT]
            marks = ",".join("?" * len(chunk))
            for key, stored in connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", chunk):
                found[key] = self._parse(stored)
        return found

    def _parse(self, stored: bytes) -> Float32Array:
        expected = self._dim * _STORED_DTYPE.itemsize
        if len(stored) != expected:
            raise EncoderCacheError(
                f"text-vector cache {self._path}: a vector has {len(stored)} bytes, must have {expected} "
                f"({self._dim} float32); {_DELETE_IT}"
            )
        return np.frombuffer(stored, dtype=_STORED_DTYPE).astype(np.float32)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            # SQLite reports damage as the base class itself; its subclasses are trouble around a sound file.
            if type(error) is sqlite3.DatabaseError:
                problem, fix = "is corrupt", _DELETE_IT
            else:
                problem, fix = "cannot be used", "check that the folder can be written and no process locks the file"
            raise EncoderCacheError(f"text-vector cache {self._path} {problem}: {error}; {fix}") from error
