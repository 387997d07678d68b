"""A score that is the product of others, such as the reward of a problem and its solution."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Record


@dataclass(frozen=True)
class Product(Gate):
    """Multiplies the scores `of`, which earlier gates gave, into `scores[score]`, and drops what is below `min`.

    WizardMath's reward (arXiv 2308.09583, §2.3) is that of the instruction times that of the process: a perfect
    solution of a senseless problem is worth nothing. `high` is what each score is at most: the product of their shares
    of it is from 0 to 1. A record that lacks a score is dropped as `product:no_score`.
    """

    of: tuple[str, ...]
    score: str = "reward"
    high: float = 5.0
    min: float | None = None

    name: ClassVar[str] = "product"

    def __post_init__(self) -> None:
        if len(self.of) < 2 or self.high <= 0:
            raise ConfigError("product: of needs two scores at least, and high must be above 0")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        if any(name not in record.scores for name in self.of):
            return Prepared(record)
        return Prepared(record.scored(**{self.score: prod(record.scores[name] / self.high for name in self.of)}))

    def decide(self, prepared: Prepared) -> Drop | None:
        scores = prepared.record.scores
        if missing := [name for name in self.of if name not in scores]:
            return Drop("product:no_score", {"score": missing[0]})
        if self.min is not None and scores[self.score] < self.min:
            return Drop("product:low", {"score": scores[self.score], "min": self.min})
        return None
