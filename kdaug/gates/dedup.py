"""Semantic near-duplicates: cosine of sentence embeddings, keep first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

from kdaug.approximate import Approximate
from kdaug.batcher import Batcher
from kdaug.embedding import Embedder, has_numbers
from kdaug.errors import ConfigError, require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.gates.sieve import Real, Sieve
from kdaug.generator import Generate
from kdaug.record import Drop, Json, Record
from kdaug.static_embedding import StaticEmbedder
from kdaug.vectors import TILE, Twin, Vectors

if TYPE_CHECKING:
    from kdaug.embedding import Array

Against: TypeAlias = Literal["seeds and kept", "kept", "nothing"]
Index: TypeAlias = Literal["exact", "ivf", "hnsw"]


class _Twin(NamedTuple):
    id: str
    text: str
    score: float


class _Query(NamedTuple):
    text: str
    against: Against


class _Evidence(NamedTuple):
    text: str
    vector: Array | None  # None: the model gives none
    of_seeds: _Twin | None
    found: Any  # among what was kept: the twin, or by the sieve the places of those that may be one
    seen: int  # how many kept vectors the search has looked at


@dataclass
class Dedup(Gate):
    """Drops a text whose embedding's cosine with that of a seed or a kept text is above `threshold`; the first is kept.

    `model` is a sentence-transformers model: a folder, an installed package or a name on the Hub (None: kdaug's
    default). It reads only the first tokens of a long text (256 for all-MiniLM-L6-v2). `on` says what is compared, as
    in `Rouge`. Decisions are those of a brute-force search in job order, however many records are in flight; a cosine
    is a float64 sum over float32 vectors, and one of just the threshold is kept.

    Two ways to be faster miss some twins, and never drop wrongly; what they find of a sample is in the run's report.
    `index` `ivf` or `hnsw` searches a pool of more than 16,384 through FAISS, with more or less `effort`
    (`kdaug.approximate`). `sieve`, such as 0.75: a text of which no static vector's cosine is above it is kept without
    the model; `static` is a folder of a model2vec model (None: one distilled from `model`).

    Drops `dedup:near_duplicate` with the twin (the earliest above the threshold), the cosine and its text,
    `dedup:empty`, and `dedup:no_embedding` where the model gives a text zeros or no numbers. Raises KdaugError where it
    gives nothing else.
    """

    name: ClassVar[str] = "dedup"
    threshold: float = 0.9
    model: str | None = None
    on: On = "prompt"
    index: Index = "exact"
    effort: int = 32
    sieve: float | None = None
    static: str | None = None
    _embedder: Embedder | None = field(default=None, init=False, repr=False, compare=False)
    _static: StaticEmbedder | None = field(default=None, init=False, repr=False, compare=False)
    _real: Real = field(init=False, repr=False, compare=False)
    _seed_texts: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seeds: _Rows | None = field(default=None, init=False, repr=False, compare=False)
    _kept: _Rows = field(init=False, repr=False, compare=False)
    _batcher: Batcher[_Query, _Evidence] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self.name, self.threshold, self.on)
        require("sentence_transformers", "embed", "the dedup gate")
        if self.index not in get_args(Index):
            raise ConfigError(f"dedup: index must be one of {', '.join(get_args(Index))}, not {self.index!r}")
        if self.index != "exact":
            require("faiss", "embed", f"dedup with index {self.index}")
            if self.sieve is not None:
                raise ConfigError("dedup: choose index or sieve: what the sieve lets pass is not in an index")
        if self.effort < 1:
            raise ConfigError(f"dedup: effort must be at least 1, not {self.effort!r}")
        if self.sieve is not None and not 0 <= self.sieve < 1:
            raise ConfigError(f"dedup: sieve is a cosine from 0 to below 1, not {self.sieve!r}")
        self._real = Real(self._embed)
        self._kept = self._rows()
        self._batcher = Batcher(
            self._look_up, TILE, group=lambda query: query.against, order=lambda query: len(query.text)
        )

    def start(self, seeds: Sequence[Record]) -> Dedup:
        live = replace(self)
        live._embedder = Embedder(self.model)
        found = live._embedder.found  # a folder that holds none is found out now
        if self.sieve is not None:
            live._static = StaticEmbedder(found, self.static)
        live._seed_texts = seed_texts(seeds, self.on)
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        text = compared(record, self.on)
        if not text.strip():
            return Prepared(record)
        against: Against = "kept" if is_own_seed(record, text, self._seed_texts) else "seeds and kept"
        return Prepared(record, await self._batcher(_Query(text, against)))

    async def recall(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._batcher(_Query(compared(record, self.on), "nothing")))

    def decide(self, prepared: Prepared) -> Drop | None:
        if prepared.evidence is None:
            return Drop("dedup:empty", {"on": self.on})
        found: _Evidence = prepared.evidence
        if found.vector is None:
            return self._no_embedding(found.text)
        twin = found.of_seeds or self._kept.renewed(found.text, found.vector, found.found, found.seen)
        if twin is None:
            return None
        if isnan(twin.score):
            return self._no_embedding(found.text)
        return near_duplicate(self.name, twin.id, round(twin.score, 6), twin.text)

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(prepared.record.id, prepared.evidence.text, prepared.evidence.vector)

    def report(self) -> Mapping[str, Json]:
        """How much of what an exact search would drop is dropped, by a sample."""
        return self._kept.recall()

    def _no_embedding(self, text: str) -> Drop:
        return Drop("dedup:no_embedding", {"on": self.on, "text": shorten(text)})

    def _rows(self) -> _Rows:
        if self.sieve is not None:
            return _Rows(Sieve(self._real, self.sieve, self.threshold))
        vectors = Vectors() if self.index == "exact" else Approximate(self.index, self.effort)
        return _Rows(_Indexed(vectors, self.threshold))

    async def _look_up(self, queries: list[_Query]) -> list[_Evidence]:
        """One batch: embedded, then held against the seeds and what is kept by then. Work is done in threads."""
        against, texts = queries[0].against, [q.text for q in queries]
        if against == "seeds and kept" and self._seeds is None:
            self._seeds = await asyncio.to_thread(self._embed_seeds)
        vectors = await asyncio.to_thread(self._vectors, texts)
        seen = len(self._kept)
        found = await asyncio.to_thread(self._search, texts, vectors, against, seen)
        return [
            _Evidence(text, v if has_numbers(v) else None, of_seeds, of_kept, seen)
            for text, v, (of_seeds, of_kept) in zip(texts, vectors, found, strict=True)
        ]

    def _search(self, texts: list[str], vectors: Array, against: Against, seen: int) -> list[tuple[_Twin | None, Any]]:
        none: list[_Twin | None] = [None] * len(texts)
        if against == "nothing":
            return list(zip(none, none, strict=True))
        seeds = self._seeds if against == "seeds and kept" else None
        of_seeds = seeds.twins(texts, vectors) if seeds else none
        return list(zip(of_seeds, self._kept.search(texts, vectors, seen), strict=True))

    def _embed_seeds(self) -> _Rows:
        """Only when a record is held against them: where every record is a seed's own, never."""
        rows, texts = self._rows(), self._seed_texts
        vectors = self._vectors(list(texts.values())) if texts else ()
        for (seed, text), vector in zip(texts.items(), vectors, strict=True):
            if has_numbers(vector):
                rows.add(seed, text, vector)
        return rows

    def _vectors(self, texts: list[str]) -> Array:
        """What the search is in: the encoder's vectors, or the sieve's."""
        return self._embed(texts) if self.sieve is None else self._sifted(texts)

    def _sifted(self, texts: list[str]) -> Array:
        assert self._static is not None, "a gate is started before it is used"
        return self._static.rows(texts)

    def _embed(self, texts: list[str]) -> Array:
        """Unit vectors, float32, [texts, dimensions]; rows of NaN where the model gives none."""
        assert self._embedder is not None, "a gate is started before it is used"
        return self._embedder.rows(texts)


@dataclass(frozen=True)
class _Indexed:
    """The encoder's vectors, as `Sieve` has the static ones."""

    vectors: Vectors | Approximate
    threshold: float

    def add(self, text: str, vector: Array) -> None:
        self.vectors.add(vector[None])

    def search(self, texts: list[str], vectors: Array, until: int) -> Sequence[Any]:
        return self.vectors.earliest_twins(vectors, self.threshold, until)

    def renewed(self, text: str, vector: Array, found: Any, seen: int) -> Twin | None:
        return self.vectors.renewed(found, vector, self.threshold, seen)

    def recall(self) -> Mapping[str, Json]:
        return self.vectors.recall(self.threshold) if isinstance(self.vectors, Approximate) else {}


class _Rows:
    """What is kept (or the seeds), and of each its id and its text, shortened."""

    def __init__(self, pool: _Indexed | Sieve) -> None:
        self._pool, self._labels = pool, list[tuple[str, str]]()
        self.search, self.recall = pool.search, pool.recall

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, id: str, text: str, vector: Array) -> None:
        self._pool.add(text, vector)
        self._labels.append((id, shorten(text)))

    def renewed(self, text: str, vector: Array, found: Any, seen: int) -> _Twin | None:
        """The earliest twin there is now, where `search` among the first `seen` found this."""
        twin = self._pool.renewed(text, vector, found, seen)
        return _Twin(*self._labels[twin.place], twin.score) if twin else None

    def twins(self, texts: list[str], vectors: Array) -> list[_Twin | None]:
        """Of each text the earliest twin."""
        now = len(self)
        found = self.search(texts, vectors, now)
        return [self.renewed(t, v, f, now) for t, v, f in zip(texts, vectors, found, strict=True)]
