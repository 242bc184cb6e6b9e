"""Reading and writing of result files that hold one record as JSON."""

from pathlib import Path
from typing import ClassVar, Self, TypedDict, TypeVar

from pydantic import ValidationError

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.files.reading import parse_json, read_limited
from mtrouter_rl.files.writing import write_atomically
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
        data = read_limited(path)
        parse_json(data)
        return record.model_validate_json(data, strict=strict)
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; {source}") from error
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error}); {fix}") from error
    except ValidationError as error:
        raise ResultsError(f"{path} breaks the schema of {record.__name__}: {error}; {fix}") from error
    except ValueError as error:
        raise ResultsError(f"{path} breaks the schema of {record.__name__}: Invalid JSON: {error}; {fix}") from error


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
