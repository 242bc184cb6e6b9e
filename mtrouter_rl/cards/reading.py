"""Reads YAML that anybody may have written: within limits of size, depth, digits and anchors, and no key twice."""

import copy
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import cast

import yaml

from mtrouter_rl.files.reading import read_limited

MAX_YAML_BYTES = 2**20
"""A card that is larger is not read: the largest of this package has 20 kB."""
MAX_YAML_DEPTH = 50
"""Brackets or indents within each other."""
MAX_YAML_NODES = 200_000
"""Values of a card, those that an alias stands for counted every time."""
_MOST_REMEMBERED = 2**16
"""Letters of a text whose value is kept for the next time."""


class _LimitedLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; `SafeLoader` itself runs no code, but takes its time and memory without any."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._n_nodes = 0
        self._sizes: dict[int, int] = {}

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        if self.flow_level >= MAX_YAML_DEPTH:
            raise _too_deep()
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) >= MAX_YAML_DEPTH:
            raise _too_deep()
        return bool(super().add_indent(column))

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        n_before = self._n_nodes
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:
            raise ValueError("an anchor stands for itself; write the value out")
        self._n_nodes += self._sizes[id(node)] if is_alias else 1
        if self._n_nodes > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES} values, counted with those that aliases repeat")
        self._sizes.setdefault(id(node), self._n_nodes - n_before)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        seen: set[object] = set()
        for key, where in zip(keys, own, strict=True):
            if not isinstance(key, Hashable):
                raise ValueError(f"line {where.start_mark.line + 1}: a list or mapping cannot be a key")
            if key in seen:
                raise ValueError(
                    f"line {where.start_mark.line + 1}: key '{key}' stands twice in one mapping; keep one of them"
                )
            seen.add(key)
        return cast("dict[Hashable, object]", super().construct_mapping(node, deep))


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_YAML_DEPTH} levels")


def parse_yaml(text: str) -> object:
    """Value of a YAML text.

    Raises:
        ValueError: If it is no YAML, a mapping has a key twice, or a limit is passed. Nothing else is ever raised.

    Example:
        >>> parse_yaml("prices: {input: 1, input: 2}")
        Traceback (most recent call last):
        ValueError: line 1: key 'input' stands twice in one mapping; keep one of them
    """
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it is larger than {MAX_YAML_BYTES} bytes, the most that is read")
    return copy.deepcopy(_remembered(text)) if len(text) <= _MOST_REMEMBERED else _parsed(text)


def _parsed(text: str) -> object:
    try:
        loader = _LimitedLoader(text)
        try:
            return cast(object, loader.get_single_data())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (RecursionError, OverflowError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"a value in it cannot be read ({type(error).__name__}: {error})") from None


_remembered = lru_cache(maxsize=64)(_parsed)
"""A study reads the same cards hundreds of times, and PyYAML takes 2 to 16 ms for one."""


def read_text(path: Path) -> str:
    """Text of a card's file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, or no UTF-8.
    """
    return read_limited(path, max_bytes=MAX_YAML_BYTES).decode()


def read_yaml(path: Path) -> object:
    """Value of a YAML file. Raises `OSError` as `read_text`, and `ValueError` as `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path))
