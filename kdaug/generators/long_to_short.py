"""Long to short: of several right traces the shortest (Kimi k1.5, arXiv 2501.12599, §2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from kdaug.answers import final_answer, same_answer
from kdaug.errors import ConfigError, shorten
from kdaug.generator import Generate
from kdaug.pairs import preference
from kdaug.prompts import converse
from kdaug.record import Discarded, Drop, Record, text_of
from kdaug.samples import answered, sampled
from kdaug.teacher import Completion
from kdaug.words import count_words


@dataclass(frozen=True)
class LongToShort:
    """Samples a problem `samples` times and keeps the shortest trace that ends in the right answer.

    `mode: shortest` makes a completion record (shortest rejection sampling). `mode: pairs` makes preferences: the
    shortest right one over each that is wrong and no shorter, or right and longer by `ratio` (long2short DPO).
    Lengths count words, the reasoning of a teacher that gives it apart among them.

    Discarded: `long_to_short:wrong`, `long_to_short:longer` (right, not the shortest), `long_to_short:tie` (as short as
    the one that stays), and with `pairs` `long_to_short:no_pair`.
    """

    samples: int = 8  # paper, §2.4: n = 8
    mode: Literal["shortest", "pairs"] = "shortest"
    ratio: float = 1.5  # paper, §2.4
    role: str = "teacher"
    temperature: float = 1.0
    max_tokens: int = 4096

    name: ClassVar[str] = "long_to_short"

    def __post_init__(self) -> None:
        if self.samples < 2 or self.ratio < 1 or self.mode not in ("shortest", "pairs"):
            raise ConfigError("long_to_short: samples is at least 2, ratio at least 1, mode shortest or pairs")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("long_to_short:no_reference"))]
        asked = (*record.prompt[:-1], *converse("long_to_short/solve", problem=record.prompt[-1].content))
        calls = [
            generate(asked, role=self.role, temperature=self.temperature, max_tokens=self.max_tokens)
            for _ in range(self.samples)
        ]
        usable, turned_down = await sampled(record, calls, by=self.name)
        reference = text_of(record.completion)
        right = [reply for reply in usable if same_answer(reply.text, reference)]
        wrong = [reply for reply in usable if not same_answer(reply.text, reference)]
        if not right:
            return [*(self._wrong(record, reply, reference) for reply in wrong), *turned_down]
        best = min(right, key=length)  # of equal ones the first
        others = [reply for reply in right if reply is not best]
        if self.mode == "pairs":
            return [*self._pairs(record, best, others, wrong), *turned_down]
        losing = [_not_shortest(length(reply), length(best)) for reply in others]
        return [
            answered(record, best, by=self.name),
            *(Discarded(answered(record, r, by=self.name), d) for r, d in zip(others, losing, strict=True)),
            *(self._wrong(record, reply, reference) for reply in wrong),
            *turned_down,
        ]

    def _pairs(
        self, record: Record, best: Completion, others: Sequence[Completion], wrong: Sequence[Completion]
    ) -> list[Record | Discarded]:
        made: list[Record | Discarded] = []
        for reply in (*others, *wrong):
            pair = preference(record, best, reply, by=f"{self.name}/pairs")
            worse = length(reply) >= length(best) * (1.0 if reply in wrong else self.ratio)
            told = {"words": length(reply), "shortest": length(best)}
            made.append(pair if worse else Discarded(pair, Drop("long_to_short:no_pair", {**told})))
        if not made:
            return [Discarded(answered(record, best, by=self.name), Drop("long_to_short:no_pair"))]
        return made

    def _wrong(self, record: Record, reply: Completion, reference: str) -> Discarded:
        evidence = {"answer": shorten(final_answer(reply.text)), "reference": final_answer(reference)}
        return Discarded(answered(record, reply, by=self.name), Drop("long_to_short:wrong", {**evidence}))


def _not_shortest(words: int, shortest: int) -> Drop:
    why = "tie" if words == shortest else "longer"
    return Drop(f"long_to_short:{why}", {"words": words, "shortest": shortest})


def length(reply: Completion) -> int:
    return count_words(reply.reasoning) + count_words(reply.text)
