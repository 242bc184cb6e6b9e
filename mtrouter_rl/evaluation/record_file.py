"""Reading and writing of result files that hold one record as JSON."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mtrouter_rl.envs.gold_paths import write_atomically
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.pools.card import Frozen

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
