"""What was not kept, and why: dropped.parquet of a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from kdaug.errors import KdaugError
from kdaug.export import whole
from kdaug.parquet import GROUP_ROWS, Parquet
from kdaug.record import Json, Record


@dataclass(frozen=True)
class Dropped:
    """A record that was not kept, or (without one) a job that came to nothing."""

    stage: str
    job: int
    record: Record | None
    reason: str
    detail: Mapping[str, Json] = field(default_factory=dict)


def write_dropped(path: Path, drops: Iterable[Dropped]) -> int:
    """Writes dropped.parquet, as a stream; returns how many. `record` and `detail` are JSON there.

    Raises KdaugError where it cannot be written.
    """
    import pyarrow as pa

    fields = [("stage", pa.string()), ("job", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
    schema = pa.schema([*fields, ("id", pa.string()), ("record", pa.string())])
    number = 0
    try:
        with whole(path) as fresh, closing(Parquet(fresh, schema)) as file:
            for drop in drops:
                file.add(
                    {
                        "stage": drop.stage,
                        "job": drop.job,
                        "reason": drop.reason,
                        "detail": _json(dict(drop.detail)),
                        "id": drop.record and drop.record.id,
                        "record": drop.record and _json(drop.record.to_json()),
                    }
                )
                number += 1
    except OSError as e:
        raise KdaugError(f"cannot write {path}: {e.strerror or e}") from e
    return number


def read_dropped(path: Path) -> Iterator[Dropped]:
    """What `write_dropped` wrote, one at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(GROUP_ROWS):
            for row in batch.to_pylist():
                record = Record.from_json(orjson.loads(row["record"])) if row["record"] else None
                yield Dropped(row["stage"], row["job"], record, row["reason"], orjson.loads(row["detail"]))


def _json(value: Json) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
