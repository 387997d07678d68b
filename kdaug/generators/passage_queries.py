"""Queries for passages, to train retrievers (InPars, arXiv 2202.05144; Promptagator, arXiv 2209.11755)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.samples import list_items
from kdaug.words import words


@dataclass(frozen=True)
class PassageQueries:
    """Asks for `count` queries that a record's prompt, a passage, answers; each is a record of query and passage.

    `form` names the template, so the kind of query (`queries`: what people type; `claims`: statements to be checked).
    With `logprobs` the mean log-probability of the reply is `scores["query_logprob"]`, by which InPars selects; that
    needs `count: 1` and a teacher that tells it.

    A query of under three words is `passage_queries:short`, one that stands in the passage word for word
    `passage_queries:copied`, one that speaks of the passage `passage_queries:refers`. Raises ParseError("list").
    """

    count: int = 1  # InPars: 1, Promptagator: 8
    form: str = "queries"
    logprobs: int = 0
    temperature: float = 0.7  # Promptagator, §3.2
    max_tokens: int = 512

    name: ClassVar[str] = "passage_queries"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.count < 1 or (self.logprobs and self.count > 1):
            raise ConfigError("passage_queries: count is at least 1, and 1 with logprobs")

    @property
    def renders(self) -> tuple[str, ...]:
        return (f"{self.name}/{self.form}",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        passage = text_of(record.prompt)
        reply = await generate(
            render(f"{self.name}/{self.form}", passage=passage, count=self.count),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
        )
        made: list[Record | Discarded] = []
        for query, flaw in list_items(reply, self.count):
            child = record.child(
                by=f"{self.name}/{self.form}",
                replies=[reply],
                prompt=user(query),
                completion=assistant(passage),
                rejected=None,
                label=None,
            )
            if reply.logprobs is not None and len(reply.logprobs.token_logprobs):
                child = child.scored(query_logprob=float(reply.logprobs.token_logprobs.mean()))
            flaw = flaw or flaw_of_query(query, passage)
            made.append(Discarded(child, Drop(f"{self.name}:{flaw}")) if flaw else child)
        return made


def flaw_of_query(query: str, passage: str) -> str | None:
    said = words(query)
    if len(said) < 3:
        return "short"
    if any(phrase in query.lower() for phrase in ("the passage", "this passage", "the text above", "this text")):
        return "refers"
    return "copied" if f" {' '.join(said)} " in f" {' '.join(words(passage))} " and len(said) > 8 else None
