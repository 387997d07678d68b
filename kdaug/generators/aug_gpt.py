"""AugGPT: each labelled text said in several other ways (arXiv 2302.13007)."""

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
class AugGpt:
    """Asks for `count` rephrasings of a record's input (`meta.input`; the prompt, where it has none), which keep its
    label, the completion.

    A rephrasing that has the text's words in the same order is `aug_gpt:copy`, one like an earlier one
    `aug_gpt:duplicate`, one that says the label where the text does not `aug_gpt:label`. Raises ParseError("list").
    """

    count: int = 6  # paper, §4: 6 a sample
    temperature: float = 0.9
    max_tokens: int = 1024

    name: ClassVar[str] = "aug_gpt"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"aug_gpt: count is {self.count}; it must be at least 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("aug_gpt:no_label"))]
        text, label = str(record.meta.get("input") or record.prompt[-1].content), text_of(record.completion)
        asked = render("aug_gpt/rephrase", text=text, count=self.count)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        made: list[Record | Discarded] = []
        seen: list[list[str]] = []
        for said, flaw in list_items(reply, self.count):
            before, _, after = record.prompt[-1].content.rpartition(text)  # the input stands behind its instruction
            last = f"{before}{said}{after}"
            meta = {**record.meta, **({"input": said} if "input" in record.meta else {})}
            prompt = (*record.prompt[:-1], *user(last))
            child = record.child(by=self.name, replies=[reply], prompt=prompt, rejected=None, label=None, meta=meta)
            flaw = flaw or _flaw(said, text, label, seen)
            seen.append(words(said))
            made.append(Discarded(child, Drop(f"{self.name}:{flaw}")) if flaw else child)
        return made


def _flaw(said: str, text: str, label: str, seen: Sequence[Sequence[str]]) -> str | None:
    mine = words(said)
    if mine == words(text):
        return "copy"
    if mine in seen:
        return "duplicate"
    named = words(label)

    def holds(text: Sequence[str]) -> bool:
        return any(list(text[i : i + len(named)]) == named for i in range(len(text) - len(named) + 1))

    return "label" if named and holds(mine) and not holds(words(text)) else None
