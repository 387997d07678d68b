"""The n records with the highest score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.record import Drop
from kdaug.selector import Pool, Selection, check_n, no_score


@dataclass(frozen=True)
class TopK:
    """Keeps the `n` records with the highest `score` (`a*b`: a product); of equal ones those with the lower ids.

    Leaves out `select:rank` with rank and score, and `select:no_score`.
    """

    name: ClassVar[str] = "top_k"
    n: int
    score: str

    def __post_init__(self) -> None:
        check_n(self)

    def select(self, pool: Pool) -> Selection:
        order, scores = pool.ranked(self.score)
        ranks = {place: rank for rank, place in enumerate(order, 1)}

        def why(place: int) -> Drop:
            if place not in ranks:
                return no_score(self.score)
            return Drop("select:rank", {"rank": ranks[place], "score": scores[place]})

        return Selection(order[: self.n], why)
