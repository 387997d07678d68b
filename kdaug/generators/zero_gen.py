"""ZeroGen: texts for a label, made from nothing (arXiv 2202.07922)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of, user
from kdaug.samples import list_items
from kdaug.words import words


@dataclass(frozen=True)
class ZeroGen:
    """Asks for `count` texts that have the parent's label. A seed is a label: its prompt is the task, its completion
    the label, `meta.describes` what texts of it are like.

    A record asks the task of a new text, and its completion is the label. A text that says the label is
    `zero_gen:label`, one of under three words `zero_gen:short`. Raises ParseError("list").
    """

    count: int = 5
    temperature: float = 1.0
    top_p: float = 0.9  # paper, §4.1: nucleus sampling
    max_tokens: int = 1024

    name: ClassVar[str] = "zero_gen"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"zero_gen: count is {self.count}; it must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        record = parents[0]
        if record.completion is None:
            return [Discarded(record, Drop("zero_gen:no_label"))]
        label, task = text_of(record.completion), record.instruction
        describes = str(record.meta.get("describes") or "")
        asked = render("zero_gen/texts", task=task, label=label, describes=describes, count=self.count)
        reply = await generate(asked, temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)
        made: list[Record | Discarded] = []
        for text, flaw in list_items(reply, self.count):
            child = record.child(
                by=self.name,
                replies=[reply],
                prompt=user(f"{task}\n\n{text}"),
                rejected=None,
                label=None,
                meta={"instruction": task, "input": text},
            )
            said, named = words(text), words(label)
            tells = any(said[i : i + len(named)] == named for i in range(len(said) - len(named) + 1))
            flaw = flaw or ("short" if len(said) < 3 else "label" if named and tells else None)
            made.append(Discarded(child, Drop(f"{self.name}:{flaw}")) if flaw else child)
        return made
