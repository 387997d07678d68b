"""Semantic near-duplicates: the first of those whose cosine is above 0.9 is kept, exactly. Rows per CPU-second.

stream   40,000 vectors of 384 numbers in order, each against all that were kept before it: the whole job
pool     1,024 vectors against a pool of 1,000,000 (--quick: 10,000, and 50,000), with twins of 0.93 in it
anchors  FAISS Flat, IVF and HNSW, usearch and semhash on the same vectors (an anchor that is not installed is left out)

One thread. The vectors are random, with planted near-duplicates whose cosines lie between 0.80 and 0.99. `missed` are
duplicates that the exact answer drops and this one keeps, `wrong` are drops that the exact answer keeps.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when the libraries are loaded

import resource
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from time import process_time
from typing import Any

import numpy as np
from harness import Bound, finish, options, table

from kdaug.approximate import Approximate, Kind
from kdaug.vectors import TILE, Vectors, keep_first

THRESHOLD, DIMENSIONS, EFFORT = 0.9, 384, 32


def planted(number: int, seed: int = 0) -> Any:
    """Unit vectors [number, 384]; each fifth is near an earlier one that is none of these."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((number, DIMENSIONS), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    places = np.arange(5, number, 5)
    sources = (rng.random(len(places)) * places).astype(np.int64)
    sources -= sources % 5 == 0  # not a near-duplicate itself; -1 becomes 1
    sources[sources < 0] = 1
    cosines = rng.uniform(0.80, 0.99, len(places)).astype(np.float32)[:, None]
    for start in range(0, len(places), TILE):
        at, near = places[start : start + TILE], rows[sources[start : start + TILE]]
        aside = rows[at] - (rows[at] * near).sum(1, keepdims=True) * near
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        cosine = cosines[start : start + TILE]
        rows[at] = cosine * near + np.sqrt(1 - cosine**2) * aside
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def by_faiss(rows: Any, kind: str) -> Any:
    """Which rows are kept, by a FAISS index that is searched and filled in blocks; a block's own pairs are exact."""
    import faiss

    inner = faiss.METRIC_INNER_PRODUCT
    index: Any = faiss.IndexFlatIP(DIMENSIONS)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(DIMENSIONS, 32, inner)
        index.hnsw.efSearch = 64
    if kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIMENSIONS), DIMENSIONS, 256, inner)
        index.nprobe = 8
        index.train(rows[:10_000])
    kept: Any = np.zeros(len(rows), bool)
    for start in range(0, len(rows), TILE):
        block = rows[start : start + TILE]
        fresh: Any = np.ones(len(block), bool)
        if index.ntotal:
            fresh = index.search(block, 1)[0][:, 0] <= THRESHOLD
        near = np.tril(block @ block.T > THRESHOLD, -1)
        for row in range(len(block)):
            fresh[row] &= not (near[row] & fresh).any()
        kept[start : start + TILE] = fresh
        index.add(block[fresh])
    return kept


def by_kdaug(rows: Any, kind: Kind) -> Any:
    """As the gate does with `index: ivf | hnsw`."""
    kept = Approximate(kind, EFFORT)
    made: Any = np.zeros(len(rows), bool)
    for start in range(0, len(rows), TILE):
        block, seen = rows[start : start + TILE], len(kept)
        for at, twin in enumerate(kept.earliest_twins(block, THRESHOLD, seen)):
            if kept.renewed(twin, block[at], THRESHOLD, seen) is None:
                kept.add(block[at][None])
                made[start + at] = True
    return made


def by_usearch(rows: Any) -> Any:
    from usearch.index import Index

    index = Index(ndim=DIMENSIONS, metric="ip", dtype="f32")
    kept: Any = np.zeros(len(rows), bool)
    for at, row in enumerate(rows):
        kept[at] = not len(index) or 1 - float(index.search(row, 1, threads=1).distances[0]) <= THRESHOLD
        if kept[at]:
            index.add(at, row, threads=1)
    return kept


def by_semhash(rows: Any) -> Any:
    """Its own way, from the vectors: an approximate index, and connected pairs."""
    from semhash import SemHash

    class Known:
        def encode(self, inputs: Any, **options: Any) -> Any:
            return rows[[int(text) for text in inputs]]

    made = SemHash.from_records([str(at) for at in range(len(rows))], model=Known())
    kept: Any = np.zeros(len(rows), bool)
    kept[[int(text) for text in made.self_deduplicate(threshold=THRESHOLD).selected]] = True
    return kept


def nearby(rows: Any, seed: int) -> Any:
    """Vectors whose cosine with these is 0.93."""
    aside = planted(len(rows), seed=seed + 7)
    aside -= (aside * rows).sum(1, keepdims=True) * rows
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return (0.93 * rows + np.sqrt(1 - 0.93**2) * aside).astype(np.float32)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = process_time()
    made = work()
    return process_time() - started, made


def stream(number: int, slow: int) -> dict[str, dict[str, float]]:
    """`slow`: the rows that the anchors that go row by row are given."""
    rows = planted(number)
    ways: dict[str, tuple[int, Callable[[Any], Any]]] = {
        "kdaug": (number, lambda some: keep_first(some, THRESHOLD) < 0),
        "kdaug, float32 tiles": (number, lambda some: keep_first(some, THRESHOLD, half=False) < 0),
        "kdaug, index: ivf": (number, lambda some: by_kdaug(some, "ivf")),
        "kdaug, index: hnsw": (number, lambda some: by_kdaug(some, "hnsw")),
    }
    if find_spec("faiss"):
        ways["FAISS Flat"] = (number, lambda some: by_faiss(some, "flat"))
        ways["FAISS IVF (256 cells, 8 probed)"] = (number, lambda some: by_faiss(some, "ivf"))
        ways["FAISS HNSW (32 links, ef 64)"] = (slow, lambda some: by_faiss(some, "hnsw"))
    if find_spec("usearch"):
        ways["usearch"] = (slow, by_usearch)
    if find_spec("semhash"):
        ways["semhash"] = (slow, by_semhash)
    keep_first(rows[: 2 * TILE], THRESHOLD)  # the libraries are loaded, their kernels compiled
    found: dict[str, dict[str, float]] = {}
    for name, (size, way) in ways.items():
        exact = keep_first(rows[:size], THRESHOLD, half=False) < 0
        seconds, kept = timed(partial(way, rows[:size]))
        missed, wrong = int((kept & ~exact).sum()), int((~kept & exact).sum())
        found[name] = {
            "rows": size,
            "rows_per_cpu_s": size / seconds,
            "recall": 1 - missed / int((~exact).sum()),
            "missed": missed,
            "wrong": wrong,
        }
    return found


def pool(number: int) -> dict[str, float]:
    """A block against a pool that stays as it is: kdaug's search beside FAISS Flat's."""
    import faiss

    queries = planted(TILE, seed=1)
    kept, cells, flat = Vectors(), Approximate("ivf", EFFORT), faiss.IndexFlatIP(DIMENSIONS)
    for start in range(0, number, 50_000):
        rows = planted(min(50_000, number - start), seed=2 + start)
        few = slice(start // 50_000 * 25, start // 50_000 * 25 + 25)
        rows[:25] = nearby(queries[few], seed=start)
        kept.add(rows)
        cells.add(rows)
        flat.add(rows)
    kept.earliest_twins(queries, THRESHOLD, TILE)
    own, twins = timed(lambda: kept.earliest_twins(queries, THRESHOLD, number))
    theirs, (best, _) = timed(lambda: flat.search(queries, 1))
    built, _ = timed(lambda: cells.earliest_twins(queries[:1], THRESHOLD, number))
    fast, approximate = timed(lambda: cells.earliest_twins(queries, THRESHOLD, number))
    there = sum(twin is not None for twin in twins)
    differ = sum((twin is not None) != bool(score > THRESHOLD) for twin, score in zip(twins, best[:, 0], strict=True))
    return {
        "rows": number,
        "kdaug_rows_per_cpu_s": TILE / own,
        "flat_rows_per_cpu_s": TILE / theirs,
        "decisions_that_differ": differ,
        "twins": there,
        "ivf_rows_per_cpu_s": TILE / fast,
        "ivf_recall": sum(twin is not None for twin in approximate) / there,
        "ivf_built_s": built,
    }


def main() -> int:
    given = options(__doc__).parse_args()
    number, slow, large = (10_000, 2_000, 50_000) if given.quick else (40_000, 10_000, 1_000_000)
    found = stream(number, slow)
    head = ("", "rows", "rows per CPU-second", "recall", "missed", "wrong")
    lines = [
        (n, f"{f['rows']:,}", f"{f['rows_per_cpu_s']:,.0f}", f"{f['recall']:.4f}", f"{f['missed']}", f"{f['wrong']}")
        for n, f in found.items()
    ]
    print(table(head, lines))
    bounds = [Bound("decisions that differ", found["kdaug"]["missed"] + found["kdaug"]["wrong"], 0, most=True)]
    figures: dict[str, Any] = {"stream": found}
    if "FAISS Flat" in found:
        flat, against = found["FAISS Flat"]["rows_per_cpu_s"], pool(large)
        own, theirs = against["kdaug_rows_per_cpu_s"], against["flat_rows_per_cpu_s"]
        figures["pool"] = against
        print(
            f"against a pool of {large:,}: kdaug {own:,.0f} rows per CPU-second, FAISS Flat {theirs:,.0f}; with index: "
            f"ivf {against['ivf_rows_per_cpu_s']:,.0f}, recall {against['ivf_recall']:.3f}, built in "
            f"{against['ivf_built_s']:,.0f} s"
        )
        from kdaug.device import half_is_faster

        half = half_is_faster("cpu")
        bounds += [
            Bound("decisions that differ from FAISS Flat, pool", against["decisions_that_differ"], 0, most=True),
            Bound("float32 tiles over FAISS Flat", found["kdaug, float32 tiles"]["rows_per_cpu_s"] / flat, 1),
            Bound(f"over FAISS Flat, pool of {large:,}", own / theirs, 5 if half else 1),
            Bound(f"over FAISS Flat, {number:,} rows", found["kdaug"]["rows_per_cpu_s"] / flat, 2.5 if half else 1),
        ]
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {figures['peak_mb']:,.0f} MB")
    return finish("semantic", given, figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
