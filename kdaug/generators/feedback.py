"""Feedback: a teacher criticises and revises what the student writes (after Self-Refine, arXiv 2303.17651)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.generator import Generate
from kdaug.judging import leaked
from kdaug.pairs import PairBuilder, preference
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, text_of
from kdaug.samples import answered, unusable

# A revision that speaks of these would teach the student to answer a critique that no prompt holds.
META_PHRASES = (
    "critique",
    "feedback",
    "draft",
    "reviewer",
    "revised answer",
    "revised response",
    "previous answer",
    "improved answer",
)


@dataclass(frozen=True)
class Feedback:
    """Student drafts, teacher criticises and revises; the pair is a preference (chosen: the revision).

    The prompt stays as it was: neither critique nor draft is in it. A draft that the teacher finds nothing wrong with
    makes no pair and is discarded as `feedback:no_issues`.
    """

    temperature: float = 0.7  # draft and revision; Self-Refine's code samples at 0.7
    max_tokens: int = 2048

    name: ClassVar[str] = "feedback"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)

        draft = await generate(record.prompt, role="student", temperature=self.temperature, max_tokens=self.max_tokens)
        drafted = answered(record, draft, by=self.name)
        if drop := unusable(draft, self.name, text="draft"):
            return [Discarded(drafted, drop)]

        asked = render(f"{self.name}/critique", prompt=prompt, draft=draft.text)
        critique = await generate(asked, temperature=0.0, max_tokens=self.max_tokens)
        if drop := unusable(critique, self.name, text="critique"):
            return [Discarded(drafted, drop)]
        if no_issues(critique.text):
            return [Discarded(drafted, Drop("feedback:no_issues", {"critique": critique.text}))]

        asked = render(f"{self.name}/revise", prompt=prompt, draft=draft.text, critique=critique.text)
        revised = await generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        pair = preference(record, revised, draft, by=self.name, replies=[draft, critique, revised])
        drop = unusable(revised, self.name, text="revision") or flaw_of_pair(revised.text, draft.text, prompt)
        return [Discarded(pair, drop) if drop else pair]


def no_issues(critique: str) -> bool:
    """Whether a line of the critique says that alone; "no issues with the grammar, but…" is an issue."""
    return bool(re.search(r"^\W*no issues(?: found| at all)?\W*$", critique, re.IGNORECASE | re.MULTILINE))


def flaw_of_pair(revised: str, draft: str, prompt: str) -> Drop | None:
    """What makes a revision no preference over its draft: the same words, or talk of the critique."""
    if flaw := PairBuilder().flaw(revised, draft):
        return Drop(f"feedback:{flaw}")
    phrase = leaked(revised, META_PHRASES, f"{prompt}\n{draft}")
    return Drop("feedback:meta", {"phrase": phrase}) if phrase else None
