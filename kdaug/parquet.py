"""Rows into a Parquet file, a thousand at a time; equal rows give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from kdaug.columns import Row

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 1_000  # rows held at a time for each open file


class Parquet:
    """One file, written in groups of rows. No time, path or version of ours goes in, so equal rows are equal bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        """By way of JSON: twice as fast as from Python's lists, for which pyarrow also loads pandas (0.4 s)."""
        import pyarrow as pa
        import pyarrow.json as pj

        if self._rows:
            lines = b"\n".join(map(orjson.dumps, self._rows))
            reading = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1)
            parsing = pj.ParseOptions(explicit_schema=self._schema, unexpected_field_behavior="error")
            self._writer.write_table(pj.read_json(pa.BufferReader(lines), reading, parsing))
            self._rows = []
