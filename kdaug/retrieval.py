"""Retrieval: which passages of a corpus a text asks for, by words (BM25), by embeddings (FAISS), or by LangChain."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from math import log
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kdaug.embedding import Embedder
from kdaug.errors import ConfigError, require
from kdaug.generator import Generate
from kdaug.prompts import shipped
from kdaug.read import stream
from kdaug.record import Json, text_of
from kdaug.words import words

K1, B = 1.2, 0.75  # of BM25: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009, §3.2


class Found(NamedTuple):
    """A passage, and its place in the corpus (-1 where it came from elsewhere)."""

    text: str
    place: int


class Retriever(Protocol):
    def find(self, query: str, k: int) -> list[Found]:
        """The best `k` passages, the best first, perhaps fewer. It blocks."""
        ...


def retriever(how: str, passages: Sequence[str]) -> Retriever:
    """`bm25`; `dense` or `dense:MODEL` (an encoder as `Embedder` takes it, searched by FAISS); or
    `package.module:attribute`, a retriever of langchain-core, which has passages of its own.

    Raises ConfigError for anything else, for a missing extra, and for a corpus without passages.
    """
    name, _, rest = how.partition(":")
    if name not in ("bm25", "dense") and rest:
        return LangChain(how)
    if not passages:
        raise ConfigError("retrieval: the corpus has no passage")
    if how == "bm25":
        return Bm25(tuple(passages))
    if name == "dense":
        return Dense(tuple(passages), rest or None)
    raise ConfigError(f"retriever {how!r}: it is bm25, dense, dense:MODEL, or package.module:attribute")


async def search(index: Retriever, query: str, k: int, generate: Generate) -> list[Found]:
    """What is found elsewhere than here is found once: a run that goes on has it."""

    async def find() -> Json:
        return [[found.text, found.place] for found in await asyncio.to_thread(index.find, query, k)]

    if not isinstance(index, LangChain):
        return await asyncio.to_thread(index.find, query, k)
    found: Any = await generate.once(["search", index.address, query, k], find)
    return [Found(text, place) for text, place in found]


@dataclass(frozen=True)
class Library:
    """The passages of `documents` (see `corpus`), searched by `how` (see `retriever`). A part holds one in a field that
    is part of its fingerprint: so is the `digest` of the passages."""

    documents: str
    how: str
    digest: str = field(init=False, repr=False, metadata={"fingerprint": True})
    passages: tuple[str, ...] = field(init=False, repr=False, compare=False)
    index: Retriever = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        passages = corpus(self.documents)
        digest = blake2b("\0".join(passages).encode(errors="surrogatepass"), digest_size=8).hexdigest()
        told = {"passages": passages, "digest": digest, "index": retriever(self.how, passages)}
        for name, value in told.items():
            object.__setattr__(self, name, value)

    async def search(self, query: str, k: int, generate: Generate) -> list[Found]:
        return await search(self.index, query, k, generate)


def corpus(source: str) -> tuple[str, ...]:
    """The passages of whatever can be read as seeds: their prompts. A file that is not here is looked for among the
    shipped ones. Raises ConfigError where there is none, or it is wrong."""
    path = shipped() / "seeds" / source
    return tuple(
        text_of(record.prompt) for record in stream(path if path.exists() and not Path(source).exists() else source)
    )


@dataclass(frozen=True)
class Bm25:
    """Okapi BM25 over the words of a text in any script. Equal scores go by place; what shares no word is not found."""

    passages: tuple[str, ...]

    def find(self, query: str, k: int) -> list[Found]:
        scores: dict[int, float] = {}
        for word in dict.fromkeys(words(query)):
            for place, weight in self._postings.get(word, ()):
                scores[place] = scores.get(place, 0.0) + weight
        best = sorted(scores, key=lambda place: (-scores[place], place))[:k]
        return [Found(self.passages[place], place) for place in best]

    @cached_property
    def _postings(self) -> dict[str, list[tuple[int, float]]]:
        """Of each word the passages that have it, with what it adds to their score."""
        counts = [Counter(words(passage)) for passage in self.passages]
        frequency = Counter(word for count in counts for word in count)
        mean = sum(count.total() for count in counts) / len(counts) or 1.0
        postings: dict[str, list[tuple[int, float]]] = {}
        for place, count in enumerate(counts):
            norm = K1 * (1 - B + B * count.total() / mean)
            for word, n in count.items():
                rare = log(1 + (len(counts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
                postings.setdefault(word, []).append((place, rare * n * (K1 + 1) / (n + norm)))
        return postings


@dataclass(frozen=True)
class Dense:
    """The nearest by cosine of embeddings, exactly (FAISS IndexFlatIP)."""

    passages: tuple[str, ...]
    model: str | None = None

    def __post_init__(self) -> None:
        require("faiss", "embed", "a dense retriever")
        _ = Embedder(self.model).found

    def find(self, query: str, k: int) -> list[Found]:
        _, places = self._index.search(Embedder(self.model).embed([query]), min(k, len(self.passages)))
        return [Found(self.passages[place], int(place)) for place in places[0]]

    @cached_property
    def _index(self) -> Any:
        import faiss

        rows = Embedder(self.model).embed(self.passages)
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index


@dataclass(frozen=True)
class LangChain:
    """A retriever of langchain-core, by `package.module:attribute`."""

    address: str

    def __post_init__(self) -> None:
        _ = self._retriever

    def find(self, query: str, k: int) -> list[Found]:
        return [Found(document.page_content, -1) for document in self._retriever.invoke(query)[:k]]

    @cached_property
    def _retriever(self) -> Any:
        module, _, name = self.address.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as e:
            raise ConfigError(f"retriever {self.address!r}: cannot be imported ({e})") from e
        if not hasattr(found, "invoke"):
            raise ConfigError(f"retriever {self.address!r} has no `invoke`: it is no retriever of langchain-core")
        return found
