"""Semantic near-duplicates: cosine of sentence embeddings, keep first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from kdaug.batcher import Batcher
from kdaug.embedding import BATCH, Embedder
from kdaug.errors import require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.gates.novelty import On, check_fields, compared, is_own_seed, near_duplicate, seed_texts
from kdaug.generator import Generate
from kdaug.record import Drop, Record

if TYPE_CHECKING:
    from kdaug.embedding import Array

# Two float32 sums over the same unit vectors differ by less than this, whatever their order. What comes as near to the
# threshold is decided by a float64 sum, which does not depend on who else was in the batch.
SLACK = 1e-4


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
    vector: Array
    twin: _Twin | None
    seen: int  # how many kept vectors the search has looked at


@dataclass
class Dedup(Gate):
    """Drops a text whose embedding's cosine with that of a seed or a kept text is above `threshold`; the first is kept.

    `model` is a sentence-transformers model: a folder, an installed package or a name on the Hub (None: kdaug's
    default). It reads only the first tokens of a long text (256 for all-MiniLM-L6-v2). `on` says what is compared, as
    in `Rouge`. Decisions are those of a brute-force search in job order, however many records are in flight.

    Drops `dedup:near_duplicate` with the twin (the earliest above the threshold), the cosine and its text, and
    `dedup:empty`. Raises KdaugError where the model gives a vector that is zero or not finite.
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
        require("faiss", "embed", "the dedup gate")
        self._kept = _Rows()
        self._batcher = Batcher(
            self._look_up, BATCH, group=lambda query: query.against, order=lambda query: len(query.text)
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
        _, vector, twin, seen = prepared.evidence
        twin = twin or self._kept.earliest_twin(vector, self.threshold, seen, len(self._kept))
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
        return [_Evidence(q.text, v, twin, seen) for q, v, twin in zip(queries, vectors, twins, strict=True)]

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
            rows.add(seed, text, vector)
        return rows

    def _embed(self, texts: list[str]) -> Array:
        """Unit vectors, float32, [texts, dimensions]."""
        assert self._embedder is not None, "a gate is started before it is used"
        return self._embedder.embed(texts)


class _Rows:
    """Unit vectors in the order they were kept. Rows are only ever added, so a search that is given a length is right
    in any thread while others are added behind it."""

    def __init__(self) -> None:
        self._matrix: Array | None = None  # with room to grow
        self._labels: list[tuple[str, str]] = []  # id, the text shortened

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, id: str, text: str, vector: Array) -> None:
        import numpy as np

        size = len(self._labels)
        if self._matrix is None or size == len(self._matrix):
            larger: Array = np.empty((max(1024, 2 * size), len(vector)), np.float32)
            if self._matrix is not None:
                larger[:size] = self._matrix
            self._matrix = larger
        self._matrix[size] = vector
        self._labels.append((id, shorten(text)))

    def earliest_twins(self, vectors: Array, threshold: float, until: int) -> list[_Twin | None]:
        """Of each vector, among the first `until` rows: FAISS finds out which have one at all."""
        import faiss

        if self._matrix is None or until == 0:
            return [None] * len(vectors)
        best, _ = faiss.knn(vectors, self._matrix[:until], 1, metric=faiss.METRIC_INNER_PRODUCT)
        return [
            self.earliest_twin(v, threshold, 0, until) if score > threshold - SLACK else None
            for v, score in zip(vectors, best[:, 0], strict=True)
        ]

    def earliest_twin(self, vector: Array, threshold: float, since: int, until: int) -> _Twin | None:
        import numpy as np

        if self._matrix is None or since >= until:
            return None
        near = np.flatnonzero(self._matrix[since:until] @ vector > threshold - SLACK)
        for place in (since + int(offset) for offset in near):
            score = float(np.dot(self._matrix[place].astype(np.float64), vector.astype(np.float64)))
            if score > threshold:
                id, text = self._labels[place]
                return _Twin(id, text, score)
        return None
