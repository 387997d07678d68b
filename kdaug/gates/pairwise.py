"""A gate that asks whether the chosen answer of a preference is the better one, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from kdaug.errors import ConfigError, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate, settled
from kdaug.judging import Comparison, compare
from kdaug.record import Drop, Json, Record


@dataclass(frozen=True)
class Pairwise(Gate):
    """Keeps preferences of which a judge says, too, that the chosen answer is the better one.

    `scores["pairwise"]` is 1 where it is, 0 where the rejected one is, 0.5 for a tie; a verdict that turns with the
    order in which the two are shown is a tie. Of several `judges` (roles) it is the mean. Below `min` a record is
    dropped: at 1, what not every judge confirms; at 0.5, what they contradict; at 0, none. A reply without a verdict
    drops the record (`parse:verdict`), in a panel where half of it or less has one.

    `rubric` says what to judge by, in place of the shipped one. Every record costs two calls a judge.
    """

    min: float = 1.0
    rubric: str = ""
    judges: Sequence[str] = ("judge",)
    max_tokens: int = 1024

    name: ClassVar[str] = "pairwise"

    def __post_init__(self) -> None:
        if not 0 <= self.min <= 1:
            raise ConfigError(f"pairwise: min {self.min:g} must be from 0 (keep all) to 1 (confirmed)")
        if not self.judges or len(set(self.judges)) < len(self.judges):
            raise ConfigError("pairwise: judges must be different roles, at least one")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return tuple(self.judges)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        rejected = record.rejected
        if rejected is None:
            return Prepared(record)
        asked = (
            compare(record, rejected, generate, role=role, rubric=self.rubric, max_tokens=self.max_tokens)
            for role in self.judges
        )
        told = await settled(list(asked))
        compared = [one for one in told if isinstance(one, Comparison)]
        if 2 * len(compared) <= len(self.judges):
            raise next(failure for failure in told if not isinstance(failure, Comparison))
        return Prepared(record.scored(pairwise=fmean(one.score for one in compared)), compared)

    def decide(self, prepared: Prepared) -> Drop | None:
        if prepared.evidence is None:
            return Drop("pairwise:no_pair")
        score = prepared.record.scores["pairwise"]
        if score >= self.min:
            return None
        against: Comparison = min(prepared.evidence, key=lambda one: one.score)
        orders: list[Json] = list(against.orders)
        return Drop(
            "pairwise:unconfirmed", {"score": score, "orders": orders, "rationale": shorten(against.rationale, 1000)}
        )
