"""Attributed prompts: a task of given attributes, each record of others (AttrPrompt, arXiv 2306.15895)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.attributes import attributes_of
from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, user


@dataclass(frozen=True)
class Attributed:
    """Writes one instruction with the attributes that the source of that name drew; a seed is an example of its form.

    The attributes stay in `meta.attributes` and are not in the prompt. Answer in a stage of `respond`.
    Raises ConfigError for parents without attributes, ParseError("instruction") for an empty reply.
    """

    temperature: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "attributed"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (seed,) = parents
        drawn = attributes_of(seed)
        if not drawn:
            raise ConfigError("attributed: no attributes were drawn: set source to {attributes: {axes: …}}")
        asked = render(f"{self.name}/write", example=seed.prompt[-1].content, attributes=drawn)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        text = reply.text.strip()
        if not text:
            raise ParseError("instruction", reply.text)
        meta = {name: value for name, value in seed.meta.items() if name not in ("instruction", "input")}
        record = seed.child(
            by=self.name, replies=[reply], prompt=user(text), completion=None, rejected=None, label=None, meta=meta
        )
        return [Discarded(record, Drop("attributed:cut"))] if reply.cut else [record]
