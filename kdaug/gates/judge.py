"""A gate that asks one judge or several for a mark and keeps what reaches the least one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, grade, mark
from kdaug.prompts import converse
from kdaug.record import Drop, Json, Record, text_of


@dataclass(frozen=True)
class Judge(Gate):
    """Scores records on the scale from `low` to `high`, and drops those below `min` (None: none).

    Judged is the completion, or the prompt of a record that has none; `rubric` says what by, in place of the shipped
    one; `half` allows half points. The mark becomes `scores[score]`. With `expected` the judge says a mark without
    reasons, and the score is its expected value by the probabilities of the marks, where the teacher gives them: finer
    than the mark said, and for a fraction of the tokens. A reply without a legal mark is no score.

    Several `judges` (roles; all but `judge` must be given a teacher) are a panel. `vote` makes one score of their
    marks: the `mean`, the `median`, or with `majority` the share of the panel that gives at least `min`, which must be
    more than half. Each one's mark is `scores["<score>.<role>"]`. One that fails is left out, but a record that half
    of the panel or less has marked is dropped for the first failure (`parse:score`).

    Every record costs a call a judge, so this gate belongs in a later stage than what drops for free.
    """

    min: float | None = None
    low: int = 1
    high: int = 5
    half: bool = False
    rubric: str = ""
    expected: bool = False
    judges: Sequence[str] = ("judge",)
    vote: Literal["mean", "median", "majority"] = "mean"
    score: str = "judge"
    max_tokens: int = 1024

    name: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        if self.low >= self.high or not (self.min is None or self.low <= self.min <= self.high):
            raise ConfigError(f"judge: min {self.min} must be on the scale from low {self.low} to high {self.high}")
        if self.expected and (self.half or self.low < 0 or self.high > 9):
            raise ConfigError("judge: expected takes whole marks from 0 to 9, as each must be one token")
        if not self.judges or len(set(self.judges)) < len(self.judges):
            raise ConfigError("judge: judges must be different roles, at least one")
        if self.vote == "majority" and self.min is None:
            raise ConfigError("judge: a majority votes on the least mark, so set min")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return tuple(self.judges)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        told = await settled([self._ask(record, generate, role) for role in self.judges])
        verdicts = {r: v for r, v in zip(self.judges, told, strict=True) if isinstance(v, Verdict)}
        if 2 * len(verdicts) <= len(self.judges):
            raise next(failure for failure in told if not isinstance(failure, Verdict))
        marks = {role: verdict.score for role, verdict in verdicts.items()}
        scores = {self.score: self._vote(list(marks.values()))}
        if len(self.judges) > 1:
            scores |= {f"{self.score}.{role}": given for role, given in marks.items()}
        return Prepared(record.scored(**scores), verdicts)

    def decide(self, prepared: Prepared) -> Drop | None:
        score, least = prepared.record.scores[self.score], self.min
        if least is None or (score > 0.5 if self.vote == "majority" else score >= least):
            return None
        return Drop("judge:low", self._evidence(score, least, prepared.evidence))

    async def _ask(self, record: Record, generate: Generate, role: str) -> Verdict:
        if not self.expected:
            return await grade(
                record,
                generate,
                role=role,
                rubric=self.rubric,
                low=self.low,
                high=self.high,
                half=self.half,
                max_tokens=self.max_tokens,
            )
        response = None if record.completion is None else text_of(record.completion)
        scale = {"low": self.low, "high": self.high}
        question = converse("judge/mark", prompt=text_of(record.prompt), response=response, rubric=self.rubric, **scale)
        return await mark(question, generate, role=role, max_tokens=self.max_tokens, **scale)

    def _vote(self, marks: Sequence[float]) -> float:
        if self.vote == "majority" and self.min is not None:
            return sum(given >= self.min for given in marks) / len(self.judges)
        return median(marks) if self.vote == "median" else fmean(marks)

    def _evidence(self, score: float, least: float, verdicts: Mapping[str, Verdict]) -> dict[str, Json]:
        """With the reasons of the judge that gave the lowest mark, the first of equals."""
        lowest = min(verdicts.values(), key=lambda verdict: verdict.score)
        detail: dict[str, Json] = {"score": score, "min": least, "rationale": lowest.rationale}
        if len(self.judges) > 1:
            detail["marks"] = {role: verdict.score for role, verdict in verdicts.items()}
        return detail
