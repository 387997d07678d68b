"""The earliest twin in pools too large to look at every vector: a FAISS index proposes, the vectors themselves decide.

So no twin is a wrong one, but some are missed; how many is measured, on a sample of what was asked.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from kdaug.record import Json
from kdaug.vectors import TILE, Twin, Vectors, earliest

if TYPE_CHECKING:
    from kdaug.embedding import Array

Kind: TypeAlias = Literal["ivf", "hnsw"]

BLOCK = 16 * TILE  # vectors go into the index so many at a time; the newest are searched exactly
GROWTH = 4  # the cells are laid anew when there are so many times as many vectors
POINTS, ROUNDS = 40, 4  # of k-means: vectors a cell, and rounds
LINKS, WIDTH = 32, 80  # of a vector in the graph, and how many are looked at for them
NEAREST = 16  # candidates of a query
SLACK = 0.02  # an 8-bit code changes a cosine by less
SAMPLE = 2048  # searches that are made again, exactly


class _Asked(NamedTuple):
    query: Array
    until: int
    found: bool


class Approximate:
    """What `Vectors` is, with a FAISS index of 8-bit codes: `ivf` looks into `effort` of some 4 √n cells, `hnsw` keeps
    `effort` candidates on its way through a graph (Malkov and Yashunin, arXiv 1603.09320). Cells lie on a GPU where
    FAISS has one.

    The index holds whole blocks of the first vectors, and what came after them is searched exactly. So what is found
    depends on how many vectors there are, and not on when in a block it was looked for. Memory: 5 bytes a number, and
    256 a vector for `hnsw`.
    """

    def __init__(self, kind: Kind, effort: int) -> None:
        self._kind, self._effort = kind, effort
        self._rows = Vectors()
        self._index: Any = None  # of FAISS, whose types are not followed
        self._indexed = self._laid_for = 0
        self._one_at_a_time = threading.Lock()  # an index is no place to search while it grows
        self._asked: list[_Asked] = []
        self._every, self._count = 1, 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Array) -> None:
        self._rows.add(rows)

    def earliest_twins(self, queries: Array, threshold: float, until: int) -> list[Twin | None]:
        """Of each row of `queries`, the first vector among the first `until` that is found to be above `threshold`."""
        import numpy as np

        whole = until - until % BLOCK
        found: list[Twin | None] = [None] * len(queries)
        if whole:
            found = self._among_whole(queries, threshold, whole)
        waiting = np.flatnonzero([twin is None for twin in found])
        newest = self._rows.earliest_twins(queries[waiting], threshold, until, whole) if len(waiting) else []
        for at, twin in zip(waiting.tolist(), newest, strict=True):
            found[at] = twin
        return found

    def renewed(self, found: Twin | None, query: Array, threshold: float, seen: int) -> Twin | None:
        """What a search among the first `seen` found, brought up to now."""
        now = len(self)
        if seen // BLOCK == now // BLOCK:
            twin = found or self._rows.earliest_twin(query, threshold, seen, now)
        else:
            whole = now - now % BLOCK
            (twin,) = self._among_whole(query[None], threshold, whole)
            twin = twin or self._rows.earliest_twin(query, threshold, whole, now)
        if now >= BLOCK:
            self._note(_Asked(query, now, twin is not None))
        return twin

    def recall(self, threshold: float) -> dict[str, Json]:
        """Of a sample of what was asked: how many have a twin, and how many of these were found to have one."""
        import numpy as np

        if not self._asked:
            return {}
        queries = np.stack([asked.query for asked in self._asked])
        exact = self._rows.earliest_twins(queries, threshold, len(self))
        there = [one for one, twin in zip(self._asked, exact, strict=True) if twin and twin.place < one.until]
        found = sum(one.found for one in there)
        figures: dict[str, Json] = {"sampled": len(self._asked), "duplicates": len(there), "found": found}
        return figures | ({"recall": round(found / len(there), 4)} if there else {})

    def _note(self, asked: _Asked) -> None:
        """Every n-th, n doubled whenever the sample is twice as large as it need be."""
        self._count += 1
        if self._count % self._every:
            return
        self._asked.append(asked)
        if len(self._asked) == 2 * SAMPLE:
            self._asked, self._every = self._asked[1::2], 2 * self._every

    def _among_whole(self, queries: Array, threshold: float, whole: int) -> list[Twin | None]:
        """Among the first `whole`, which the index holds after this if it did not before."""
        import numpy as np

        with self._one_at_a_time:
            if self._indexed < whole:
                self._grow(whole)
            cosines, places = self._index.search(np.ascontiguousarray(queries), NEAREST)
        near = np.where((cosines > threshold - SLACK) & (places < whole), places, -1)
        return [self._earliest(np.sort(row[row >= 0]), q, threshold) for row, q in zip(near, queries, strict=True)]

    def _earliest(self, places: Sequence[int], query: Array, threshold: float) -> Twin | None:
        import numpy as np

        if not len(places):
            return None
        twin = earliest(self._rows.at(places), np.arange(len(places)), query, threshold)
        return Twin(int(places[twin.place]), twin.score) if twin else None

    def _grow(self, whole: int) -> None:
        """As it would be had it grown block by block."""
        import faiss

        laid_for = BLOCK
        while self._kind == "ivf" and GROWTH * laid_for <= whole:
            laid_for *= GROWTH
        if laid_for != self._laid_for:
            self._index, self._laid_for, self._indexed = self._laid(laid_for), laid_for, 0
        threads = faiss.omp_get_max_threads()
        if self._kind == "hnsw":  # else the threads' race decides which links there are
            faiss.omp_set_num_threads(1)
        for tile in self._rows.tiles(self._indexed, whole):
            self._index.add(tile)
        faiss.omp_set_num_threads(threads)
        self._indexed = whole

    def _laid(self, number: int) -> Any:
        """An empty index for so many vectors, trained on a sample of the first so many."""
        import numpy as np

        cells = 1 << round(np.log2(4 * sqrt(number)))
        step = max(1, number // (POINTS * cells))
        sample = np.concatenate([tile[::step] for tile in self._rows.tiles(0, number)])
        index = self._cells(sample.shape[1], cells) if self._kind == "ivf" else self._graph(sample.shape[1])
        index.train(sample)
        return index

    def _cells(self, dimensions: int, cells: int) -> Any:
        import faiss

        index: Any = faiss.index_factory(dimensions, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = ROUNDS, POINTS, 1
        if faiss.get_num_gpus():
            self._gpu = faiss.StandardGpuResources()  # lives as long as the index
            index = faiss.index_cpu_to_gpu(self._gpu, 0, index)
        index.nprobe = min(self._effort, cells)
        return index

    def _graph(self, dimensions: int) -> Any:
        import faiss

        index: Any = faiss.index_factory(dimensions, f"HNSW{LINKS},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = WIDTH, self._effort
        return index
