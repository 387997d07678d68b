"""A trial of a judge: it is asked about answers of which it is known how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

from kdaug.generator import Generate, settled
from kdaug.judging import Comparison, Verdict, compare, grade
from kdaug.record import Record, assistant


@dataclass(frozen=True)
class JudgeTrial:
    """Asks the judge about one record, and writes what it said into the scores.

    `mark_chosen` and `mark_rejected` are its marks from `low` to `high`; `there` and `back` say how the chosen answer
    fared when it was shown first and second (1 better, 0 worse, 0.5 a tie). Of a record with `meta.own` the judge also
    answers the prompt itself, and `own_there` and `own_back` say how it finds its answer beside the chosen one; with
    `second`, a role, `second_there` and `second_back` say how that judge finds it. What could not be read is missing.
    """

    rubric: str = ""
    low: int = 1
    high: int = 5
    second: bool = False
    max_tokens: int = 1024

    name: ClassVar[str] = "judge_trial"

    @property
    def roles(self) -> tuple[str, ...]:
        return ("judge", "second") if self.second else ("judge",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        (record,) = parents
        asked = {"mark_chosen": self._grade(record, generate)}
        if record.rejected is not None:
            asked["mark_rejected"] = self._grade(replace(record, completion=record.rejected), generate)
        marks = zip(asked, await settled(list(asked.values())), strict=True)
        scores = {name: verdict.score for name, verdict in marks if isinstance(verdict, Verdict)}
        if record.rejected is not None:
            scores |= await self._compare("", "judge", record, generate)
        if record.meta.get("own"):
            reply = await generate(record.prompt, role="judge", temperature=0.0, max_tokens=self.max_tokens)
            own = replace(record, completion=assistant(reply.text), rejected=record.completion)
            scores |= await self._compare("own_", "judge", own, generate)
            if self.second:
                scores |= await self._compare("second_", "second", own, generate)
        return [record.child(by=self.name, scores=scores)]

    async def _grade(self, record: Record, generate: Generate) -> Verdict:
        return await grade(
            record, generate, rubric=self.rubric, low=self.low, high=self.high, max_tokens=self.max_tokens
        )

    async def _compare(self, prefix: str, role: str, pair: Record, generate: Generate) -> dict[str, float]:
        if pair.rejected is None:
            return {}
        compared = compare(pair, pair.rejected, generate, role=role, rubric=self.rubric, max_tokens=self.max_tokens)
        (told,) = await settled([compared])
        if not isinstance(told, Comparison):
            return {}
        return {f"{prefix}there": told.orders[0], f"{prefix}back": told.orders[1]}
