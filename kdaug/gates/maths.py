"""A gate that compares the final answer with a reference, as mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdaug.answers import final_answer, same_answer
from kdaug.equality import equal
from kdaug.errors import require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Record, text_of

ANSWER = 1_000  # characters: a text that is longer is no final answer


@dataclass(frozen=True)
class Maths(Gate):
    """Drops records whose answer does not end in the reference's: `1/2` is `0.5` and `\\frac{1}{2}`, `x+1` is `1+x`.

    The reference is in `meta[reference]`, a text (its final answer counts) or a number. What an answer ends in stands
    after its last marker (`\\boxed{…}`, `#### `, "the answer is"); where it has none, its last number counts. What is
    equal to the letter is so at once; the rest is asked of math-verify. Reasons: `maths:wrong`, `maths:timeout`,
    `maths:no_reference`.
    """

    reference: str = "reference"

    name: ClassVar[str] = "maths"

    def __post_init__(self) -> None:
        require("math_verify", "verify", "the maths gate")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record))

    async def _flaw(self, record: Record) -> Drop | None:
        found = record.meta.get(self.reference)
        if isinstance(found, bool) or not isinstance(found, str | int | float) or not str(found).strip():
            return Drop("maths:no_reference")
        text, reference = text_of(record.completion), final_answer(str(found))
        if same_answer(text, reference):
            return None
        answer = final_answer(text)
        verdict = await equal(answer, reference) if len(answer) <= ANSWER else False
        if verdict:
            return None
        wrong = "maths:timeout" if verdict is None else "maths:wrong"
        return Drop(wrong, {"answer": shorten(answer), "reference": shorten(reference)})
