"""Humpback: instructions for texts that people wrote, curated by the model itself (arXiv 2308.06259)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.judging import grade
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, system, text_of, user

# Told to the student, so that it can keep the two kinds of answers apart; at inference it is asked with SEED_TAG.
SEED_TAG = "Answer in the way of a helpful assistant."
WEB_TAG = "Answer with a text as it is found on the web."


@dataclass(frozen=True)
class Humpback:
    """Writes the instruction that a text could be the answer to, and has the pair marked on a scale of five.

    The model of the role `backward` writes it; best is one that was trained on swapped seeds (`swap`), which is asked
    with the text alone (`trained`). The `judge`, never the backward model, marks the pair; below `min` it is discarded
    as `humpback:low`, so that 5 makes the paper's A5, and 4 its A4, of which A5 is a part. The mark is
    `scores["humpback"]`, the pair gets `tag` as its system message.

    Texts are `shortest` to `longest` characters (`humpback:segment_length`), instructions 10 to 800
    (`humpback:length`).
    """

    min: float = 5.0  # paper, §2.2: A5
    trained: bool = False
    tag: str = WEB_TAG
    shortest: int = 600  # paper, appendix
    longest: int = 3000  # paper, appendix
    temperature: float = 0.7  # paper
    top_p: float = 0.9  # paper
    max_tokens: int = 512

    name: ClassVar[str] = "humpback"
    roles: ClassVar[tuple[str, ...]] = ("backward", "judge")
    judges: ClassVar[tuple[str, ...]] = ("judge",)
    renders: ClassVar[tuple[str, ...]] = ("humpback/rubric",)

    def __post_init__(self) -> None:
        if not 1 <= self.min <= 5 or not 0 < self.shortest < self.longest:
            raise ConfigError("humpback: min must be from 1 to 5, shortest below longest")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (segment,) = parents
        text = text_of(segment.prompt)
        if not self.shortest <= len(text) <= self.longest:
            return [Discarded(segment, Drop("humpback:segment_length", {"characters": len(text)}))]
        asked = text if self.trained else render(f"{self.name}/instruction", text=text)
        reply = await generate(
            asked, role="backward", temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
        )
        instruction = reply.text.strip()
        pair = segment.child(by=self.name, replies=[reply], prompt=user(instruction), completion=assistant(text))
        if reply.cut or not 10 <= len(instruction) <= 800:
            what = "cut" if reply.cut else "length"
            return [Discarded(pair, Drop(f"humpback:{what}", {"characters": len(instruction)}))]
        verdict = await grade(pair, generate, rubric=render(f"{self.name}/rubric"), half=self.min % 1 != 0)
        pair = segment.child(
            by=self.name,
            replies=[reply],
            prompt=(*system(self.tag), *user(instruction)) if self.tag else user(instruction),
            completion=assistant(text),
        ).scored(humpback=verdict.score)
        if verdict.score < self.min:
            return [Discarded(pair, Drop("humpback:low", {"score": verdict.score, "rationale": verdict.rationale}))]
        return [pair]


@dataclass(frozen=True)
class Swap:
    """Turns an answered record round: its answer is the prompt, its last turn the completion. So a backward model is
    trained (arXiv 2308.06259, §2.1)."""

    name: ClassVar[str] = "swap"
    roles: ClassVar[tuple[str, ...]] = ()

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("swap:no_answer"))]
        asked, answer = record.prompt[-1].content, text_of(record.completion)
        return [record.child(by=self.name, prompt=user(answer), completion=assistant(asked), rejected=None, label=None)]


@dataclass(frozen=True)
class Tag:
    """Puts a system message before a record's prompt, such as Humpback's for its seeds (`SEED_TAG`)."""

    tag: str = SEED_TAG

    name: ClassVar[str] = "tag"
    roles: ClassVar[tuple[str, ...]] = ()

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> Sequence[Record]:
        (record,) = parents
        rest = tuple(m for m in record.prompt if m.role != "system")
        return [record.child(by=self.name, prompt=(*system(self.tag), *rest))]
