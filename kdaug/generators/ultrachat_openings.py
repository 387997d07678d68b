"""UltraChat's opening lines: questions about the world, requests to write, and help with given texts (arXiv 2305.14233,
§3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, user
from kdaug.samples import list_items
from kdaug.teacher import Completion

WAYS = 4  # in which a passage and a request are joined (joined.j2)


@dataclass(frozen=True)
class UltraChatOpenings:
    """Makes opening lines of dialogues out of a seed.

    `sector="world"`: the seed is a subject, which is divided into `topics`, of each of which come `questions`
    questions. `sector="writing"`: the seed is a kind of text; `questions` requests to write one, of which a share
    `detailed` is expanded. `sector="material"`: the seed is a passage; at most `questions` requests about it, each
    joined with it in one of four ways.

    Discarded are openings beyond those asked for (`ultrachat_openings:surplus`), one that stood there before
    (`:duplicate`), the last one of a list that was cut and one whose expansion was cut (`:cut`). Raises
    ParseError("list") for a reply without a list.
    """

    sector: Literal["world", "writing", "material"] = "world"
    topics: int = 3
    questions: int = 5  # world: at most 10 a topic; material: at most 5
    detailed: float = 0.8  # writing: so many are expanded
    temperature: float = 1.0
    max_tokens: int = 1024

    name: ClassVar[str] = "ultrachat_openings"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    def __post_init__(self) -> None:
        if self.sector not in ("world", "writing", "material"):
            raise ConfigError('ultrachat_openings: sector is "world", "writing" or "material"')
        if min(self.topics, self.questions) < 1 or not 0 <= self.detailed <= 1:
            raise ConfigError("ultrachat_openings: topics and questions are at least 1, detailed from 0 to 1")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        subject = record.prompt[-1].content
        subjects, before = [subject], list[Completion]()
        if self.sector == "world":
            topics, told = await self._list("topics", subject, self.topics, generate)
            subjects, before = [topic for topic, flaw in topics if not flaw], [told]
        made: list[Record | Discarded] = []
        seen: set[str] = set()
        for one in subjects:
            requests, told = await self._list(self.sector, one, self.questions, generate)
            for request, flaw in requests:
                text, replies = request, [*before, told]
                if self.sector == "material":
                    text = render(f"{self.name}/joined", passage=subject, request=request, way=rng.randrange(WAYS))
                elif self.sector == "writing" and not flaw and rng.random() < self.detailed:
                    more = await self._say("detail", generate, request=request)
                    text, replies, flaw = more.text.strip() or request, [*replies, more], "cut" if more.cut else None
                child = record.child(
                    by=f"{self.name}/{self.sector}", replies=replies, prompt=user(text), completion=None,
                    rejected=None, label=None,
                )  # fmt: skip
                flaw = flaw or ("duplicate" if text.casefold() in seen else None)
                seen.add(text.casefold())
                made.append(Discarded(child, Drop(f"{self.name}:{flaw}")) if flaw else child)
        return made

    async def _list(
        self, template: str, subject: str, count: int, generate: Generate
    ) -> tuple[list[tuple[str, str | None]], Completion]:
        reply = await self._say(template, generate, subject=subject, count=count)
        return list_items(reply, count), reply

    async def _say(self, template: str, generate: Generate, **values: Any) -> Completion:
        asked = render(f"{self.name}/{template}", **values)
        return await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
