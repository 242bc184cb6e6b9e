"""Reads datasets of older schema versions: what a newer schema says more is filled in with what was true of them all.

Version 1 held collected episodes alone, whose propensities and tokens are exact, and had no place for anything else.
"""

from collections.abc import Mapping

import pyarrow as pa

_NEW_IN_2: dict[str, object] = {"origin": "collected", "propensities": "exact", "assumptions": []}


def upgrade_info(data: Mapping[str, object]) -> dict[str, object]:
    """Contents of an `info.json` of version 1 as version 2 writes them. A field of version 2 in it is left to be refused.

    Example:
        >>> upgrade_info({"schema_version": 1, "env": "corridor"})["origin"]
        'collected'
    """
    return _NEW_IN_2 | dict(data) | {"schema_version": 2}


def upgrade_episodes(table: pa.Table) -> pa.Table:
    """Episode rows of version 1 with the columns of version 2."""
    for name, value in (("usage_source", "logged"), ("extra", "{}")):
        if name not in table.column_names:
            column = pa.array([value] * table.num_rows, type=pa.string())
            table = table.append_column(pa.field(name, pa.string(), nullable=False), column)
    return table
