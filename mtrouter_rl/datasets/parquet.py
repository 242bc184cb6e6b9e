"""One Parquet file: written so that it is small and on disk when it says so, read so that damage is found."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mtrouter_rl.errors import DatasetError

_PAGE_BYTES = 1 << 24
"""One page a column and shard, as a rule: the longer the page, the better it compresses."""
RESTORE = (
    "restore the file from a copy, or make the dataset anew (a collection only needs the shard's three files deleted, and "
    "is then resumed)"
)
"""What to do about a file that cannot be read."""


def parquet_bytes(table: pa.Table, compression_level: int) -> pa.Buffer:
    """Bytes of a Parquet file with one row group."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=compression_level,
        row_group_size=max(1, table.num_rows),
        data_page_size=_PAGE_BYTES,
        dictionary_pagesize_limit=_PAGE_BYTES,
        write_page_checksum=True,
    )
    return sink.getvalue()


def write_synced(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_table(path: Path) -> pa.Table:
    """Read a whole file and check its checksums.

    Raises:
        DatasetError: If it is missing, damaged or cut.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing, though its shard has an episodes file; {RESTORE}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table, n_rows = file.read(), file.metadata.num_rows
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not a readable Parquet file: {error}; {RESTORE}") from error
    if table.num_rows != n_rows:
        raise DatasetError(f"{path} has {table.num_rows} rows, must have {n_rows}, as its footer says; {RESTORE}")
    return table
