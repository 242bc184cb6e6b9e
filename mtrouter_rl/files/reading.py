"""Reads JSON that anybody may have written: within limits of size, depth and digits, and no key twice."""

import json
from pathlib import Path
from typing import cast

from mtrouter_rl.records import JsonValue

MAX_JSON_BYTES = 512 * 2**20
"""A JSON file that is larger is not read: its values would take several times as much memory."""
MAX_JSON_DEPTH = 100
"""Brackets within brackets; whatever this package writes has fewer than 20."""


def parse_json(text: str | bytes, *, max_depth: int = MAX_JSON_DEPTH, is_unique: bool = True) -> JsonValue:
    """Value of a JSON text.

    Args:
        text: The text.
        max_depth: How many brackets may stand within each other.
        is_unique: Whether a key that stands twice in an object is an error; what this package alone writes need not be asked.

    Raises:
        ValueError: If it is no JSON, is nested too deep, has a number of too many digits, or an object has a key twice.
            Nothing else is ever raised.

    Example:
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: key 'a' stands twice in one object; keep one of them
    """
    try:
        value = cast(JsonValue, json.loads(text, object_pairs_hook=_unique if is_unique else None))
    except RecursionError:
        raise ValueError(f"it is nested deeper than {max_depth} brackets") from None
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text: {error}") from None
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            raise ValueError("a whole number in it has more digits than any count") from None
        raise
    check_depth(value, max_depth=max_depth)
    return value


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES, max_depth: int = MAX_JSON_DEPTH) -> JsonValue:
    """Value of a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: As `parse_json`, or if the file is too large.
    """
    return parse_json(read_limited(path, max_bytes=max_bytes), max_depth=max_depth)


def read_limited(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Bytes of a file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is too large.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes, the most that is read")
    return data


def check_depth(value: object, *, max_depth: int = MAX_JSON_DEPTH) -> None:
    """Refuse a value whose lists and mappings are nested too deep for what reads it afterwards.

    Raises:
        ValueError: If it is.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else cast("list[object]", outer))
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"it is nested deeper than {max_depth} brackets")


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r:.80} stands twice in one object; keep one of them")
    return found
