"""A gate that asks a model for a mark and keeps what reaches the least one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.judging import grade
from kdaug.record import Drop, Record


@dataclass(frozen=True)
class Judge(Gate):
    """Keeps records that the judge gives at least `min` on the scale from `low` to `high`.

    The mark becomes `scores["judge"]`. Judged is the completion, or the prompt of a record that has none. `rubric` says
    what by, in place of the shipped one; `half` allows half points. A reply without a legal mark is no score: it drops
    the record as `parse:score`.

    Every record costs a call, so this gate belongs in a later stage than what drops for free.
    """

    min: float
    low: int = 1
    high: int = 5
    half: bool = False
    rubric: str = ""
    max_tokens: int = 1024

    name: ClassVar[str] = "judge"
    roles: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        if not self.low <= self.min <= self.high or self.low >= self.high:
            raise ConfigError(f"judge: min {self.min:g} must be on the scale from low {self.low} to high {self.high}")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        verdict = await grade(
            record,
            generate,
            rubric=self.rubric,
            low=self.low,
            high=self.high,
            half=self.half,
            max_tokens=self.max_tokens,
        )
        return Prepared(record.scored(judge=verdict.score), verdict)

    def decide(self, prepared: Prepared) -> Drop | None:
        score = prepared.record.scores["judge"]
        if score >= self.min:
            return None
        return Drop("judge:low", {"score": score, "min": self.min, "rationale": prepared.evidence.rationale})
