"""Reading and writing of result files that hold one record as JSON."""

import os
import re
from pathlib import Path
from typing import ClassVar, Self, TypedDict, TypeVar

from pydantic import ValidationError

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.records import FiniteRecord, Frozen

RecordT = TypeVar("RecordT", bound=Frozen)


def save_record(record: Frozen, path: Path) -> None:
    """Write a record under a temporary name, then rename the file: a reader never sees half of it."""
    write_atomically(path, (record.model_dump_json(indent=2, by_alias=True) + "\n").encode())


def load_record(record: type[RecordT], path: Path, *, source: str, fix: str, strict: bool = False) -> RecordT:
    """Read a record; nothing is filled in or ignored.

    Args:
        record: Its class.
        path: Its file.
        source: What to tell of where the file comes from, if there is none.
        fix: What to tell to do about a file that breaks the rules of the record.
        strict: Whether a value of another type is an error even where it could be converted.

    Raises:
        ResultsError: If the file is missing or cannot be read, or a field is missing, unknown or breaks its rule; names file
            and fields.
    """
    try:
        return record.model_validate_json(path.read_bytes(), strict=strict)
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; {source}") from error
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error}); {fix}") from error
    except ValidationError as error:
        raise ResultsError(f"{path} breaks the schema of {record.__name__}: {error}; {fix}") from error


CACHE_VARIABLE = "MTROUTER_RL_CACHE"
"""Environment variable that moves the user's cache folder."""


def cache_folder() -> Path:
    """Folder for what is slow to make: $MTROUTER_RL_CACHE, else $XDG_CACHE_HOME/mtrouter_rl, else ~/.cache/mtrouter_rl."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mtrouter_rl"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def slug(name: str) -> str:
    """A name as part of a file or run name: letters, digits, ".", "_" and "-" only.

    Example:
        >>> slug("fitted-q (cost weight 0.5)")
        'fitted-q_cost_weight_0.5'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "_"


class SavedRecord(FiniteRecord):
    """Base of a record that is a JSON file of its own.

    Attributes:
        SOURCE: What writes the file, to tell where there is none.
        FIX: What to do about a file that breaks the rules of the record.
        IS_STRICT: Whether a value of another type is an error even where it could be converted.
    """

    SOURCE: ClassVar[str]
    FIX: ClassVar[str]
    IS_STRICT: ClassVar[bool] = False

    def write(self, path: Path) -> Path:
        """Write the file under a temporary name, then rename it: a reader never sees half of it. Returns the path."""
        save_record(self, path)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; nothing is filled in or ignored.

        Raises:
            ResultsError: If the file is missing, or a field is missing, unknown or breaks its rule; names file and fields.
        """
        return load_record(cls, path, source=cls.SOURCE, fix=cls.FIX, strict=cls.IS_STRICT)


class Header(TypedDict):
    """Where a file of results comes from; see `ResultFile`."""

    env: str
    pool: str
    package_version: str


class ResultFile(SavedRecord):
    """Base of a file of results of one environment and pool.

    Attributes:
        env: Name of the environment card.
        pool: Name of the pool card.
        package_version: Version of mtrouter_rl.
    """

    env: str
    pool: str
    package_version: str
