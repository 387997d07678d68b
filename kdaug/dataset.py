"""The dataset folder: a valid Hugging Face dataset repository, written as a stream; equal records give equal bytes.

dataset/
  README.md                                        the card; its head names one configuration a kind
  data/<kind>/<split>-00000-of-00001.parquet       up to 100,000 records a file
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kdaug.card import Counts, write_card
from kdaug.columns import Columns, Survey, record_of
from kdaug.errors import ConfigError, KdaugError
from kdaug.export import Format, export
from kdaug.hub import push, whole_dataset
from kdaug.parquet import GROUP_ROWS, Parquet
from kdaug.record import KINDS, Kind, Record

if TYPE_CHECKING:
    import datasets

Split: TypeAlias = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

SHARD_ROWS = 100_000


class Dataset:
    """A lazy view on a dataset folder, or on the one of a run folder. Raises ConfigError where there is none."""

    def __init__(self, path: str | Path) -> None:
        given = Path(path)
        self.path = given / "dataset" if (given / "dataset" / "README.md").is_file() else given
        if not is_dataset(self.path):
            hint = (
                "the run has not written one yet: finish it first"
                if (given / "run.json").is_file()
                else (
                    "give the folder that holds README.md and data/, or a run folder"
                    if given.exists()
                    else "no such folder"
                )
            )
            raise ConfigError(f"{given}: not a dataset of kdaug: {hint}")

    def __repr__(self) -> str:
        held = "; ".join(
            f"{kind}: " + ", ".join(f"{n} {split}" for split, n in by_split.items())
            for kind, by_split in self.counts.items()
        )
        return f"Dataset({str(self.path)!r}: {held or 'empty'})"

    def __len__(self) -> int:
        return sum(sum(by_split.values()) for by_split in self.counts.values())

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.counts)

    @property
    def counts(self) -> dict[Kind, dict[Split, int]]:
        """Records by kind and split, from the files' footers."""
        import pyarrow.parquet as pq

        found: dict[Kind, dict[Split, int]] = {}
        for kind in KINDS:
            for split in SPLITS:
                for file in self._files(kind, split):
                    rows = pq.read_metadata(file).num_rows
                    found.setdefault(kind, {}).setdefault(split, 0)
                    found[kind][split] += rows
        return found

    def files(self, kind: Kind | None = None, split: Split | None = None) -> list[Path]:
        """The Parquet files: kind by kind, `train` before `test`. Raises ConfigError for a kind or split not there."""
        if not self.kinds and (kind, split) != (None, None):
            run = self.path.parent
            raise ConfigError(
                f"the run {run} kept no record: `kdaug show {run}` says what became of them"
                if (run / "run.json").is_file()
                else f"{self.path} holds no record at all"
            )
        if kind is not None and kind not in self.kinds:
            raise ConfigError(f"{self.path} holds no {kind} records, only {' and '.join(self.kinds)}")
        there = self._splits(kind)
        if split is not None and split not in there:
            way_out = "; a run with --holdout 0.1 makes one" if split == "test" else ""
            raise ConfigError(f"{self.path} has no split {split!r}, only {' and '.join(there)}{way_out}")
        kinds, splits = KINDS if kind is None else (kind,), SPLITS if split is None else (split,)
        return [file for one in kinds for part in splits for file in self._files(one, part)]

    def _splits(self, kind: Kind | None) -> list[Split]:
        kinds = [by_split for k, by_split in self.counts.items() if kind in (None, k)]
        return [split for split in SPLITS if any(split in by_split for by_split in kinds)]

    def records(self, kind: Kind | None = None, split: Split | None = None) -> Iterator[Record]:
        """The records, one at a time, in the order of `files` and there in the order in which they were kept."""
        import pyarrow.parquet as pq

        for file in self.files(kind, split):
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(GROUP_ROWS):
                    yield from map(record_of, batch.to_pylist())

    def to_hf(self, kind: Kind | None = None) -> datasets.DatasetDict:
        """One kind (by default the largest) as `datasets` loads it."""
        import datasets

        if not self.kinds:
            raise ConfigError(f"{self.path}: the dataset is empty, so datasets has nothing to load")
        self.files(kind)
        return datasets.load_dataset(str(self.path), kind)

    def export(self, path: str | Path, format: Format, kind: Kind | None = None, split: Split | None = None) -> int:
        """Writes one kind and split as JSON lines in another tool's shape; returns how many records.

        Raises ConfigError where the dataset holds several kinds or splits and none is named (a test split must not
        slip into training), and where the format cannot hold the kind.
        """
        self.files(kind, split)
        counts = {k: s for k, s in self.counts.items() if kind in (None, k)}
        if len(counts) > 1:
            raise ConfigError(f"{self.path} holds {' and '.join(counts)} records: name the kind to export")
        if split is None and len(splits := self._splits(kind)) > 1:
            raise ConfigError(
                f"{self.path} has the splits {' and '.join(splits)}: name the one to export (--split train)"
            )
        return export(self.records(kind, split), Path(path), format, kinds=tuple(counts))

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, revision: str | None = None
    ) -> str:
        """Makes the Hub's dataset repository what this folder is, in one commit; returns the commit's address."""
        return push(whole_dataset(self.path), repo_id, private=private, token=token, revision=revision)

    def _files(self, kind: Kind, split: Split) -> list[Path]:
        return sorted((self.path / "data" / kind).glob(f"{split}-*-of-*.parquet"))


def is_dataset(path: Path) -> bool:
    """Whether `write_dataset` made this folder (an empty dataset is a card alone)."""
    if not (path / "README.md").is_file():
        return False
    if any((path / "data" / kind).is_dir() for kind in KINDS):
        return True
    return "- kdaug\n" in (path / "README.md").read_text(encoding="utf-8", errors="replace")


def split_of(record: Record, held_out: Collection[str]) -> Split | None:
    """`test` if all its seeds are held out, `train` if none is, None if some are: it belongs to neither side."""
    roots = record.roots or (record.id,)
    inside = sum(root in held_out for root in roots)
    if inside == 0:
        return "train"
    return "test" if inside == len(roots) else None


def write_dataset(
    folder: Path,
    records: Callable[[], Iterable[Record]],
    *,
    held_out: Collection[str] = (),
    facts: Mapping[str, Any],
) -> Counts:
    """Writes the dataset folder and its card; an older one in its place is replaced whole.

    `records` gives them anew each time it is called: once, and again where they turn out to need more columns than the
    first 1,000 of their kind; they are never held.
    What was interrupted leaves the old folder or none, never half of one. A record whose seeds are held out in part is
    left out and counted as `holdout:mixed`. Raises KdaugError where the folder cannot be written.
    """
    held_out, folder = frozenset(held_out), folder.absolute()
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    try:
        _may_replace(folder)
        if old.exists() and not folder.exists():
            old.rename(folder)  # killed between the two renames below
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        surveys: dict[Kind, Survey] = {}
        counts, whole_files = _write_data(fresh / "data", records(), held_out, surveys)
        if not whole_files:
            shutil.rmtree(fresh / "data")
            first, (counts, whole_files) = counts, _write_data(fresh / "data", records(), held_out, surveys)
            if not whole_files or counts != first:
                raise ValueError("records() gave others the second time")
        (fresh / "README.md").write_text(
            write_card(facts, counts, _hashes(fresh / "data", counts)), encoding="utf-8", newline="\n"
        )
        _sync(fresh)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise KdaugError(f"cannot write the dataset {folder}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return counts


def _hashes(data: Path, counts: Counts) -> dict[Kind, str]:
    """Of each kind's data files."""
    found: dict[Kind, str] = {}
    for kind in counts.splits:
        body = hashlib.blake2b(digest_size=8)
        for path in sorted((data / kind).iterdir()):
            with path.open("rb") as file:
                body.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        found[kind] = body.hexdigest()
    return found


def _may_replace(folder: Path) -> None:
    """Raises ConfigError for a folder with anything in it that we did not write."""
    if not folder.exists():
        return
    strange = [] if folder.is_dir() else [folder.name]
    if folder.is_dir():
        strange = [
            p.name for p in folder.iterdir() if p.name not in ("README.md", "data") and not p.name.startswith(".")
        ]
    if strange:
        raise ConfigError(
            f"{folder} holds {', '.join(sorted(strange)[:3])}, which is no part of a dataset: move it away"
        )


def _write_data(
    data: Path, records: Iterable[Record], held_out: frozenset[str], surveys: dict[Kind, Survey]
) -> tuple[Counts, bool]:
    """One pass over the records; False where a late one needs a column that the files of its kind were begun without.
    `surveys` then know of all columns, and a second pass succeeds."""
    tables: dict[tuple[Kind, Split], _Table] = {}
    teachers: Counter[str] = Counter()
    unsaid = 0
    left_out: Counter[str] = Counter()
    with ExitStack() as stack:
        for record in records:
            kind, split = record.kind, split_of(record, held_out)
            if split is None:
                left_out["holdout:mixed"] += 1
                continue
            if (table := tables.get((kind, split))) is None:
                survey = surveys.setdefault(kind, Survey(kind))
                table = tables[kind, split] = stack.enter_context(closing(_Table(data / kind, split, survey)))
            table.add(record)
            teachers.update(record.teachers)
            unsaid += record.completion is not None and not record.teachers
    splits: dict[Kind, dict[str, int]] = {}
    for kind, split in sorted(tables, key=lambda place: (KINDS.index(place[0]), SPLITS.index(place[1]))):
        splits.setdefault(kind, {})[split] = tables[kind, split].number
    counts = Counts(splits, dict(sorted(teachers.items())), dict(left_out), unsaid)
    return counts, all(table.columns == surveys[kind].columns() for (kind, _), table in tables.items())


class _Table:
    """The files of one kind and split, with the columns that the survey knew of when the first group was full."""

    def __init__(self, folder: Path, split: str, survey: Survey) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._survey = folder, split, survey
        self._records: list[Record] = []
        self._paths: list[Path] = []
        self._file: Parquet | None = None
        self._room = 0
        self.columns: Columns | None = None
        self.number = 0

    def add(self, record: Record) -> None:
        self._survey.see(record)
        self._records.append(record)
        self.number += 1
        if len(self._records) == GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """The files get their names, which say how many they are."""
        self._flush()
        self._end()
        for path in self._paths:
            path.rename(path.with_name(f"{path.name}-of-{len(self._paths):05d}.parquet"))

    def _flush(self) -> None:
        records, self._records = self._records, []
        self.columns = self.columns or self._survey.columns()
        if not records or self.columns != self._survey.columns():
            return  # what more there is need not be written: the next pass does it
        for record in records:
            if self._file is None or self._room == 0:
                self._file, self._room = self._next(self.columns), SHARD_ROWS
            self._file.add(self.columns.row(record))
            self._room -= 1

    def _next(self, columns: Columns) -> Parquet:
        self._end()
        self._paths.append(self._folder / f"{self._split}-{len(self._paths):05d}")
        return Parquet(self._paths[-1], columns.schema())

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()


def _sync(folder: Path) -> None:
    """On the disk before the folder gets its name: a name must not survive a power cut that its bytes do not."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
