"""DEITA's selection: the best first, and none that is like one already chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kdaug.errors import ConfigError
from kdaug.record import Drop, Part
from kdaug.selector import EMPTY, Pool, Selection, check_embedding, check_n, no_score

if TYPE_CHECKING:
    from kdaug.selector import Array

BLOCK = 256  # candidates that are held against the chosen at a time
SLACK = 1e-4  # two float32 sums over the same unit vectors differ by less than this: then float64 decides


@dataclass(frozen=True)
class Deita:
    """Walks from the highest score down and takes a record unless its cosine with one already taken is above
    `threshold`, until there are `n` (arXiv 2312.15685, §2.4; 6,000 of 300,000 in the paper).

    `score` names what is sorted by, or a product (`complexity*quality`, the paper's evol score); equal ones go by id.
    What is embedded is the `prompt`, the `completion` or, `on="record"`, both, as in the paper; `model` as in `Dedup`.
    Only as many records are embedded as the walk comes to.

    Leaves out `select:near` with rank, score, the nearest record taken before and its cosine, `select:beyond` (n was
    reached before its rank), `select:no_score` and `select:empty`.
    """

    name: ClassVar[str] = "deita"
    n: int
    threshold: float = 0.9  # paper, §2.4
    score: str = "deita"
    model: str | None = None
    on: Part = "record"

    def __post_init__(self) -> None:
        check_n(self)
        if not -1 <= self.threshold <= 1:
            raise ConfigError(f"deita: threshold is a cosine, from -1 to 1, not {self.threshold!r}")
        check_embedding(self.model)

    def select(self, pool: Pool) -> Selection:
        order, scores = pool.ranked(self.score)
        walk, done, size = _Walk(self.n, self.threshold), 0, 2 * self.n
        while done < len(order) and len(walk.taken) < self.n:
            pool.step()
            places = order[done : done + size]
            walk.go(places, pool.vectors(self.model, self.on, places))
            done, size = done + len(places), 2 * size
        ranks = {place: rank for rank, place in enumerate(order, 1)}

        def why(place: int) -> Drop:
            if place not in ranks:
                return no_score(self.score)
            if place in walk.empty:
                return EMPTY
            detail: dict[str, Any] = {"rank": ranks[place], "score": scores[place]}
            if place not in walk.near:
                return Drop("select:beyond", detail)
            nearest, cosine = walk.near[place]
            return Drop("select:near", detail | {"nearest": pool.ids[nearest], "cosine": round(cosine, 6)})

        return Selection(walk.taken, why)


class _Walk:
    """What is taken so far, with its vectors; what was too near to it, with the place of the nearest and the cosine."""

    def __init__(self, n: int, threshold: float) -> None:
        self._n, self._threshold = n, threshold
        self.taken: list[int] = []
        self.near: dict[int, tuple[int, float]] = {}
        self.empty: set[int] = set()
        self._vectors: Array | None = None  # float32 [at most n, dimensions]

    def go(self, places: list[int], vectors: Array) -> None:
        import numpy as np

        if self._vectors is None or self._vectors.shape[1] != vectors.shape[1]:
            self._vectors = np.empty((self._n, vectors.shape[1]), np.float32)
        for start in range(0, len(places), BLOCK):
            block = vectors[start : start + BLOCK]
            before = len(self.taken)
            with_taken, among = block @ self._vectors[:before].T, block @ block.T
            rows: list[int] = []  # of the block, taken
            for row, place in enumerate(places[start : start + BLOCK]):
                if len(self.taken) == self._n:
                    return
                if not block[row].any():
                    self.empty.add(place)
                    continue
                cosines = np.concatenate([with_taken[row], among[row, rows]])
                if (found := self._nearest(block[row], cosines)) is not None:
                    self.near[place] = found
                    continue
                self._vectors[len(self.taken)] = block[row]
                self.taken.append(place)
                rows.append(row)

    def _nearest(self, vector: Array, cosines: Array) -> tuple[int, float] | None:
        """The nearest of those taken, where its cosine is above the threshold."""
        import numpy as np

        assert self._vectors is not None
        if not len(cosines) or cosines.max() <= self._threshold - SLACK:
            return None
        candidates = np.flatnonzero(cosines >= cosines.max() - SLACK)
        exact = self._vectors[candidates].astype(np.float64) @ vector.astype(np.float64)
        best = int(np.argmax(exact))
        return (self.taken[candidates[best]], float(exact[best])) if exact[best] > self._threshold else None
