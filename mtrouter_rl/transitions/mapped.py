"""History features of a log that is too large for memory: written once beside it, and read from disk by row.

A row of history features is three text vectors (task, last observation, last action) and columns of its own. The vectors are
stored once for every distinct text, and rows refer to them by number. What is read back is equal to the bit to what
`HistoryFeatures.of_episode` gives. Small files are mapped into memory, of large ones each row is read when it is asked for, so
that the resident size does not grow with the log.

    features/<key>/own.f32      columns from "recent" on, shape (R, W)
    features/<key>/texts.f32    vectors of distinct texts, shape (n, E); the first is all 0, for "no action yet"
    features/<key>/index.i32    numbers of the three texts of every row, shape (R, 3)
    features/<key>/features.json    what they are of; written last, so that a folder without it counts for nothing
"""

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.files import LockedPlace, read_json, write_atomically
from mtrouter_rl.records import Episode

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.protocols import TextEncoder

Float32Array = npt.NDArray[np.float32]

FEATURES_FOLDER = "features"
"""Folder beside the log that holds one folder for every encoder, pool and version of the features."""
FEATURES_FILE = "features.json"
_TEXT_NAMES = ("task", "last_observation", "last_action")
_MAPPED_BYTES = 2 << 30
"""Files of one log are mapped into memory, text vectors first, while they have no more bytes than this together; of the others
each row is read, so that the resident size stays bounded."""
TURNS_PER_CHUNK = 5000
"""Turns of the episodes that are in memory at a time."""
_LOG = logging.getLogger(__name__)
_FIX = "delete the folder; it is made anew"


class FeatureFiles:
    """The files of one log, opened for reading.

    Attributes:
        n_rows: R, states before every turn and after the last one of every episode.
        dim: D.
        checksum: Of all that is stored.
    """

    def __init__(self, folder: Path) -> None:
        """Open a finished folder.

        Raises:
            DatasetError: If its files do not have the sizes that it tells.
        """
        told = cast("dict[str, Any]", read_json(folder / FEATURES_FILE))
        self.n_rows, self.checksum = int(told["n_rows"]), str(told["checksum"])
        text_dim, n_own = int(told["text_dim"]), int(told["n_own"])
        self.dim = len(_TEXT_NAMES) * text_dim + n_own
        self._text_dim = text_dim
        self._texts = _Rows(folder / "texts.f32", (int(told["n_texts"]), text_dim), at_most=_MAPPED_BYTES)
        self._own = _Rows(folder / "own.f32", (self.n_rows, n_own), at_most=_MAPPED_BYTES - self._texts.mapped_bytes)
        # Twelve bytes a row: worth keeping, so that no page of it is touched for one number.
        self._index = np.array(_mapped(folder / "index.i32", np.int32, (self.n_rows, len(_TEXT_NAMES))))

    def gather(self, rows: npt.NDArray[np.int64], into: Float32Array) -> None:
        """Write the features of rows, shape (B, D), into the first columns of an array."""
        size = self._text_dim
        for number in range(len(_TEXT_NAMES)):
            into[:, number * size : (number + 1) * size] = self._texts.take(self._index[rows, number])
        into[:, len(_TEXT_NAMES) * size : self.dim] = self._own.take(rows)


class _Rows:
    """Rows of float32 in a file, which is mapped if it has at most so many bytes."""

    def __init__(self, path: Path, shape: tuple[int, int], *, at_most: int) -> None:
        self._mapped: npt.NDArray[np.float32] = _mapped(path, np.float32, shape)
        self._path, self._row_bytes = path, 4 * shape[1]
        is_mapped = self._mapped.nbytes <= at_most
        self.mapped_bytes = self._mapped.nbytes if is_mapped else 0
        self._file = None if is_mapped else path.open("rb", buffering=0)
        if self._file is not None:  # else the system reads ahead what is hardly ever wanted
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Float32Array:
        """Copy of rows, by number, shape (B, n columns)."""
        if self._file is None:
            found: Float32Array = self._mapped[rows]
            return found
        size, file = self._row_bytes, self._file.fileno()
        # Rows that follow each other are one piece: whoever goes through the turns of a log asks for long ones.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        sizes = np.diff(starts, append=len(rows)) * size
        places = rows[starts].astype(np.int64) * size
        read = b"".join([os.pread(file, *piece) for piece in zip(sizes.tolist(), places.tolist(), strict=True)])
        if len(read) != len(rows) * size:
            raise DatasetError(f"{self._path} ends before rows that {FEATURES_FILE} says it has; {_FIX}")
        return np.frombuffer(read, dtype=np.float32).reshape(len(rows), size // 4)


class MappedObservations:
    """Rows of [history features (D), extra columns, allowed bits (M)], read from disk as they are asked for.

    It stands where `Transitions.observations` is an array otherwise: it has its shape, and gives copies of rows.

    Attributes:
        shape: (R, D + n_extra + M).
        allowed: Allowed bits, uint8, shape (R, M).
        extra: What the extra columns hold, the same in every row, shape (n_extra,).
    """

    def __init__(self, files: Sequence[FeatureFiles], allowed: npt.NDArray[np.uint8], extra: Float32Array) -> None:
        self.allowed, self.extra = allowed, extra
        self.shape = (len(allowed), files[0].dim + len(extra) + allowed.shape[1])
        self._files = tuple(files)
        self._starts = np.cumsum([0, *(one.n_rows for one in files)])
        assert self._starts[-1] == len(allowed)

    def __len__(self) -> int:
        return len(self.allowed)

    def __getitem__(self, rows: "npt.NDArray[Any] | slice | tuple[Any, slice]") -> Float32Array:
        """Copy of some rows: numbers, flags or a slice of them, and if need be a slice of columns."""
        if isinstance(rows, tuple):
            return self[rows[0]][:, rows[1]]
        numbers = self._numbers_of(rows)
        found = np.empty((len(numbers), self.shape[1]), dtype=np.float32)
        dim, n_models = self._files[0].dim, self.allowed.shape[1]
        if len(self._files) == 1:
            self._files[0].gather(numbers, found)
        else:
            self._gather_several(numbers, found)
        found[:, dim : dim + len(self.extra)] = self.extra
        found[:, -n_models:] = self.allowed[numbers]
        return found

    def _numbers_of(self, rows: "npt.NDArray[Any] | slice") -> npt.NDArray[np.int64]:
        """Numbers of rows; where numbers are given, in no more time than there are of them."""
        if isinstance(rows, np.ndarray) and rows.dtype != np.bool_:
            if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
                raise IndexError(f"rows from {rows.min()} to {rows.max()} of {len(self)}")
            return np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        numbers: npt.NDArray[np.int64] = np.arange(len(self))[rows]
        return numbers

    def with_allowed(self, allowed: npt.NDArray[np.uint8]) -> "MappedObservations":
        """The same rows with other bits."""
        return MappedObservations(self._files, allowed, self.extra)

    def with_extra(self, extra: Float32Array) -> "MappedObservations":
        """The same rows with other extra columns."""
        assert len(extra) == len(self.extra)
        return MappedObservations(self._files, self.allowed, extra)

    def fingerprint(self) -> int:
        """Checksum of all that the rows hold."""
        checksum = zlib.crc32("-".join(one.checksum for one in self._files).encode())
        for array in (self.extra, self.allowed):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return checksum

    def _gather_several(self, numbers: npt.NDArray[np.int64], into: Float32Array) -> None:
        file_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for number in np.unique(file_of):
            chosen = np.flatnonzero(file_of == number)
            part = np.empty((len(chosen), self._files[number].dim), dtype=np.float32)
            self._files[number].gather(numbers[chosen] - self._starts[number], part)
            into[chosen, : self._files[number].dim] = part


class FeatureWriter:
    """Writes the features of a log, or finds them written.

    Args:
        parent: Folder that holds `features/`, such as that of the log.
        features: Encodes the log.
        log_digest: Digest of the log's episodes.
    """

    def __init__(self, parent: Path, features: HistoryFeatures, *, log_digest: str) -> None:
        pool = features.pool.model_dump(mode="json")
        identity = {"log": log_digest, "features": features.to_config(), "pool": pool}
        key = blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=12).hexdigest()
        self.folder = parent / FEATURES_FOLDER / key
        self._features, self._identity = features, identity

    def find(self) -> FeatureFiles | None:
        """The files, if they are written."""
        return FeatureFiles(self.folder) if (self.folder / FEATURES_FILE).is_file() else None

    def write(self, chunks: Iterable[Sequence[Episode]]) -> FeatureFiles:
        """Write the features of all episodes, a few in memory at a time.

        Args:
            chunks: All episodes of the log, in order, some at a time.

        Raises:
            BusyError: If another process writes them.
            DatasetError: If the disk refuses them.
        """
        with ExitStack() as stack:
            try:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                lock = LockedPlace(self.folder)
                stack.callback(lock.release)
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir()
                names = ("own.f32", "texts.f32", "index.i32")
                own, texts, index = (stack.enter_context((self.folder / name).open("wb")) for name in names)
                told = self._fill(chunks, own, texts, index)
            except OSError as error:
                raise DatasetError(
                    f"{self.folder} cannot be written: {error}; free disk space, or give the log's folder write permission"
                ) from error
            write_atomically(self.folder / FEATURES_FILE, (json.dumps(told | self._identity) + "\n").encode())
        return FeatureFiles(self.folder)

    def _fill(
        self, chunks: Iterable[Sequence[Episode]], own: BinaryIO, texts: BinaryIO, index: BinaryIO
    ) -> dict[str, object]:
        table = _TextTable(self._features.encoder, texts)
        features = HistoryFeatures(encoder=table, pool=self._features.pool, config=self._features.config, n_states=0)
        n_rows = checksum = 0
        start = len(_TEXT_NAMES) * table.dim
        for episodes in chunks:
            table.begin(features.texts_of(episodes))
            for episode in episodes:
                rows = np.ascontiguousarray(features.of_episode(episode)[:, start:])
                numbers = table.numbers_of(episode)
                own.write(rows.data)
                index.write(numbers.data)
                checksum = zlib.crc32(numbers.data, zlib.crc32(rows.data, checksum))
                n_rows += len(rows)
        for file in (own, texts, index):
            file.flush()
        return {
            "n_rows": n_rows,
            "n_texts": table.n_texts,
            "text_dim": table.dim,
            "n_own": features.dim - start,
            "checksum": f"{checksum:08x}-{table.checksum:08x}",
        }


class _TextTable:
    """An encoder that writes every distinct text's vector once, and knows its number.

    In memory are the numbers of all texts by a hash, and the vectors of the texts of the present episodes.
    """

    def __init__(self, encoder: "TextEncoder", file: BinaryIO) -> None:
        self.name, self.dim = encoder.name, encoder.dim
        self.checksum = 0
        self._encoder = encoder
        self._file = file
        self._numbers: dict[bytes, int] = {}
        self._now: dict[str, Float32Array] = {}
        self._file.write(np.zeros(self.dim, dtype=np.float32).data)

    @property
    def n_texts(self) -> int:
        """Vectors in the file, the one of no text included."""
        return len(self._numbers) + 1

    def begin(self, texts: Iterable[str]) -> None:
        """Take in the texts of the episodes that come now."""
        distinct = sorted(set(texts))
        vectors = np.ascontiguousarray(self._encoder.encode(distinct), dtype=np.float32)
        if isinstance(self._encoder, CachedEncoder):
            self._encoder.forget()
        self._now = dict(zip(distinct, vectors, strict=True))
        for text, vector in self._now.items():
            key = _key(text)
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers) + 1
                self._file.write(vector.data)
                self.checksum = zlib.crc32(vector.data, self.checksum)

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Vectors of texts of the present episodes, shape (len(texts), E)."""
        return np.stack([self._now[text] for text in texts])

    def numbers_of(self, episode: Episode) -> npt.NDArray[np.int32]:
        """Numbers of task, last observation and last action at every state of an episode, shape (T + 1, 3)."""
        found = np.zeros((len(episode.turns) + 1, len(_TEXT_NAMES)), dtype=np.int32)
        found[:, 0] = self._number(episode.task_text)
        found[0, 1] = self._number(episode.first_observation)
        for index, turn in enumerate(episode.turns, start=1):
            found[index, 1:] = self._number(turn.observation_text), self._number(turn.action_text)
        return found

    def _number(self, text: str) -> int:
        return self._numbers[_key(text)]


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _mapped(path: Path, dtype: type, shape: tuple[int, int]) -> npt.NDArray[Any]:
    wanted = int(np.dtype(dtype).itemsize * np.prod(shape))
    there = path.stat().st_size if path.is_file() else -1
    if there != wanted:
        raise DatasetError(f"{path} has {max(there, 0)} bytes, must have {wanted}, as {FEATURES_FILE} says; {_FIX}")
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def with_turns(dataset: "Dataset") -> Iterator[Episode]:
    """Completed episodes with a turn, of which there must be one."""
    found = False
    for episode in dataset.completed:
        if episode.turns:
            found = True
            yield episode
    if not found:
        raise nothing_to_learn(dataset)


def bits_of(episodes: Sequence[Episode]) -> npt.NDArray[np.float32]:
    """Allowed bits of every row of episodes, 0 after the last turn."""
    bits = np.zeros((count_rows(episodes), len(episodes[0].turns[0].action_mask)), dtype=np.float32)
    start = 0
    for episode in episodes:
        bits[start : start + len(episode.turns)] = [turn.action_mask for turn in episode.turns]
        start += len(episode.turns) + 1
    return bits


def features_on_disk(dataset: "Dataset", features: HistoryFeatures) -> FeatureFiles:
    """The features of a log of which memory holds no episodes, written beside it if they are not yet.

    Raises:
        BusyError, DatasetError: As `FeatureWriter.write`.
    """
    episodes = dataset.episodes
    if isinstance(episodes, StreamedEpisodes):
        writer = FeatureWriter(episodes.folder, features, log_digest=episodes.digest())
    else:  # beside a larger one
        writer = FeatureWriter(Path(tempfile.mkdtemp(prefix="mtrouter-rl-")), features, log_digest="")
    found = writer.find()
    if found is not None:
        return found
    _LOG.info("the history features of the log are written to %s", writer.folder)
    return writer.write(chunks_of(with_turns(dataset), n_turns=TURNS_PER_CHUNK))


def nothing_to_learn(dataset: "Dataset") -> InvalidConfigError:
    """What is raised for a log without a completed turn."""
    return InvalidConfigError(
        f"dataset '{dataset.info.dataset_id}' has no completed episode with a turn; there is nothing to learn from"
    )


def count_rows(episodes: Sequence[Episode]) -> int:
    """Rows of observations of episodes: the states before every turn and after the last."""
    return sum(len(episode.turns) + 1 for episode in episodes)


def chunks_of(episodes: Iterable[Episode], *, n_turns: int) -> Iterator[list[Episode]]:
    """Episodes in order, as many at a time as have about so many turns together."""
    chunk: list[Episode] = []
    n = 0
    for episode in episodes:
        chunk.append(episode)
        n += len(episode.turns) + 1
        if n >= n_turns:
            yield chunk
            chunk, n = [], 0
    if chunk:
        yield chunk
