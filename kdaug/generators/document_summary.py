"""Summaries of documents, held against their piece: nothing made up, nothing merely copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.documents import foreign_numbers
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.overlap import longest_run
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.words import count_words, words


@dataclass(frozen=True)
class DocumentSummary:
    """Has a piece of a document summed up in `sentences`; the prompt of the record asks for just that.

    Discarded is what was cut or is empty, a summary of more than the share `longest` of the piece's words, one with a
    number that the piece does not have, and one with more than `copied` words in a row from it.
    """

    sentences: int = 2
    longest: float = 0.5
    copied: int = 25
    temperature: float = 0.3
    max_tokens: int = 512

    name: ClassVar[str] = "document_summary"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.sentences < 1 or not 0 < self.longest <= 1 or self.copied < 1:
            raise ConfigError("document_summary: sentences and copied must be at least 1, longest above 0, at most 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (piece,) = parents
        text = text_of(piece.prompt)
        asked = render(f"{self.name}/summarise", document=text, sentences=self.sentences)
        reply = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        answer = reply.text.strip()
        record = piece.child(by=self.name, replies=[reply], prompt=user(asked), completion=assistant(answer))
        drop = Drop("document_summary:cut") if reply.cut else self._flaw(answer, text)
        return [Discarded(record, drop) if drop else record]

    def _flaw(self, answer: str, text: str) -> Drop | None:
        long, whole = count_words(answer), count_words(text)
        if not long:
            return Drop("document_summary:empty")
        if long > self.longest * whole:
            return Drop("document_summary:long", {"words": long, "of": whole})
        if foreign := foreign_numbers(answer, text):
            return Drop("document_summary:number", {"number": foreign[0]})
        said = words(answer)
        start, run = longest_run(said, words(text))
        if run > self.copied:
            return Drop("document_summary:copied", {"run": " ".join(said[start : start + run])})
        return None
