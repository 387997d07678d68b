"""AI preferences with soft labels (Constitutional AI, arXiv 2212.08073, §4; RLAIF, arXiv 2309.00267)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.judging import lean
from kdaug.pairs import PairBuilder, preference
from kdaug.prompts import converse, listed
from kdaug.record import Discarded, Drop, Messages, Record, text_of
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Rlaif:
    """Two answers of the student, and how likely a judge finds the one or the other better by a principle drawn for
    this pair: the likelier one is chosen, and `scores["preference"]`, from 0.5 to 1, is the probability that it is the
    better one (`kdaug train reward --soft preference`). A preference that comes in is labelled anew with its own two
    answers.

    The label is read from the probabilities of "A" and "B", in both orders unless `both_orders` is off; a teacher that
    tells none is no judge here (`parse:weights`). With `thoughts` the judge first thinks, which makes labels extreme:
    they are then held within `clamp`; without, they stay as they are. Both answers as likely make no pair
    (`rlaif:tie`).

    Principles are `templates/prompts/rlaif/principles.j2`, `name | question` a line.
    """

    thoughts: bool = False
    clamp: float = 0.6  # Constitutional AI, §4.1: labels within 0.4 and 0.6
    both_orders: bool = True
    temperature: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "rlaif"
    roles: ClassVar[tuple[str, ...]] = ("student", "judge")
    judges: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        if not 0.5 < self.clamp <= 1:
            raise ConfigError(f"rlaif: clamp is {self.clamp:g}; labels are held between 1 - clamp and clamp, above 0.5")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        answers, turned_down = await self._answers(record, generate)
        if len(answers) < 2:
            alone = (Discarded(answered(record, one, by=self.name), Drop("rlaif:single")) for one in answers)
            return [*turned_down, *alone]
        name, principle = rng.choice(listed(f"{self.name}/principles"))
        first, second = answers
        by = f"{self.name}/{name}"
        if PairBuilder().flaw(first.text, second.text):
            return [Discarded(preference(record, first, second, by=by), Drop("rlaif:identical"))]
        try:
            label, replies = await self._label(record, first.text, second.text, principle, generate)
        except ParseError as e:
            return [Discarded(preference(record, first, second, by=by), Drop(e.reason, {"reply": e.text}))]
        if self.thoughts:
            label = clamped(label, self.clamp)
        replies = [*(one for one in answers if one.key), *replies]
        better, worse = (first, second) if label >= 0.5 else (second, first)
        pair = preference(record, better, worse, by=by, replies=replies)
        if label == 0.5:
            return [Discarded(pair, Drop("rlaif:tie"))]
        return [pair.scored(preference=max(label, 1 - label))]

    async def _answers(self, record: Record, generate: Generate) -> tuple[list[Completion], list[Discarded]]:
        if record.completion is not None and record.rejected is not None:
            return [Completion(text_of(record.completion)), Completion(text_of(record.rejected))], []
        calls = [
            generate(record.prompt, role="student", temperature=self.temperature, max_tokens=self.max_tokens)
            for _ in range(2)
        ]
        return await sampled(record, calls, by=self.name)

    async def _label(
        self, record: Record, first: str, second: str, principle: str, generate: Generate
    ) -> tuple[float, list[Completion]]:
        """The probability that the first answer is better, and the judge's replies."""
        thought: list[Completion] = []

        async def asked(a: str, b: str) -> Messages:
            told = {"prompt": text_of(record.prompt), "first": a, "second": b, "principle": principle}
            if not self.thoughts:
                return converse(f"{self.name}/choose", thoughts=None, **told)
            think = converse(f"{self.name}/choose", thoughts="", **told)
            reply = await generate(think, role="judge", temperature=0.0, max_tokens=self.max_tokens)
            if not reply.text.strip() or reply.cut:
                raise ParseError("thoughts", reply.text)
            thought.append(reply)
            return converse(f"{self.name}/choose", thoughts=reply.text, **told)

        there = await asked(first, second)
        back = await asked(second, first) if self.both_orders else None
        label, replies = await lean(there, back, generate)
        return label, [*thought, *replies]


def clamped(label: float, most: float) -> float:
    """A soft label held between 1 - most and most."""
    return min(max(label, 1 - most), most)
