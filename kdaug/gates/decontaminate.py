"""No benchmark in the training data: what overlaps with a named test set is dropped, before an answer is paid for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_args

from kdaug.batcher import Batcher
from kdaug.embedding import Embedder
from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.overlap import Match, Overlaps, Shared
from kdaug.read import rows_of
from kdaug.record import Drop, Json, Part, Record, spoken, text_of

if TYPE_CHECKING:
    import numpy as np

BATCH = 32  # texts that are embedded together
BLOCK = 65_536  # benchmark texts that a batch is held against at a time
SLACK = 1e-4  # two float32 sums over the same unit vectors differ by less than this, whatever their order


class Item(NamedTuple):
    """A text of a benchmark: the row (counted from 1) and the column that it stands in."""

    row: int
    column: str
    text: str


@dataclass(frozen=True)
class Benchmark:
    """The texts of a test set: `columns` of a dataset that `kdaug.read` can open (a file, a folder, a Hub id).

    A cell may hold a text, a number, a list of texts, or messages. Its content, not its place, is part of a run's
    fingerprint. Raises ConfigError where there is no such dataset, no such column, or no text.
    """

    data: str | Path = field(metadata={"fingerprint": False})
    columns: Sequence[str]
    split: str = field(default="test", metadata={"fingerprint": False})
    config: str | None = field(default=None, metadata={"fingerprint": False})
    items: tuple[Item, ...] = field(default=(), init=False, repr=False)
    rows: int = field(default=0, init=False)
    content: str = field(default="", init=False, repr=False, metadata={"fingerprint": True})

    def __post_init__(self) -> None:
        columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns or ())
        if not columns or not all(isinstance(name, str) for name in columns):
            raise ConfigError(
                f"columns is {self.columns!r}: give the names of those with the texts, such as [question]"
            )
        digest, items, row, seen = hashlib.blake2b(digest_size=8), list[Item](), 0, dict[str, None]()
        for row, (place, cells) in enumerate(rows_of(self.data, split=self.split, config=self.config), 1):
            if not isinstance(cells, Mapping):
                raise ConfigError(f"{place}: no object with fields: {shorten(repr(cells), 60)}")
            seen.update(dict.fromkeys(map(str, cells)))
            for column in columns:
                if text := _text(cells.get(column), f"{place}: {column}"):
                    items.append(Item(row, column, text))
                    digest.update(repr(items[-1]).encode())
        if row == 0:
            raise ConfigError(f"{self.data} is empty: give a split or a file that has rows")
        for column in columns:
            if column not in seen:
                raise ConfigError(f"{self.data} has no column {column!r}; there are {shorten(', '.join(seen))}")
        if not items:
            raise ConfigError(f"{self.data} has no text in {', '.join(columns)}: choose a column with texts")
        for name, value in (("columns", columns), ("items", tuple(items)), ("rows", row)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "content", digest.hexdigest())


@dataclass
class Decontaminate(Gate):
    """Drops a record that overlaps with an item of a benchmark: by words in a row, or (with `threshold`) by meaning.

    `against` maps a benchmark's name to a `Benchmark` or to its fields: `{"gsm8k": {"data": "gsm8k.jsonl", "columns":
    ["question"]}}`. Each message of the prompt (system messages aside) is looked at by itself; `on` may also be
    `completion` or `record` (both). In a stage before the answers are written, it costs nothing that is then dropped.

    Lexical: `ngram` words in a row, 13 as for GPT-3 and UltraFeedback (arXiv 2310.01377); fewer, down to `shortest`,
    where a benchmark's own texts are short; see `Overlaps`, also for `match`. In scripts without spaces a character is
    a word. `threshold`: also drop where the cosine of the embeddings is above it; `model` as in `Dedup`.

    Drops `decontaminate:ngram`, `decontaminate:whole` (all the item's words are in the record) and
    `decontaminate:cosine`, with the benchmark, row and column, and the words shared or the cosine.
    """

    name: ClassVar[str] = "decontaminate"
    against: Mapping[str, Benchmark] = field(metadata={"beside": True})  # its data may lie beside the recipe
    ngram: int = 13  # arXiv 2005.14165, appendix C
    shortest: int = 8  # arXiv 2005.14165, appendix C
    match: Match = "ngram"
    threshold: float | None = None
    model: str | None = None
    on: Part = "prompt"
    _overlaps: Overlaps = field(init=False, repr=False, compare=False)
    _items: Sequence[tuple[str, Item]] = field(default=(), init=False, repr=False, compare=False)
    _vectors: Any = field(default=None, init=False, repr=False, compare=False)  # float32 [items, dimensions]
    _embedder: Embedder | None = field(default=None, init=False, repr=False, compare=False)
    _batcher: Batcher[str, tuple[int, float]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        self.against = dict(_read(self.against))
        if self.threshold is not None:
            self._embedder = Embedder(self.model)
            _ = self._embedder.found  # a folder that holds no encoder is refused here
        self._batcher = Batcher(self._nearest, BATCH, order=len)

    def _check(self) -> None:
        if not 1 <= self.shortest <= self.ngram:
            raise ConfigError(
                f"decontaminate: shortest is {self.shortest} and ngram {self.ngram}: both are numbers of words, from 1 "
                "on, and shortest is at most ngram"
            )
        for name, kinds in (("match", Match), ("on", Part)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ConfigError(f"decontaminate: {name} must be one of {known}, not {getattr(self, name)!r}")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ConfigError(f"decontaminate: threshold is a cosine, from -1 to 1, not {self.threshold!r}")
        if not isinstance(self.against, Mapping) or not self.against:
            raise ConfigError("decontaminate: against names no benchmark: {gsm8k: {data: …, columns: [question]}}")

    def start(self, seeds: Sequence[Record]) -> Decontaminate:
        live = replace(self)
        live._items = [(name, item) for name, b in live.against.items() for item in b.items]
        groups = [[item.text for item in b.items] for b in live.against.values()]
        live._overlaps = Overlaps(groups, self.ngram, self.shortest, self.match)
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        messages = [m.content for m in spoken(record, self.on) if m.content.strip()]
        shared = next((found for text in messages if (found := self._overlaps.find(text))), None)
        if shared is not None:
            return Prepared(record, self._lexical(shared))
        if self.threshold is None or not messages:
            return Prepared(record)
        place, cosine = await self._batcher(text_of(spoken(record, self.on)))
        return Prepared(record, self._semantic(place, cosine) if cosine > self.threshold else None)

    def report(self) -> Mapping[str, Json]:
        """What the records are held against: of each benchmark the rows, the texts in them, and its n."""
        found: dict[str, Json] = {}
        for (name, benchmark), n in zip(self.against.items(), self._overlaps.n, strict=True):
            found[name] = {"rows": benchmark.rows, "texts": len(benchmark.items), "ngram": n}
        return {"benchmarks": found}

    def _lexical(self, shared: Shared) -> Drop:
        detail = self._named(shared.text) | {"words": len(shared.run), "ngram": shorten(" ".join(shared.run), 400)}
        return Drop("decontaminate:whole" if shared.whole else "decontaminate:ngram", detail)

    def _semantic(self, place: int, cosine: float) -> Drop:
        return Drop("decontaminate:cosine", self._named(place) | {"score": round(cosine, 6)})

    def _named(self, place: int) -> dict[str, Json]:
        name, item = self._items[place]
        return {"benchmark": name, "row": item.row, "column": item.column, "text": shorten(item.text)}

    async def _nearest(self, texts: list[str]) -> list[tuple[int, float]]:
        return await asyncio.to_thread(self._search, texts)

    def _search(self, texts: list[str]) -> list[tuple[int, float]]:
        """Of each text the item with the highest cosine, the first of equals, and that cosine."""
        import numpy as np

        assert self._embedder is not None, "only a gate with a threshold searches"
        if self._vectors is None:
            self._vectors = self._embedder.embed([item.text for _, item in self._items])
        vectors = self._embedder.embed(texts)
        best: Any = np.full(len(texts), -2.0, np.float32)
        for start in range(0, len(self._vectors), BLOCK):
            best = np.maximum(best, (vectors @ self._vectors[start : start + BLOCK].T).max(axis=1))
        return [self._exact(vector, float(least) - SLACK) for vector, least in zip(vectors, best, strict=True)]

    def _exact(self, vector: np.ndarray[Any, Any], least: float) -> tuple[int, float]:
        """In float64, among the items with a cosine of about `least` or more."""
        import numpy as np

        near = np.flatnonzero(self._vectors @ vector >= least)
        cosines = self._vectors[near].astype(np.float64) @ vector.astype(np.float64)
        first = int(np.argmax(cosines))
        return int(near[first]), float(cosines[first])


def _read(against: Mapping[str, Any]) -> Iterator[tuple[str, Benchmark]]:  # Any: as YAML or a user has it
    known = [f.name for f in fields(Benchmark) if f.init]
    for name, given in against.items():
        if isinstance(given, Benchmark):
            yield str(name), given
            continue
        if not isinstance(given, Mapping) or not {"data", "columns"} <= set(given) <= set(known):
            raise ConfigError(
                f"decontaminate: against.{name} is {shorten(repr(given), 80)}: give data and columns (and "
                "perhaps split and config)"
            )
        try:
            yield str(name), Benchmark(**given)
        except ConfigError as e:
            raise ConfigError(f"decontaminate: against.{name}: {e}") from e


def _text(cell: Any, place: str) -> str:  # Any: as a reader gives it
    """A cell as one text; empty where it holds none."""
    if cell is None or isinstance(cell, bool):
        return ""
    if isinstance(cell, (str, int, float)):
        return str(cell).strip()
    if isinstance(cell, Mapping) and isinstance(cell.get("content"), str):
        return str(cell["content"]).strip()
    if isinstance(cell, (list, tuple)):
        return "\n".join(filter(None, (_text(inner, place) for inner in cell)))
    raise ConfigError(f"{place} is no text, number, or list of texts: choose another column")
