"""The search for the earliest twin decides as a naive reference, in tiles of either precision, in blocks or alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaug.approximate import Approximate, Kind
from kdaug.vectors import TILE, Vectors, keep_first


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(seed: int, count: int, families: int, dimensions: int, noise: float) -> Any:
    """Directions with noise round them, so that many cosines lie close to a threshold."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(families, dimensions))
    return unit(centres[rng.integers(families, size=count)] + noise * rng.normal(size=(count, dimensions)))


def naive(rows: Any, threshold: float) -> list[int]:
    """One by one, in order: the earliest kept row whose cosine is above the threshold."""
    kept, twins = list[int](), list[int]()
    for at, row in enumerate(rows.astype(np.float64)):
        twins.append(next((k for k in kept if float(np.dot(rows[k].astype(np.float64), row)) > threshold), -1))
        if twins[-1] < 0:
            kept.append(at)
    return twins


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 120),
    families=st.integers(1, 30),
    dimensions=st.sampled_from([1, 2, 3, 16, 100]),
    noise=st.sampled_from([0.0, 1e-4, 0.05, 0.3, 1.0]),
    threshold=st.one_of(st.sampled_from([0.0, 0.005, 0.5, 0.9, 1.0]), st.floats(0, 1)),
    half=st.booleans(),
)
def test_decisions_and_twins_are_those_of_the_naive_reference(
    seed: int, count: int, families: int, dimensions: int, noise: float, threshold: float, half: bool
) -> None:
    rows = clustered(seed, count, families, dimensions, noise)
    assert keep_first(rows, threshold, half=half).tolist() == naive(rows, threshold)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), nudge=st.integers(-3, 3), half=st.booleans())
def test_a_threshold_at_a_pairs_own_cosine_is_decided_by_the_float64_sum(seed: int, nudge: int, half: bool) -> None:
    rows = clustered(seed, 2, 1, 64, 0.3)
    score = float(np.dot(rows[0].astype(np.float64), rows[1].astype(np.float64)))
    threshold = min(1.0, score + nudge * 1e-9)
    assert keep_first(rows, threshold, half=half).tolist() == [-1, 0 if score > threshold else -1]


@pytest.mark.parametrize("half", [True, False])
def test_over_many_tiles_blocks_decide_as_one_by_one_and_as_the_reference(half: bool) -> None:
    rows = clustered(3, 2 * TILE + 77, 1500, 48, 0.33)
    twins = keep_first(rows, 0.9, half=half)
    assert twins.tolist() == naive(rows, 0.9)
    assert 300 < (twins >= 0).sum() < 2000
    kept, places, alone = Vectors(half), list[int](), list[int]()
    for at, row in enumerate(rows):
        (twin,) = kept.earliest_twins(row[None], 0.9, len(kept))
        assert twin == kept.earliest_twin(row, 0.9, 0, len(kept))
        alone.append(places[twin.place] if twin else -1)
        if twin is None:
            kept.add(row[None])
            places.append(at)
    assert alone == twins.tolist()


def test_a_search_sees_only_the_rows_it_is_told_of_while_others_are_added() -> None:
    rows = clustered(9, 6 * TILE, 5000, 32, 0.2)
    kept = Vectors()
    kept.add(rows[:1500])
    expected = kept.earliest_twins(rows[-300:], 0.9, 1500)
    assert any(expected) and not all(expected)
    adding = threading.Thread(target=lambda: [kept.add(row[None]) for row in rows[1500:]])
    adding.start()
    try:
        while adding.is_alive():
            assert kept.earliest_twins(rows[-300:], 0.9, 1500) == expected
    finally:
        adding.join()
    assert sum(map(bool, kept.earliest_twins(rows[-300:], 0.9, len(kept)))) == 300


def test_of_equal_rows_the_first_is_kept_and_what_is_dropped_drops_nobody() -> None:
    assert keep_first(unit(np.ones((2000, 8))), 0.9).tolist() == [-1, *[0] * 1999]
    angles = np.deg2rad([0, 20, 40, 60])  # cos 20 degrees = 0.94: each is near the next alone
    chain = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert keep_first(chain, 0.9).tolist() == [-1, 0, -1, 2]


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_drops_nothing_wrongly_misses_little_and_says_how_much(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdaug.approximate.BLOCK", TILE)
    rows = clustered(5, 9 * TILE + 100, 6 * TILE, 32, 0.15)
    exact = naive_kept(rows, 0.9)
    pool, kept, made = Approximate(kind, 16), list[int](), []
    for start in range(0, len(rows), 500):
        block = rows[start : start + 500]
        seen = len(pool)
        for at, (row, found) in enumerate(zip(block, pool.earliest_twins(block, 0.9, seen), strict=True)):
            twin = pool.renewed(found, row, 0.9, seen)
            made.append(twin is None)
            if twin is None:
                pool.add(row[None])
                kept.append(start + at)
            else:
                assert float(rows[kept[twin.place]].astype(np.float64) @ row.astype(np.float64)) > 0.9
    assert len(pool) > 4 * TILE  # the cells were laid anew
    missed = sum(mine and not theirs for mine, theirs in zip(made, exact, strict=True))
    assert exact.count(False) > 0 and missed < 0.1 * exact.count(False)
    figures = pool.recall(0.9)
    assert figures["sampled"] >= 1000 and 0.85 < figures["recall"] <= 1
    assert figures["recall"] == round(figures["found"] / figures["duplicates"], 4)


def naive_kept(rows: Any, threshold: float) -> list[bool]:
    return (keep_first(rows, threshold) < 0).tolist()


def test_an_index_with_no_effort_misses_and_the_figure_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdaug.approximate.BLOCK", TILE)
    rows = unit(np.random.default_rng(1).normal(size=(4 * TILE, 32)))
    pool = Approximate("ivf", 1)
    pool.add(rows)
    near = unit(rows[:1000] + 0.06 * np.random.default_rng(2).normal(size=(1000, 32)))
    twins = [
        pool.renewed(found, q, 0.9, 4 * TILE)
        for q, found in zip(near, pool.earliest_twins(near, 0.9, 4 * TILE), strict=True)
    ]
    figures = pool.recall(0.9)
    assert figures["sampled"] == 1000 and figures["found"] == sum(map(bool, twins))
    exact = Vectors()
    exact.add(rows)
    assert figures["duplicates"] == sum(map(bool, exact.earliest_twins(near, 0.9, 4 * TILE)))
    assert figures["found"] < figures["duplicates"]


def test_the_cells_lie_on_a_gpu_where_faiss_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    moved: list[tuple[int, Any]] = []
    monkeypatch.setattr("kdaug.approximate.BLOCK", TILE)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(
        faiss, "index_cpu_to_gpu", lambda _, gpu, index: moved.append((gpu, index)) or index, raising=False
    )
    pool = Approximate("ivf", 4)
    pool.add(unit(np.random.default_rng(1).normal(size=(TILE, 8))))
    pool.earliest_twins(unit(np.ones((3, 8))), 0.9, TILE)
    ((gpu, index),) = moved
    assert gpu == 0 and index.ntotal == TILE and index.nprobe == 4
