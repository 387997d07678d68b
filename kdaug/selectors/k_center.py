"""k-center: n records such that every other one is near to one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdaug.record import Drop, Part
from kdaug.selector import EMPTY, Pool, Selection, check_embedding, check_n

if TYPE_CHECKING:
    from kdaug.selector import Array


@dataclass(frozen=True)
class KCenter:
    """Begins with the record that is nearest to the mean of all, and takes again and again the one whose nearest taken
    one is the farthest (Gonzalez 1985; Sener & Savarese, arXiv 1708.00489), by the cosine of embeddings, until there
    are `n`. The largest distance to a taken one is at most twice the least possible. `model` and `on` as in `Deita`.

    Leaves out `select:covered` with the nearest taken record and the cosine, and `select:empty`.
    """

    name: ClassVar[str] = "k_center"
    n: int
    model: str | None = None
    on: Part = "record"

    def __post_init__(self) -> None:
        check_n(self)
        check_embedding(self.model)

    def select(self, pool: Pool) -> Selection:
        import numpy as np

        order, _ = pool.ranked(None)
        vectors = pool.vectors(self.model, self.on, order)
        there = np.flatnonzero(vectors.any(axis=1))
        vectors = vectors[there]
        places = [order[row] for row in there.tolist()]
        cosines: Array = np.full(len(places), -2.0, np.float32)
        nearest: Array = np.zeros(len(places), np.int64)
        taken: list[int] = []
        while len(taken) < min(self.n, len(places)):
            pool.step()
            row = int(np.argmin(cosines)) if taken else int(np.argmax(vectors @ vectors.mean(axis=0)))
            taken.append(row)
            found = vectors @ vectors[row]
            nearest[found > cosines] = row
            np.maximum(cosines, found, out=cosines)
            cosines[row] = np.inf  # never again, whatever rounding makes of its copies
        at = {place: row for row, place in enumerate(places)}

        def why(place: int) -> Drop:
            if place not in at:
                return EMPTY
            row = at[place]
            detail = {"nearest": pool.ids[places[nearest[row]]], "cosine": round(float(cosines[row]), 6)}
            return Drop("select:covered", detail)

        return Selection([places[row] for row in taken], why)
