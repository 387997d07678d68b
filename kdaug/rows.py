"""Rows to curate: files and datasets as a stream, in their order, however many there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from kdaug.dataset import Dataset, is_dataset
from kdaug.errors import ConfigError, shorten
from kdaug.read import Placed, files_of, loaded, opened, record_of_row
from kdaug.record import Drop, Record
from kdaug.shapes import BadRow, Garbled, Shape
from kdaug.source import Page

PAGE = 256  # rows of one job: what a job costs beside its records is paid once for so many
SHAPED_WITHIN = 1_000  # rows at the head of an input, of which one must have a known shape
KEPT_TEXT = 2_000  # characters kept of a row that is no record


@dataclass
class Rows:
    """The records of files, folders and datasets of the Hub, in order; several are one after the other.

    A job takes a page of them, to the gates of a first stage of `Pass`, so nothing is held but what is at work. A row
    that is no record is a drop: `read:bad_row` with its place, what is wrong and its text. A record's shape is told by
    the first rows of its input, and no row may have another. `holds` (name, size, hash of the bytes of every file) is
    what a run knows its data by; the files are read once for it. Raises ConfigError where an input is not there, or
    none of its first 1,000 rows is of a known shape.
    """

    data: str | Path | Sequence[str | Path] = field(metadata={"fingerprint": False})
    split: str = "train"
    holds: tuple[str, ...] = field(init=False, metadata={"fingerprint": True})
    notes: tuple[str, ...] = field(init=False, repr=False)
    jobs: int = field(init=False, repr=False)  # about so many: a file's lines are taken for its rows
    seeds = ()
    grows = False
    _pages: Iterator[Page] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("there is nothing to curate: give a file, a folder or a dataset of the Hub")
        self.notes = tuple(f"{one}, {self._noted(one)}" for one in self.inputs)
        held = [file for one in self.inputs for file in _held(one, self.split)]
        self.holds, self.jobs = tuple(file for file, _ in held), -(-sum(rows for _, rows in held) // PAGE)
        self._pages = self._paged()

    def __str__(self) -> str:
        return "; ".join(self.notes)

    @property
    def inputs(self) -> Sequence[str | Path]:
        return (self.data,) if isinstance(self.data, (str, Path)) else self.data

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs, without the folders that files lie in."""
        return tuple(Path(one).name if Path(one).exists() else str(one) for one in self.inputs)

    def start(self, held_out: Collection[str] = ()) -> Rows:
        live = object.__new__(type(self))
        live.__dict__ |= self.__dict__  # not made anew: that would read the files for their hashes again
        live._pages = self._paged()
        return live

    def draw(self, rng: Random) -> Page | None:
        return next(self._pages, None)

    def accept(self, record: Record) -> None:
        pass

    def _paged(self) -> Iterator[Page]:
        for one in self.inputs:
            shape, rows = opened(one, self.split, within=SHAPED_WITHIN)
            while page := list(islice(rows, PAGE)):
                yield _page(page, shape)

    def _noted(self, one: str | Path) -> str:
        """What an input is read as, and what of it is left aside."""
        shape, _ = opened(one, self.split, within=SHAPED_WITHIN)
        path = Path(one)
        if not (is_dataset(path) or is_dataset(path / "dataset")):
            return f"read as {shape.name}"
        others = {s for splits in Dataset(path).counts.values() for s in splits} - {self.split}
        aside = f" (left aside: its split {', '.join(sorted(others))})" if others else ""
        return f"read as {shape.name}{aside}"


def _page(rows: list[Placed], shape: Shape) -> Page:
    return Page(lambda: [_record(place, row, shape) for place, row in rows])


def _record(place: str, row: Any, shape: Shape) -> Record | Drop:
    try:
        return record_of_row(row, shape)
    except BadRow as e:
        text = row.text if isinstance(row, Garbled) else json.dumps(row, ensure_ascii=False, default=str)
        text = text.encode(errors="replace").decode()  # half a character would be none in the journal either
        return Drop("read:bad_row", {"place": place, "wrong": str(e), "row": shorten(text.strip(), KEPT_TEXT)})


def _held(one: str | Path, split: str) -> Iterator[tuple[str, int]]:
    """(name, size and hash of its bytes; about how many rows) of each file; of what `datasets` finds, its own hash."""
    files = files_of(one, split)
    if not files:
        found = loaded(str(one), split, None)
        yield f"{one}, {split}, {found._fingerprint}", len(found)
    for path in files:
        body, lines, size = hashlib.blake2b(digest_size=8), 0, 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    body.update(chunk)
                    lines, size = lines + chunk.count(b"\n"), size + len(chunk)
        except OSError as e:
            raise ConfigError(f"cannot read {path}: {e.strerror}") from e
        rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else lines
        yield f"{path.name}, {size} bytes, {body.hexdigest()}", rows


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(path).num_rows
    return rows
