"""Reads datasets of older schema versions: what a newer schema says more is filled in with what was true of them all.

Version 1 held collected episodes alone, whose propensities and tokens are exact, and had no place for anything else. Version 2
had no routers whose decisions cost money.
"""

from collections.abc import Mapping

import pyarrow as pa

_NEW_IN_2: dict[str, object] = {"origin": "collected", "propensities": "exact", "assumptions": []}


def upgrade_info(data: Mapping[str, object]) -> dict[str, object]:
    """Contents of an `info.json` of an older version as version 3 writes them. What is in it already is left to be checked.

    Example:
        >>> upgrade_info({"schema_version": 1, "env": "corridor"})["origin"]
        'collected'
    """
    new = _NEW_IN_2 if data.get("schema_version") == 1 else {}
    return new | dict(data) | {"schema_version": 3}


def upgrade_episodes(table: pa.Table) -> pa.Table:
    """Episode rows of version 1 with the columns of later ones."""
    for name, value in (("usage_source", "logged"), ("extra", "{}")):
        if name not in table.column_names:
            column = pa.array([value] * table.num_rows, type=pa.string())
            table = table.append_column(pa.field(name, pa.string(), nullable=False), column)
    return table


def upgrade_turns(table: pa.Table) -> pa.Table:
    """Turn rows of versions 1 and 2 with the columns of version 3: no decision cost anything."""
    name = "router_cost_usd"
    if name in table.column_names:
        return table
    nothing = pa.array([0.0] * table.num_rows, type=pa.float64())
    return table.append_column(pa.field(name, pa.float64(), nullable=False), nothing)
