"""Orca 2: a strategy for each kind of task, which is erased from what the student sees (arXiv 2311.11045)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.erasure import PromptEraser
from kdaug.generator import Generate
from kdaug.judging import leaked
from kdaug.prompts import listed, render
from kdaug.record import Discarded, Drop, Record, system, text_of
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion

# An answer that speaks of these answers a strategy that no prompt holds.
META_PHRASES = ("as instructed", "the instruction asks", "the instructions ask", "as you asked me to", "strategy you")


@dataclass(frozen=True)
class Orca2:
    """The teacher answers under a strategy for this kind of task; the record has a generic system message in its place,
    so that the student learns to choose a strategy by itself (prompt erasure, §3.2).

    The kind is the record's `meta["category"]`; where it has none, the teacher says which one it is. Strategies are
    `templates/prompts/orca2/strategies.j2` (a line each: kind, strategy), the generic message is `cautious.j2`. A
    system message of the record's own stays, after the generic one.

    An answer that holds six words in a row of any strategy is discarded (`orca2:leak`), and so is one that speaks of
    instructions (`orca2:meta`), was cut or is empty. Raises ConfigError for a category without a strategy.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 2048

    name: ClassVar[str] = "orca2"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        strategies = dict(listed(f"{self.name}/strategies"))
        category, asked = await self._category(record, tuple(strategies), generate)
        if category not in strategies:
            return [Discarded(record, Drop("orca2:no_strategy", {"category": category, "known": [*strategies]}))]
        own = tuple(m for m in record.prompt if m.role == "system")
        task = tuple(m for m in record.prompt if m.role != "system")
        told = (*system("\n\n".join([strategies[category], *(m.content for m in own)])), *task)
        reply = await generate(told, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)
        generic = render(f"{self.name}/cautious")
        eraser = PromptEraser(strategies)
        prompt = (*eraser.erased(told, "\n\n".join([generic, *(m.content for m in own)]))[:1], *task)
        child = answered(record, reply, by=f"{self.name}/{category}", replies=[*asked, reply], prompt=prompt)
        given = text_of(record.prompt)
        drop = unusable(reply, self.name) or eraser.drop(self.name, child, given=record.prompt)
        if not drop and (phrase := leaked(reply.text, META_PHRASES, given)):
            drop = Drop("orca2:meta", {"phrase": phrase})
        return [Discarded(child, drop) if drop else child]

    async def _category(
        self, record: Record, known: tuple[str, ...], generate: Generate
    ) -> tuple[str, list[Completion]]:
        if "category" in record.meta:
            return str(record.meta["category"]), []
        asked = render(f"{self.name}/category", task=text_of(record.prompt))
        reply = await generate(asked, schema=list(known), temperature=0.0, max_tokens=16)
        return reply.text, [reply]
