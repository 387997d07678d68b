"""Which of many unit vectors is the earliest whose cosine with a given one is above a threshold? Exactly, in tiles.

Cosines are computed a tile of 1,024 by 1,024 at a time, in bfloat16 where that is faster, else in float32; what comes
near the threshold is computed again, by a float64 sum over the float32 vectors, which alone decides. So a decision does
not depend on the tiles' precision or on what else was searched for, and a cosine of just the threshold is not above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from kdaug.device import half_is_faster, pick_device

if TYPE_CHECKING:
    import numpy as np
    import torch

    from kdaug.embedding import Array

TILE = 1024  # 2 MB of bfloat16 cosines stay in a core's L2 while they are scanned
STEP = 128  # products have a multiple of this many rows: for each shape that is new to it oneDNN compiles a kernel
# Bounds of |tile's cosine - true cosine| for unit vectors. bfloat16: 2 u for the two rounded vectors, u for the rounded
# result and u for the rounded threshold, with u = 2^-9, and the float32 sum between them; float32: its own sum.
SLACK_HALF, SLACK_FULL = 0.01, 1e-4


class Twin(NamedTuple):
    place: int
    score: float


class _Tile(NamedTuple):
    full: Array  # [TILE, dimensions], float32
    fast: torch.Tensor  # the same in the precision and on the device of the search


class Vectors:
    """Unit vectors in the order they were added. They are only ever added, so a search that is told how many to look at
    is right in any thread while others are added behind them.

    Memory: 4 bytes a number, and 2 more where the search is in bfloat16. `half` overrides the probe.
    """

    def __init__(self, half: bool | None = None) -> None:
        self._asked = half
        self._tiles: list[_Tile] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _device(self) -> str:
        return pick_device("auto")

    @cached_property
    def _half(self) -> bool:
        return half_is_faster(self._device) if self._asked is None else self._asked

    def add(self, rows: Array) -> None:
        """`rows`: [rows, dimensions]."""
        while len(rows):
            start = self._size % TILE
            if not start:
                self._tiles.append(self._empty(rows.shape[1]))
            part, rows = rows[: TILE - start], rows[TILE - start :]
            tile = self._tiles[-1]
            tile.full[start : start + len(part)] = part
            if self._half or self._device != "cpu":
                tile.fast[start : start + len(part)] = self._fast(part)
            self._size += len(part)

    def earliest_twins(self, queries: Array, threshold: float, until: int, since: int = 0) -> list[Twin | None]:
        """Of each row of `queries`, the first vector from `since` (a multiple of TILE) to before `until` whose cosine
        is above `threshold`."""
        found: list[Twin | None] = []
        for start in range(0, len(queries), TILE):
            found += self._search(queries[start : start + TILE], threshold, until, since)
        return found

    def earliest_twin(self, query: Array, threshold: float, since: int, until: int) -> Twin | None:
        """For one vector and few rows: `since` to `until`."""
        for first, rows, near in self._close(query, threshold, since, until):
            if twin := earliest(rows, near, query, threshold):
                return Twin(first + twin.place, twin.score)
        return None

    def near_one(self, query: Array, floor: float, since: int, until: int) -> list[int]:
        """As `near`, for one vector and few rows."""
        found: list[int] = []
        for first, rows, near in self._close(query, floor, since, until):
            found += (first + _above(rows, near, query, floor)).tolist()
        return found

    def _close(self, query: Array, floor: float, since: int, until: int) -> Iterator[tuple[int, Array, Any]]:
        """Tile by tile: where it begins, its vectors, and the places of those whose cosine is about `floor` or more."""
        import numpy as np

        while since < until:
            at, start = divmod(since, TILE)
            rows = self._tiles[at].full[start : start + until - since]
            yield since, rows, np.flatnonzero(rows @ query > floor - SLACK_FULL)
            since += len(rows)

    def near(self, queries: Array, floor: float, until: int) -> list[list[int]]:
        """Of each row of `queries` all vectors among the first `until` whose cosine is above `floor`, in order."""
        found: list[list[int]] = [[] for _ in queries]
        room = self._room()
        for start in range(0, len(queries), TILE):
            part = queries[start : start + TILE]
            fast = self._fast(part, STEP)
            for first in range(0, until, TILE):
                tile = self._tiles[first // TILE]
                for row, places in self._near(fast, len(part), tile.fast, room, floor):
                    places = places[places < until - first]
                    found[start + row] += (first + _above(tile.full, places, part[row], floor)).tolist()
        return found

    def renewed(self, found: Twin | None, query: Array, threshold: float, seen: int) -> Twin | None:
        """What a search among the first `seen` found, brought up to now."""
        return found or self.earliest_twin(query, threshold, seen, len(self))

    def at(self, places: Sequence[int]) -> Array:
        """The vectors at these places: float32 [places, dimensions]."""
        import numpy as np

        rows: Array = np.stack([self._tiles[place // TILE].full[place % TILE] for place in places])
        return rows

    def tiles(self, since: int, until: int) -> Iterator[Array]:
        """The vectors from `since` (a multiple of TILE) to before `until`, at most TILE at a time: float32."""
        for first in range(since, until, TILE):
            yield self._tiles[first // TILE].full[: until - first]

    def _search(self, queries: Array, threshold: float, until: int, since: int) -> list[Twin | None]:
        """At most TILE queries. Those that have a twin are left out as soon as that makes the product smaller."""
        import numpy as np

        found: list[Twin | None] = [None] * len(queries)
        waiting, fast, room = np.arange(len(queries)), self._fast(queries, STEP), self._room()
        for first in range(since, until, TILE):
            tile, settled = self._tiles[first // TILE], False
            for row, places in self._near(fast, len(waiting), tile.fast, room, threshold):
                place = waiting[row]
                if found[place] is None:
                    twin = earliest(tile.full, places[places < until - first], queries[place], threshold)
                    found[place] = twin and Twin(first + twin.place, twin.score)
                    settled |= twin is not None
            if settled:
                open_ones = np.flatnonzero([twin is None for twin in found])
                if not len(open_ones):
                    break
                if len(open_ones) <= len(fast) - STEP:
                    waiting, fast = open_ones, self._fast(queries[open_ones], STEP)
        return found

    def among(self, queries: Array, threshold: float) -> dict[int, list[int]]:
        """Of at most TILE vectors, those that come near earlier ones, and which: candidates, not decisions."""
        if not len(queries):
            return {}
        fast = self._fast(queries, STEP)
        hits = self._near(fast, len(queries), fast, self._room(), threshold, others=True)
        return {row: [int(p) for p in places if p < row] for row, places in hits}

    def _near(
        self,
        left: torch.Tensor,
        count: int,
        right: torch.Tensor,
        room: torch.Tensor,
        threshold: float,
        *,
        others: bool = False,
    ) -> list[tuple[int, Any]]:
        """Those of the first `count` rows of `left` that come near any of `right` (`others`: but itself),
        and the places of these."""
        import numpy as np
        import torch

        cosines = room[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left, right.T, out=cosines)
        if others:
            cosines.fill_diagonal_(-1)
        floor: float = threshold - (SLACK_HALF if self._half else SLACK_FULL)
        if self._half and floor > 0:  # the bits of positive bfloat16 numbers are in the numbers' order, and faster
            floor = int(torch.tensor(floor, dtype=torch.bfloat16).view(torch.int16))
            cosines = cosines.view(torch.int16)
        rows = torch.nonzero(cosines.amax(dim=1)[:count] >= floor)[:, 0]
        if not len(rows):
            return []
        near = (cosines[rows] >= floor).cpu().numpy()
        return [(row, np.flatnonzero(places)) for row, places in zip(rows.tolist(), near, strict=True)]

    def _fast(self, rows: Array, step: int = 1) -> torch.Tensor:
        """As they are searched for; filled up with zeros to a multiple of `step` rows."""
        import torch

        dtype = torch.bfloat16 if self._half else torch.float32
        fast = torch.from_numpy(rows).to(self._device, dtype)
        lack = -len(rows) % step
        return torch.cat((fast, fast.new_zeros(lack, rows.shape[1]))) if lack else fast

    def _room(self) -> torch.Tensor:
        """For one tile of cosines: a product into memory of its own costs more than it."""
        import torch

        return torch.empty(TILE * TILE, dtype=torch.bfloat16 if self._half else torch.float32, device=self._device)

    def _empty(self, dimensions: int) -> _Tile:
        import numpy as np

        full: Array = np.zeros((TILE, dimensions), np.float32)
        return _Tile(full, self._fast(full))  # float32 on a CPU: the same memory


def keep_first(rows: Array, threshold: float, *, half: bool | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Of each of many unit vectors [rows, dimensions]: -1 if it is kept, else the place of the earliest kept one whose
    cosine with it is above `threshold`. The first of near-duplicates stays, and what is dropped drops nobody."""
    import numpy as np

    kept = Vectors(half)
    twins: np.ndarray[Any, np.dtype[np.int64]] = np.full(len(rows), -1, np.int64)
    origin = np.empty_like(twins)  # of each kept vector its place in `rows`
    for start in range(0, len(rows), TILE):
        block = np.ascontiguousarray(rows[start : start + TILE], np.float32)
        for at, twin in enumerate(kept.earliest_twins(block, threshold, len(kept))):
            if twin:
                twins[start + at] = origin[twin.place]
        mine = twins[start : start + TILE]
        new = np.flatnonzero(mine < 0)
        for row, places in kept.among(block[new], threshold).items():
            earlier = np.array([p for p in new[places] if mine[p] < 0], np.int64)
            if twin := earliest(block, earlier, block[new[row]], threshold):
                mine[new[row]] = start + twin.place
        stay = np.flatnonzero(mine < 0)
        origin[len(kept) : len(kept) + len(stay)] = start + stay
        kept.add(block[stay])
    return twins


def _above(rows: Array, places: Any, query: Array, floor: float) -> Any:
    """Those of `places` in `rows` that are above the floor, by a float64 sum."""
    import numpy as np

    wide: Any = query.astype(np.float64)  # Any: numpy's types are not followed
    return places[rows[places].astype(np.float64) @ wide > floor]


def earliest(rows: Array, places: Any, query: Array, threshold: float) -> Twin | None:
    """The first of `places` in `rows` that is above the threshold, by the sum that decides."""
    import numpy as np

    if len(places) > 8:  # many: the float32 sum first says which few are worth the sum that decides
        places = places[rows[places] @ query > threshold - SLACK_FULL]
    wide: Any = query.astype(np.float64)  # Any: numpy's types are not followed
    for place in places:
        score = float(np.dot(rows[place].astype(np.float64), wide))
        if score > threshold:
            return Twin(int(place), score)
    return None
