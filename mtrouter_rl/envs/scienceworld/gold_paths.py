"""ScienceWorld's gold paths: slow to make, so made once and kept.

A file with the paths of every variation that the environment card uses travels with the cards. Any other path is made
when it is first asked for and kept in the user's cache folder.
"""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from mtrouter_rl.errors import SimulatorError
from mtrouter_rl.files import cache_folder, read_json, write_atomically

ElementT = TypeVar("ElementT")


class GoldPaths:
    """Gold paths by (task, variation)."""

    def __init__(self, *, shipped: Path | None, version: str, folder: Path | None = None) -> None:
        """Open the store.

        Args:
            shipped: A file written by `save_shipped`; None if there is none.
            version: Version of the engine; paths made by another one are not used.
            folder: Where new paths are kept; None takes the user's cache folder.

        Raises:
            SimulatorError: If the shipped file cannot be read.
        """
        self._version = version
        self._folder = (folder or cache_folder()) / f"gold-paths-{version}"
        self._known: dict[str, list[str]] = {}
        self._gains: dict[str, tuple[float, ...]] = {}
        if shipped is not None:
            self._known = self._read_shipped(shipped)

    def get(self, task: str, variation: int, make: Callable[[], list[str]]) -> list[str]:
        """Path of a variation; calls `make` if it is in neither store, and keeps what it gives."""
        key = f"{task}/{variation}"
        if key not in self._known:
            self._known[key] = self._read_cached(task, variation) or self._make(task, variation, make)
        return self._known[key]

    def gains(self, task: str, variation: int, play: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """Score that each action of a path brings; calls `play` if it is not known yet, and keeps what it gives."""
        key = f"{task}/{variation}"
        if key not in self._gains:
            path = self._folder / f"{task}-{variation}-gains.json"
            if path.is_file():
                self._gains[key] = tuple(float(gain) for gain in _read_list(path, float, what="numbers"))
            else:
                self._gains[key] = play()
                write_atomically(path, json.dumps(self._gains[key]).encode())
        return self._gains[key]

    def _path(self, task: str, variation: int) -> Path:
        return self._folder / f"{task}-{variation}.json"

    def _read_cached(self, task: str, variation: int) -> list[str] | None:
        path = self._path(task, variation)
        if not path.is_file():
            return None
        return _read_list(path, str, what="actions")

    def _make(self, task: str, variation: int, make: Callable[[], list[str]]) -> list[str]:
        actions = make()
        write_atomically(self._path(task, variation), json.dumps(actions).encode())
        return actions

    def _read_shipped(self, path: Path) -> dict[str, list[str]]:
        try:
            data = json.loads(gzip.decompress(path.read_bytes()))
            words, version = data["actions"], data["version"]
            paths = {key: [str(words[index]) for index in indices] for key, indices in data["paths"].items()}
        except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
            raise SimulatorError(
                f"gold path file {path} cannot be read ({error}); restore it from the package"
            ) from error
        return paths if version == self._version else {}


def _read_list(path: Path, kind: type[ElementT], *, what: str) -> list[ElementT]:
    try:
        elements = read_json(path)
    except ValueError as error:
        raise SimulatorError(f"gold path {path} is broken ({error}); delete it, it is then made again") from error
    if not isinstance(elements, list) or not all(isinstance(element, kind) for element in elements):
        raise SimulatorError(f"gold path {path} is broken (no list of {what}); delete it, it is then made again")
    return cast("list[ElementT]", elements)


def save_shipped(path: Path, *, version: str, paths: dict[str, list[str]]) -> None:
    """Write a file of gold paths that `GoldPaths` reads; the same paths give the same bytes."""
    words = sorted({action for actions in paths.values() for action in actions})
    index = {word: i for i, word in enumerate(words)}
    data = {
        "version": version,
        "actions": words,
        "paths": {key: [index[action] for action in paths[key]] for key in sorted(paths)},
    }
    text = json.dumps(data, separators=(",", ":"))
    write_atomically(path, gzip.compress(text.encode(), compresslevel=9, mtime=0))
