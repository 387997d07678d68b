"""Self-RAG: answers with retrieved passages between their sentences, and tokens that say what each is worth
(arXiv 2310.11511, §3, authors' code)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate, settled
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Message, Messages, Record, text_of
from kdaug.retrieval import Found, Library
from kdaug.teacher import Completion

RETRIEVE, NO_RETRIEVE, CONTINUE = "Retrieval", "No Retrieval", "Continue to Use Evidence"
RELEVANT, IRRELEVANT = "Relevant", "Irrelevant"
FULL, PARTIAL, NONE = "Fully supported", "Partially supported", "No support / Contradictory"
UTILITY_WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # authors' code, of utility 1 to 5
# A point ends one where white space follows it: "3.5 km" is whole.
_SENTENCE = re.compile(r".+?(?:[.!?]+[\"')\]]*(?=\s|$)|[。！？]+|$)\s*", re.DOTALL)


@dataclass(frozen=True)
class SelfRag:
    """Goes through the sentences of a record's answer: a critic decides whether to retrieve, labels `k` passages by
    relevance and support, and one is chosen; at the end it marks the answer's utility from 1 to 5.

    The answer becomes turns of the assistant with tokens in brackets; a passage stands between them as a message of the
    role `tool`, so that training masks it. Sentences of under 30 characters get no decision, where there are more than
    two. A label that cannot be read raises ParseError: the record is dropped, and never taken for the best label.

    `documents` is what is retrieved from: anything that can be read as seeds. `retriever`: see kdaug/retrieval.py.
    """

    documents: str = "passages.jsonl"
    retriever: str = "bm25"
    k: int = 5  # paper, §3.2.2
    short: int = 30  # authors' code: characters of a sentence that is skipped
    max_tokens: int = 512
    library: Library = field(init=False, repr=False, metadata={"fingerprint": True})

    name: ClassVar[str] = "self_rag"
    roles: ClassVar[tuple[str, ...]] = ("judge",)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError("self_rag: k is at least 1")
        object.__setattr__(self, "library", Library(self.documents, self.retriever))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        answer = text_of(record.completion).strip()
        if not answer:
            return [Discarded(record, Drop("self_rag:no_answer"))]
        sentences = [sentence.strip() for sentence in _SENTENCE.findall(answer) if sentence.strip()]
        told, replies, used = [""], list[Completion](), None
        for sentence in sentences:
            if len(sentences) > 2 and len(sentence) < self.short:
                told[-1] = _joined(told[-1], sentence)
                continue
            decision, more = await self._decide(record, told, sentence, used is not None, generate)
            replies += more
            if decision == NO_RETRIEVE:
                told[-1] = _joined(told[-1], f"[{NO_RETRIEVE}]{sentence}")
                continue
            kept = [used] if decision == CONTINUE and used else None
            query = f"{text_of(record.prompt)} {sentence}"
            passages = kept or await self.library.search(query, self.k, generate)
            labels, more = await self._label(record, sentence, passages, generate)
            replies += more
            place = choose(labels, rng)
            if place is None:
                told[-1] = _joined(told[-1], f"[{NO_RETRIEVE}]{sentence}")
                continue
            used = passages[place]
            told[-1] = _joined(told[-1], f"[{decision}]")
            told += [f"<paragraph>{used.text}</paragraph>", _judged(labels[place], sentence)]
        utility = await self._ask("utility", {"answer": answer, "prompt": text_of(record.prompt)}, _UTILITY, generate)
        told[-1] += f"[Utility:{utility.text}]"
        made = record.child(
            by=self.name, replies=[*replies, utility], completion=_turns(told), rejected=None, label=None
        )
        return [made]

    async def _decide(
        self, record: Record, told: Sequence[str], sentence: str, has_evidence: bool, generate: Generate
    ) -> tuple[str, list[Completion]]:
        options = [RETRIEVE, NO_RETRIEVE, *([CONTINUE] if has_evidence else [])]
        values = {"prompt": text_of(record.prompt), "before": "".join(told), "sentence": sentence, "options": options}
        reply = await self._ask("retrieve", values, options, generate)
        return reply.text, [reply]

    async def _label(
        self, record: Record, sentence: str, passages: Sequence[Found], generate: Generate
    ) -> tuple[list[str], list[Completion]]:
        """Of each passage its support, or that it is irrelevant."""

        async def ask(passage: Found) -> Completion:
            values = {"prompt": text_of(record.prompt), "sentence": sentence, "passage": passage.text}
            return await self._ask("support", values, [IRRELEVANT, FULL, PARTIAL, NONE], generate)

        labels, replies = list[str](), list[Completion]()
        for reply in await settled([ask(passage) for passage in passages]):
            if not isinstance(reply, Completion):
                raise reply
            labels.append(reply.text)
            replies.append(reply)
        return labels, replies

    async def _ask(self, form: str, values: Mapping[str, Any], options: list[str], generate: Generate) -> Completion:
        asked = render(f"{self.name}/{form}", **values)
        reply = await generate(asked, role="judge", schema=options, temperature=0.0, max_tokens=self.max_tokens)
        if reply.text not in options:
            raise ParseError(form, reply.text)
        return reply


_UTILITY = ["1", "2", "3", "4", "5"]


def choose(labels: Sequence[str], rng: Random) -> int | None:
    """Which passage is shown: the first that supports fully; else one that does in part, with probability 0.7; else one
    that does not, with 0.25; else a random irrelevant one (authors' code). None where there is none of these."""
    if FULL in labels:
        return labels.index(FULL)
    if PARTIAL in labels and rng.random() < 0.7:
        return labels.index(PARTIAL)
    if NONE in labels and rng.random() < 0.25:
        return labels.index(NONE)
    irrelevant = [place for place, label in enumerate(labels) if label == IRRELEVANT]
    return rng.choice(irrelevant) if irrelevant else None


def _judged(label: str, sentence: str) -> str:
    """An irrelevant passage has no support token."""
    return f"[{IRRELEVANT}]{sentence}" if label == IRRELEVANT else f"[{RELEVANT}]{sentence}[{label}]"


def _joined(before: str, more: str) -> str:
    return f"{before} {more}" if before else more


def _turns(told: Sequence[str]) -> Messages:
    return tuple(Message("tool" if place % 2 else "assistant", text) for place, text in enumerate(told))


def retrieves(probability: float, other: float, threshold: float = 0.2) -> bool:
    """Whether a trained student retrieves: the probability of `[Retrieval]` among the two decisions (paper, §3.3; their
    code compares log-probabilities)."""
    return probability / (probability + other) > threshold if probability + other > 0 else False


def segment_score(
    mean_logprob: float,
    relevant: float,
    full: float,
    partial: float,
    utility: Sequence[float],
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> float:
    """What ranks a continuation of a trained student: exp of its mean log-probability, and the weighted probabilities
    of its tokens (paper, §3.3). A token that the student does not know has probability 0."""
    from math import exp

    w_relevant, w_support, w_utility = weights
    useful = sum(weight * p for weight, p in zip(UTILITY_WEIGHTS, utility, strict=True))
    return exp(mean_logprob) + w_relevant * relevant + w_support * (full + 0.5 * partial) + w_utility * useful
