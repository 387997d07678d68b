"""Reading seeds and datasets: the file's format by its name, the records' shape by their fields.

What is wrong has its place: `seeds.jsonl:3`, `seeds.csv: row 3`, `seeds.yaml: item 3`. It stops `read` and `stream`;
who curates (`kdaug.rows`) goes on behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, compress, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from kdaug.dataset import Dataset, is_dataset
from kdaug.documents import documents_in, holds_documents, is_document, left_out, plain_text
from kdaug.errors import ConfigError, shorten
from kdaug.hub import look_up
from kdaug.record import KINDS, Record
from kdaug.seeds import Seeds
from kdaug.shapes import DOCUMENT, BadRow, Garbled, Shape, read_row, several, shape_of

if TYPE_CHECKING:
    import datasets

NAMED = 3  # documents left out that one line names
Placed: TypeAlias = tuple[str, Any]  # where it stands, and the value that stands there (a `Garbled` where it is none)


def read(source: str | Path, *, split: str = "train", config: str | None = None) -> Seeds:
    """All records of a file (.jsonl .json .csv .tsv .parquet .yaml), a dataset or run folder, a dataset of the Hub, or
    a folder of documents (`kdaug.documents`), a record each; one that cannot be read is left out, and a note says so.

    `split` and `config` choose within a dataset; of kdaug's own, `config` is the kind. Raises ConfigError that names
    the place, what is wrong there, and the way out.
    """
    shape, rows = opened(source, split, config)
    kept: dict[str, bytes] = {}
    number, unread, known = 0, dict[str, None](), {*shape.needs, *shape.may}
    lost: list[str] = []
    for place, row in rows:
        if isinstance(row, Garbled) and row.document:
            lost.append(f"{place}: {row.wrong}")
            continue
        with _placed(place):
            record = record_of_row(row, shape)
        if record.id not in kept:
            # Copied: what orjson returns sits in a buffer of some KB.
            kept[record.id] = bytes(memoryview(orjson.dumps(record.to_json())))
        unread.update((name, None) for name in row if name not in known)
        number += 1
    notes = []
    if shape is DOCUMENT and (folder := Path(source).expanduser()).is_dir() and (others := left_out(folder)):
        notes.append(others)
    if lost:
        named = "; ".join(lost[:NAMED]) + "; … (all of them are in the run's log.txt)" * (len(lost) > NAMED)
        notes.append(f"{len(lost)} of {number + len(lost)} documents left out: {named}")
    if number > len(kept):
        notes.append(f"{number - len(kept)} of {number} left out as copies of an earlier one")
    if unread:
        notes.append(f"fields not read: {', '.join(unread)}")
    return Seeds(tuple(kept.values()), tuple(kept), shape.name, str(source), tuple(notes), split, tuple(lost))


def stream(
    source: str | Path, *, split: str = "train", config: str | None = None, only: Iterable[object] | None = None
) -> Iterator[Record]:
    """As `read`, but one record at a time, copies included. `only`: a truth value for each row, whether to give it."""
    shape, rows = opened(source, split, config)
    for place, row in rows if only is None else compress(rows, only):
        with _placed(place):
            record = record_of_row(row, shape)
        yield record


def opened(
    source: str | Path, split: str = "train", config: str | None = None, *, within: int = 1
) -> tuple[Shape, Iterator[Placed]]:
    """The shape, by the first row that has one, and all rows. Raises ConfigError that names the first row where none
    has a shape `within` so many; documents that cannot be read do not count."""
    rows, head = chain.from_iterable(map(_apart, _rows(source, split, config))), list[Placed]()
    wrong = f"{source} is empty: give at least one record"
    for place, row in rows:
        head.append((place, row))
        try:
            if isinstance(row, Garbled):
                raise BadRow(row.wrong)
            return shape_of(row), chain(head, rows)
        except BadRow as e:
            wrong = f"{place}: {e}" if len(head) == 1 else wrong
        within -= not (isinstance(row, Garbled) and row.document)
        if within <= 0:
            break
    raise ConfigError(wrong)


def _apart(placed: Placed) -> list[Placed]:
    """A row that lists several answers as a row for each; any other one as it is."""
    place, row = placed
    try:
        answers = several(row)
    except BadRow as e:
        return [(place, Garbled(str(e), str(row)))]
    return [(f"{place} (completions[{i}])", answer) for i, answer in enumerate(answers)] or [placed]


def rows_of(source: str | Path, *, split: str = "train", config: str | None = None) -> Iterator[Placed]:
    """The rows as they are, whatever their shape, each with its place. Raises ConfigError as `read` does."""
    for place, row in _rows(source, split, config):
        if isinstance(row, Garbled):
            raise ConfigError(f"{place}: {row.wrong}")
        yield place, row


def record_of_row(row: Any, shape: Shape) -> Record:
    """Raises BadRow where it is none of this shape."""
    if isinstance(row, Garbled):
        raise BadRow(row.wrong)
    return read_row(row, shape)


@contextmanager
def _placed(place: str) -> Iterator[None]:
    try:
        yield
    except BadRow as e:
        raise ConfigError(f"{place}: {e}") from e


def _rows(source: str | Path, split: str, config: str | None) -> Iterator[Placed]:
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            yield from _folder(path, split, config)
        elif path.exists():
            if is_document(path):
                yield from documents_in(path)
                return
            if split not in ("train", "test"):  # what is asked for where nobody has named one
                raise ConfigError(f"{path} is one file and has no splits: leave out split={split}")
            if path.suffix.lower() not in _READERS:
                raise ConfigError(f"{path}: cannot read {path.suffix or 'a file without an ending'}; give {_ENDINGS}")
            yield from _READERS[path.suffix.lower()](path)
        elif path.suffix.lower() in _READERS or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
            raise ConfigError(f"no file {source}")
        else:
            look_up(str(source), "dataset")
            yield from _datasets(str(source), split, config)
    except OSError as e:
        raise ConfigError(f"cannot read {source}: {e.strerror or shorten(str(e), 200)}") from e


def _jsonl(path: Path) -> Iterator[Placed]:
    for number, line in _lines(path):
        if line.strip():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as e:
                why = _no_utf8(line) or f"no JSON: {e.msg} (column {e.colno}); one object a line"
                row = Garbled(why, line.decode(errors="replace"))
            yield f"{path}:{number}", row


def _json(path: Path) -> Iterator[Placed]:
    """A list of objects, or objects one after another (many a .json file holds JSON lines)."""
    from json import JSONDecodeError, JSONDecoder

    def no_constant(name: str) -> None:
        raise ConfigError(f"{path}: {name} is no JSON: write null, or a number")

    text, decoder = plain_text(path), JSONDecoder(parse_constant=no_constant)
    at = line = 0
    try:
        in_list = text.lstrip().startswith("[")
        if in_list:
            decoder.decode(text)  # is the list whole, and its commas in place?
        between = re.compile(r"[\s,\[]*" if in_list else r"\s*")
        while True:
            start = between.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty text too
            line += text.count("\n", at, start)
            if start == len(text) or (in_list and text[start] == "]"):
                return
            value, at = decoder.raw_decode(text, start)
            yield f"{path}:{line + 1}", value
            line += text.count("\n", start, at)
    except JSONDecodeError as e:
        raise ConfigError(f"{path}:{e.lineno}: no JSON: {e.msg} (column {e.colno})") from e
    except RecursionError as e:
        raise ConfigError(f"{path}:{line + 1}: no JSON that can be read: nested too deeply") from e


def _csv(path: Path) -> Iterator[Placed]:
    """Rows are counted from 1, below the header; an empty cell is a field left out."""
    import csv

    csv.field_size_limit(2**31 - 1)  # a cell may hold a long document; the largest that every platform takes
    garbled: list[str] = []  # of the row that is being read

    def texts() -> Iterator[str]:
        for number, line in _lines(path):
            if why := _no_utf8(line):
                garbled.append(f"line {number}: {why}")
            yield line.decode(errors="replace")

    reader = csv.DictReader(texts(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    for number in count(1):
        try:
            row = next(reader, None)
        except csv.Error as e:
            row, garbled = {}, [*garbled, f"no CSV: {e}"]
        if row is None:
            return
        if None in row:
            garbled.append("more cells than the header has: quote texts with commas")
        cells = {name: cell or None for name, cell in row.items()}
        yield f"{path}: row {number}", Garbled(garbled[0], str(row)) if garbled else cells
        garbled.clear()


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1_000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except pa.ArrowException as e:
        raise ConfigError(f"{path}: no Parquet file that can be read: {shorten(str(e))}") from e


def _yaml(path: Path) -> Iterator[Placed]:
    import yaml

    from kdaug.plain_yaml import plain_yaml

    try:
        items = plain_yaml(plain_text(path))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: no YAML: {shorten(getattr(e, 'problem', None) or str(e))}") from e
    if items is not None and not isinstance(items, list):
        raise ConfigError(f'{path}: no list of records: start each with "- "')
    for number, item in enumerate(items or (), 1):
        yield f"{path}: item {number}", item


_READERS: Mapping[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".yaml": _yaml,
    ".yml": _yaml,
}
_ENDINGS = ", ".join(_READERS)
_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet")  # in a folder; of several of them `datasets` takes one
_TOLD = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json")


def files_of(source: str | Path, split: str = "train", config: str | None = None) -> list[Path]:
    """The files that hold the rows; none where the `datasets` library finds them."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return [path] if path.exists() else []
    if not (is_dataset(path) or (path / "run.json").is_file() or (path / "dataset").is_dir()):
        return []
    ours = Dataset(path)
    if config is not None and config not in KINDS:
        raise ConfigError(f"{path}: no kind {config!r}; there are {', '.join(KINDS)}")
    return ours.files(config, split)  # type: ignore[arg-type]  # the kind is held against KINDS just now, the split there


def _folder(path: Path, split: str, config: str | None) -> Iterator[Placed]:
    """Our own dataset or run folder, else one that `datasets` can load."""
    files = files_of(path, split, config)
    for file in files:
        yield from _parquet(file)
    if not files and holds_documents(path):
        yield from documents_in(path)
    elif not files:
        _of_one_format(path)
        yield from _datasets(str(path), split, config)


def _of_one_format(folder: Path) -> None:
    """Raises ConfigError for data files of several formats that no card tells apart: some would not be read."""
    if (folder / "README.md").is_file() or any(
        (folder / name).is_file() for name in ("dataset_dict.json", "state.json")
    ):
        return
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in _DATA and file.name not in _TOLD]
    if len({file.suffix.lower() for file in files}) > 1:
        named = ", ".join(str(file.relative_to(folder)) for file in files[:4])
        raise ConfigError(
            f"{folder} holds data files of several formats ({named}{', …' if files[4:] else ''}): give each"
        )


def _datasets(source: str, split: str, config: str | None) -> Iterator[Placed]:
    for number, row in enumerate(loaded(source, split, config), 1):
        yield f"{source} ({split}): row {number}", row


def loaded(source: str, split: str, config: str | None) -> datasets.Dataset:
    """A folder or a dataset on the Hub, through the `datasets` library."""
    import datasets
    from huggingface_hub.errors import HTTPError

    try:
        if Path(source, "dataset_dict.json").is_file():
            return datasets.load_from_disk(source)[split]
        if Path(source, "state.json").is_file():
            return datasets.load_from_disk(source)
        return datasets.load_dataset(source, config, split=split)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError, HTTPError) as e:
        what = "no dataset" if Path(source).exists() else "no file or folder here, and not to be had from the Hub"
        raise ConfigError(f"{source}: {what}: {shorten(str(e), 300)}") from e


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number; a byte-order mark is passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _no_utf8(line: bytes) -> str:
    """What is wrong with its bytes; empty where nothing is."""
    try:
        line.decode()
    except UnicodeDecodeError as e:
        return f"byte 0x{line[e.start]:02x} is no UTF-8: save the file as UTF-8"
    return ""
