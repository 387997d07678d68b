"""Seeds that are held as JSON: a million of them fit into memory, and most of what is asked of them needs no record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import orjson

from kdaug.record import Record


@dataclass(frozen=True)
class Seeds(Sequence[Record]):
    """Records in the order of their file, each once. `shape`: what they were read as; `notes`: what was left out;
    `split`: of a `source` that has several; `lost`: each document that was left out, and why.

    They are held as JSON and made when they are looked at, which a run of a million prompts has the memory for.
    """

    packed: tuple[bytes, ...]
    ids: tuple[str, ...]
    shape: str
    source: str
    notes: tuple[str, ...] = ()
    split: str = "train"
    lost: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(index, slice):
            return tuple(map(_unpack, self.packed[index]))
        return _unpack(self.packed[index])

    def __iter__(self) -> Iterator[Record]:
        return map(_unpack, self.packed)

    def __str__(self) -> str:
        """One line for the terminal."""
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{len(self)} record{'s' * (len(self) != 1)} from {self.source}, read as {self.shape}{notes}"


def ids_of(records: Sequence[Record]) -> Sequence[str]:
    """The ids of records, without making those that are held as JSON."""
    return records.ids if isinstance(records, Seeds) else [record.id for record in records]


def packed_of(records: Sequence[Record]) -> Iterable[bytes]:
    """The JSON of records, in their order."""
    return records.packed if isinstance(records, Seeds) else (orjson.dumps(record.to_json()) for record in records)


def _unpack(packed: bytes) -> Record:
    return Record.from_json(orjson.loads(packed))
