"""Semantic near-duplicates: cosine of sentence embeddings, keep first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from kdaug.batcher import Batcher
from kdaug.embedding import Embedder, has_numbers
from kdaug.errors import require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.generator import Generate
from kdaug.record import Drop, Record
from kdaug.vectors import TILE, Twin, Vectors

if TYPE_CHECKING:
    from kdaug.embedding import Array

Against: TypeAlias = Literal["seeds and kept", "kept", "nothing"]


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
    twin: _Twin | None
    seen: int  # how many kept vectors the search has looked at


@dataclass
class Dedup(Gate):
    """Drops a text whose embedding's cosine with that of a seed or a kept text is above `threshold`; the first is kept.

    `model` is a sentence-transformers model: a folder, an installed package or a name on the Hub (None: kdaug's
    default). It reads only the first tokens of a long text (256 for all-MiniLM-L6-v2). `on` says what is compared, as
    in `Rouge`. Decisions are those of a brute-force search in job order, however many records are in flight; a cosine
    is a float64 sum over float32 vectors, and one of just the threshold is kept.

    Drops `dedup:near_duplicate` with the twin (the earliest above the threshold), the cosine and its text,
    `dedup:empty`, and `dedup:no_embedding` where the model gives a text zeros or no numbers. Raises KdaugError where it
    gives nothing else.
    """

    name: ClassVar[str] = "dedup"
    threshold: float = 0.9
    model: str | None = None
    on: On = "prompt"
    _embedder: Embedder | None = field(default=None, init=False, repr=False, compare=False)
    _seed_texts: Mapping[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _seeds: _Rows | None = field(default=None, init=False, repr=False, compare=False)
    _kept: _Rows = field(init=False, repr=False, compare=False)
    _batcher: Batcher[_Query, _Evidence] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self.name, self.threshold, self.on)
        require("sentence_transformers", "embed", "the dedup gate")
        self._kept = _Rows()
        self._batcher = Batcher(
            self._look_up, TILE, group=lambda query: query.against, order=lambda query: len(query.text)
        )

    def start(self, seeds: Sequence[Record]) -> Dedup:
        live = replace(self)
        live._embedder = Embedder(self.model)
        _ = live._embedder.found  # a folder that holds none is found out now
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
        text, vector, twin, seen = prepared.evidence
        if vector is None:
            return Drop("dedup:no_embedding", {"on": self.on, "text": shorten(text)})
        twin = twin or self._kept.earliest_twin(vector, self.threshold, seen)
        return near_duplicate(self.name, twin.id, round(twin.score, 6), twin.text) if twin else None

    def remember(self, prepared: Prepared) -> None:
        self._kept.add(prepared.record.id, prepared.evidence.text, prepared.evidence.vector)

    async def _look_up(self, queries: list[_Query]) -> list[_Evidence]:
        """One batch: embedded, then held against the seeds and what is kept by then. Work is done in threads."""
        against = queries[0].against
        if against == "seeds and kept" and self._seeds is None:
            self._seeds = await asyncio.to_thread(self._embed_seeds)
        vectors = await asyncio.to_thread(self._embed, [q.text for q in queries])
        seen = len(self._kept)
        twins = await asyncio.to_thread(self._search, vectors, against, seen)
        return [
            _Evidence(q.text, v if has_numbers(v) else None, twin, seen)
            for q, v, twin in zip(queries, vectors, twins, strict=True)
        ]

    def _search(self, vectors: Array, against: Against, seen: int) -> list[_Twin | None]:
        if against == "nothing":
            return [None] * len(vectors)
        twins = self._kept.earliest_twins(vectors, self.threshold, seen)
        if against == "seeds and kept" and self._seeds is not None:
            of_seeds = self._seeds.earliest_twins(vectors, self.threshold, len(self._seeds))
            twins = [seed or kept for seed, kept in zip(of_seeds, twins, strict=True)]
        return twins

    def _embed_seeds(self) -> _Rows:
        """Only when a record is held against them: where every record is a seed's own, never."""
        rows, texts = _Rows(), self._seed_texts
        vectors = self._embed(list(texts.values())) if texts else ()
        for (seed, text), vector in zip(texts.items(), vectors, strict=True):
            if has_numbers(vector):
                rows.add(seed, text, vector)
        return rows

    def _embed(self, texts: list[str]) -> Array:
        """Unit vectors, float32, [texts, dimensions]; rows of NaN where the model gives none."""
        assert self._embedder is not None, "a gate is started before it is used"
        return self._embedder.rows(texts)


class _Rows:
    """The vectors of what is kept, and of each its id and its text, shortened."""

    def __init__(self) -> None:
        self._vectors, self._labels = Vectors(), list[tuple[str, str]]()

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, id: str, text: str, vector: Array) -> None:
        self._vectors.add(vector[None])
        self._labels.append((id, shorten(text)))

    def earliest_twins(self, vectors: Array, threshold: float, until: int) -> list[_Twin | None]:
        return [self._named(twin) for twin in self._vectors.earliest_twins(vectors, threshold, until)]

    def earliest_twin(self, vector: Array, threshold: float, since: int) -> _Twin | None:
        return self._named(self._vectors.earliest_twin(vector, threshold, since, len(self)))

    def _named(self, twin: Twin | None) -> _Twin | None:
        return _Twin(*self._labels[twin.place], twin.score) if twin else None
