"""Instruction fusion: two instructions become one that asks for both (Instruction Fusion, arXiv 2312.15692)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.generators.evol_instruct import META_PHRASES, unwrapped
from kdaug.judging import leaked, parse_choice
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Record, user
from kdaug.words import rouge_l, words


@dataclass(frozen=True)
class Fusion:
    """Fuses two parents into one instruction; answer it in a stage of `respond`.

    A fusion must be of both: one whose ROUGE-L with either parent is above `ceiling` is discarded as `fusion:copy`, and
    one that the judge finds to ask for no more than either of them as `fusion:one_sided`. Draw the pairs with
    `growing_pool: {from_seeds: 2, from_grown: 0}`. Raises ConfigError for a job of other than two parents.
    """

    ceiling: float = 0.7
    temperature: float = 0.7
    max_tokens: int = 1024

    name: ClassVar[str] = "fusion"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "judge")
    renders: ClassVar[tuple[str, ...]] = ("evol_instruct/equal",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        if len(parents) != 2:
            raise ConfigError(f"fusion takes two parents, not {len(parents)}: set the source's from_seeds to 2")
        given = [parent.prompt[-1].content for parent in parents]
        asked = render(f"{self.name}/fuse", first=given[0], second=given[1])
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        fused = unwrapped(reply.text)
        record = parents[0].child(
            parents[1],
            by=self.name,
            replies=[reply],
            prompt=user(fused),
            completion=None,
            rejected=None,
            label=None,
            meta={},
        )
        drop = self._flaw(fused, given, cut=reply.cut) or await self._one_sided(fused, given, generate)
        return [Discarded(record, drop) if drop else record]

    def _flaw(self, fused: str, given: Sequence[str], *, cut: bool) -> Drop | None:
        if cut or not fused:
            return Drop("fusion:cut" if cut else "fusion:empty")
        if phrase := leaked(fused, META_PHRASES, "\n".join(given)):
            return Drop("fusion:meta", {"phrase": phrase})
        alike = [rouge_l(words(fused), words(text)) for text in given]
        if max(alike) > self.ceiling:
            return Drop("fusion:copy", {"rouge_l": round(max(alike), 3), "ceiling": self.ceiling})
        return None

    async def _one_sided(self, fused: str, given: Sequence[str], generate: Generate) -> Drop | None:
        for number, text in enumerate(given, 1):
            question = converse("evol_instruct/equal", first=text, second=fused)
            verdict = await generate(question, role="judge", temperature=0.0, max_tokens=self.max_tokens)
            if parse_choice(verdict.text, ("equal", "not equal")) == "equal":
                return Drop("fusion:one_sided", {"equal_to": number, "verdict": verdict.text})
        return None
