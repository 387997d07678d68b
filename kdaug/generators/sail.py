"""SAIL: answers behind search results, with a sentence that says which of these inform (arXiv 2305.15225)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from kdaug.errors import ParseError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.retrieval import Bm25, Library
from kdaug.teacher import Completion

COUNTS, SHARES = (0, 1, 2, 3), (0.2, 0.1, 0.3, 0.4)  # authors' code: how many results are shown
VERDICTS = ["entailed", "neutral", "contradicted"]


@dataclass(frozen=True)
class Sail:
    """Puts none to three search results before a record's prompt, and before its answer which of them inform.

    The results are the retriever's best, in reversed order, and the best by BM25. A judge in the place of the paper's
    entailment model says of each whether the answer entails it: it informs where it does. Without results the answer
    stays as it was.

    `documents` and `retriever` are as in `self_rag`. Raises ParseError for a verdict that is none.
    """

    documents: str = "passages.jsonl"
    retriever: str = "bm25"
    max_tokens: int = 256
    library: Library = field(init=False, repr=False, metadata={"fingerprint": True})
    _by_words: Bm25 = field(init=False, repr=False, compare=False)

    name: ClassVar[str] = "sail"
    roles: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "library", Library(self.documents, self.retriever))
        object.__setattr__(self, "_by_words", Bm25(self.library.passages))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        answer = text_of(record.completion)
        if not answer.strip():
            return [Discarded(record, Drop("sail:no_answer"))]
        [count] = rng.choices(COUNTS, SHARES)
        shown = await self._results(text_of(record.prompt), count, generate)
        if len(shown) == 0:
            return [Discarded(record, Drop("sail:no_result"))] if count else [_child(record, [], [], [])]
        verdicts = []
        for reply in await settled([self._judge(answer, passage, generate) for passage in shown]):
            if not isinstance(reply, Completion):
                raise reply
            verdicts.append(reply)
        informs = [verdict.text == "entailed" for verdict in verdicts]
        return [_child(record, shown, informs, verdicts)]

    async def _results(self, query: str, count: int, generate: Generate) -> list[str]:
        best = [found.text for found in await self.library.search(query, max(COUNTS), generate)]
        words = [found.text for found in self._by_words.find(query, 1)]
        return list(dict.fromkeys([*reversed(best), *words]))[-count:] if count else []

    async def _judge(self, answer: str, passage: str, generate: Generate) -> Completion:
        asked = render("sail/entails", answer=answer, passage=passage)
        reply = await generate(asked, role="judge", schema=VERDICTS, temperature=0.0, max_tokens=self.max_tokens)
        if reply.text not in VERDICTS:
            raise ParseError("verdict", reply.text)
        return reply


def _child(record: Record, shown: Sequence[str], informs: Sequence[bool], replies: Sequence[Completion]) -> Record:
    told: dict[str, Any] = {"by": "sail/plain", "rejected": None, "label": None}
    if shown:
        asked = render("sail/context", results=shown, prompt=record.prompt[-1].content)
        answer = f"{filter_statement(informs)}\n\n{text_of(record.completion)}"
        told |= {"by": "sail", "prompt": (*record.prompt[:-1], *user(asked)), "completion": assistant(answer)}
    return record.child(replies=replies, **told)


def filter_statement(informs: Sequence[bool]) -> str:
    """Which results inform and which distract, in one of three forms."""
    if all(informs):
        return "All search results are informative."
    if not any(informs):
        return "All search results are distracting."
    good, bad = ([f"({n})" for n, yes in enumerate(informs, 1) if yes is wanted] for wanted in (True, False))
    return f"Search results {', '.join(good)} are informative, and {', '.join(bad)} are distracting."


def parse_filter(text: str, count: int) -> list[bool]:
    """What a statement says of each of `count` results. Raises ParseError("filter") where it names not each once."""
    head = text.split("\n")[0]
    if found := re.fullmatch(r"All search results are (informative|distracting)\.", head):
        return [found[1] == "informative"] * count
    found = re.fullmatch(r"Search results (.+) are informative, and (.+) are distracting\.", head)
    good, bad = ([int(n) for n in re.findall(r"\((\d+)\)", part)] for part in found.groups()) if found else ([], [])
    if sorted(good + bad) != list(range(1, count + 1)):
        raise ParseError("filter", text)
    return [n in good for n in range(1, count + 1)]
