"""Round-trip consistency: a query is kept where its passage is found by it (Promptagator, arXiv 2209.11755, §3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.record import Drop, Record, text_of
from kdaug.retrieval import Retriever, retriever, search


@dataclass(frozen=True)
class RoundTrip(Gate):
    """Looks for a record's completion, a passage, by its prompt, a query, among all passages: the seeds' prompts.

    It must be among the first `k`; otherwise it is `round_trip:lost`, with what was found in its place. `retriever` is
    `bm25`, `dense` or `dense:MODEL` (kdaug/retrieval.py).
    """

    k: int = 1  # paper
    retriever: str = "bm25"
    _index: Retriever | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "round_trip"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError("round_trip: k is at least 1")

    def start(self, seeds: Sequence[Record]) -> RoundTrip:
        if not seeds and ":" not in self.retriever.removeprefix("dense:"):
            raise ConfigError(
                "round_trip: it looks for the passages among the seeds' prompts, and there are none here, as `kdaug "
                "curate` has no seeds: use it in `kdaug run RECIPE --seeds PASSAGES`, or give it a retriever with "
                "passages of its own (retriever: package.module:attribute)"
            )
        live = RoundTrip(self.k, self.retriever)
        object.__setattr__(live, "_index", retriever(self.retriever, [text_of(seed.prompt) for seed in seeds]))
        return live

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        assert self._index is not None
        found = [one.text for one in await search(self._index, text_of(record.prompt), self.k, generate)]
        if text_of(record.completion) in found:
            return Prepared(record)
        return Prepared(record, Drop("round_trip:lost", {"found": [*found[:1]]}))
