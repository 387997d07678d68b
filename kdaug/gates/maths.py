"""A gate that compares the final answer with a reference, as mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from kdaug.answers import as_number, denied, final_answer, same_answer
from kdaug.equality import equal
from kdaug.errors import require, shorten
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Record, text_of
from kdaug.teacher import Until

ANSWER = 1_000  # characters: a text that is longer is no final answer


@dataclass(frozen=True)
class Maths(Gate):
    """Drops records whose answer does not end in the reference's: `1/2` is `0.5` and `\\frac{1}{2}`, `x+1` is `1+x`.

    The reference is in `meta[reference]`, a text (its final answer counts) or a number. What an answer ends in stands
    after its last marker (`\\boxed{…}`, `#### `, "the answer is"); where it has none, its last number counts. Two plain
    numbers are compared exactly (`1e3` is 1000, 0.333333 is not 1/3), and what is equal to the letter is so at once;
    the rest is asked of math-verify, which rounds to six digits, and to which `50%` is 50 as well as 0.5. Reasons:
    `maths:wrong`, `maths:denied` ("the answer is not 5"), `maths:timeout`, `maths:no_reference`.
    """

    reference: str = "reference"

    name: ClassVar[str] = "maths"

    def __post_init__(self) -> None:
        require("math_verify", "verify", "the maths gate")

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        return Prepared(record, await self._flaw(record, generate.until))

    async def _flaw(self, record: Record, until: Until) -> Drop | None:
        found = record.meta.get(self.reference)
        if isinstance(found, bool) or not isinstance(found, str | int | float) or not str(found).strip():
            return Drop("maths:no_reference")
        text, reference = text_of(record.completion), final_answer(str(found))
        if denied(text) and not denied(reference):
            return Drop("maths:denied", {"answer": shorten(final_answer(text)), "reference": shorten(reference)})
        if same_answer(text, reference):
            return None
        answer = final_answer(text)
        verdict: bool | None = False
        both = _plain_number(answer) is not None and _plain_number(reference) is not None
        if not both and len(answer) <= ANSWER:
            verdict = await equal(_written_out(answer), _written_out(reference), until)
        if verdict:
            return None
        wrong = "maths:timeout" if verdict is None else "maths:wrong"
        return Drop(wrong, {"answer": shorten(answer), "reference": shorten(reference)})


def _plain_number(answer: str) -> Fraction | None:
    return None if "%" in answer else as_number(answer)


def _written_out(answer: str) -> str:
    """As math-verify reads it: 1e-5 is no number there, 1/100000 is."""
    number = _plain_number(answer)
    return answer if number is None else str(number)
