"""Tags of what a request is about, named by a model: their number says how complex it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar
from unicodedata import normalize

from kdaug.errors import ConfigError, ParseError
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Drop, Json, Record, text_of


@dataclass(frozen=True)
class Tags(Gate):
    """Has a model name a request's tags (InsTag, arXiv 2308.07074, §2), and drops what has less than `min` of them.

    They stand in `meta.tags`, in lower case, without punctuation, each once: for a selection that balances them.
    `scores["tags"]` is their number, InsTag's measure of complexity. The paper's merging of rare and like tags over a
    whole data set is not done here, one record at a time. A reply that is no list of 1 to `max` tags drops the record.
    """

    min: int = 1
    max: int = 12
    judge: str = "judge"
    max_tokens: int = 512

    name: ClassVar[str] = "tags"

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max:
            raise ConfigError(f"tags: min {self.min} must be from 1 to max {self.max}")

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override] # what it asks depends on its fields
        return (self.judge,)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        question = render(f"{self.name}/name", prompt=text_of(record.prompt), low=1, high=self.max)
        schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": self.max}
        reply = await generate(question, role=self.judge, schema=schema, temperature=0.0, max_tokens=self.max_tokens)
        found: list[Json] = list(dict.fromkeys(tag for said in reply.parsed if (tag := plain(said))))
        if not found:
            raise ParseError("tags", reply.text)
        tagged = replace(record, meta={**record.meta, "tags": found})
        return Prepared(tagged.scored(tags=float(len(found))), found)

    def decide(self, prepared: Prepared) -> Drop | None:
        tags = prepared.evidence
        return None if len(tags) >= self.min else Drop("tags:few", {"tags": tags, "min": self.min})


def plain(tag: str) -> str:
    """In lower case, single blanks for all that is neither letter nor digit."""
    return " ".join(re.findall(r"[^\W_]+", normalize("NFKC", tag).lower()))
