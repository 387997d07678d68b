"""Questions and answers from documents, each answer held against its piece (after GPT-4's data of arXiv 2402.13116,
§3.1.3, "curation")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from kdaug.documents import foreign_numbers, is_quoted, support
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.teacher import Completion

# A question that only makes sense beside the document.
_POINTS = re.compile(
    r"\b(?:the|this|that|above|given|following|provided)\s+(?:document|passage|text|article|excerpt|section|paragraph"
    r"|author)\b|\baccording to (?:it|the)\b|\bmentioned above\b",
    re.IGNORECASE,
)
_TEXT = {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class DocumentQA:
    """Asks for `pairs` questions on a piece of a document, each with its answer and the words that it stands on.

    A pair is kept only if code finds it in the piece: the quoted words stand there in a row, so does every number of
    the answer, and of the answer's longer words at least the share `support`. With `context` the piece is part of the
    prompt; without it the question is asked by itself, and one that points at "the text" is discarded.

    Discards `document_qa:not_in_document`, `:number`, `:unsupported`, `:points_at_document`, `:empty`; raises
    ParseError for a reply without the form.
    """

    pairs: int = 3
    context: bool = False
    support: float = 0.6
    temperature: float = 0.7
    max_tokens: int = 1024

    name: ClassVar[str] = "document_qa"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.pairs < 1 or not 0 <= self.support <= 1:
            raise ConfigError("document_qa: pairs must be at least 1, support from 0 to 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (piece,) = parents
        text = text_of(piece.prompt)
        reply = await generate(
            render(f"{self.name}/ask", document=text, count=self.pairs, context=self.context),
            schema=self._schema(),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )
        return [self._made(piece, text, pair, reply) for pair in reply.parsed["pairs"]]

    def _made(self, piece: Record, text: str, pair: dict[str, str], reply: Completion) -> Record | Discarded:
        question, answer = pair["question"].strip(), pair["answer"].strip()
        asked = render(f"{self.name}/question", document=text, question=question) if self.context else question
        record = piece.child(by=self.name, replies=[reply], prompt=user(asked), completion=assistant(answer))
        drop = self._flaw(text, question, answer, pair["evidence"])
        return Discarded(record, drop) if drop else record

    def _flaw(self, text: str, question: str, answer: str, evidence: str) -> Drop | None:
        if not question or not answer:
            return Drop("document_qa:empty")
        if not self.context and (found := _POINTS.search(question)):
            return Drop("document_qa:points_at_document", {"phrase": found[0]})
        if not is_quoted(evidence, text):
            return Drop("document_qa:not_in_document", {"evidence": evidence})
        if foreign := foreign_numbers(answer, text):
            return Drop("document_qa:number", {"number": foreign[0]})
        if (share := support(answer, text)) < self.support:
            return Drop("document_qa:unsupported", {"share": round(share, 3), "support": self.support})
        return None

    def _schema(self) -> dict[str, Any]:
        pair = {
            "question": _TEXT,
            "answer": {**_TEXT, "description": "in the document's own words"},
            "evidence": {**_TEXT, "description": "a sentence copied from the document"},
        }
        item = {"type": "object", "properties": pair, "required": [*pair], "additionalProperties": False}
        several = {"type": "array", "items": item, "minItems": 1, "maxItems": self.pairs}
        return {
            "type": "object",
            "properties": {"pairs": several},
            "required": ["pairs"],
            "additionalProperties": False,
        }
