"""Self-Refine: a model criticises and refines its own answer, time and again (arXiv 2303.17651)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.generators.feedback import META_PHRASES, no_issues
from kdaug.judging import leaked, parse_score
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, text_of
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion


@dataclass(frozen=True)
class SelfRefine:
    """One model in three roles: it answers, says what is wrong, and refines, until nothing is, or `max_attempts`
    answers are made: 1 + 2 * (max_attempts - 1) calls at most, and one more for the last one's score.

    With `scored` each answer gets a mark from 0 to 25, all earlier answers and their feedback are shown to the next
    attempt, and the best-scoring one is kept, not the last (of equal ones the first): `scores["self_refine"]`. Without,
    a line "No issues" ends it and the last answer is kept.

    Discarded: an answer that speaks of its feedback (`self_refine:meta`), a part that was cut or is empty. Raises
    ParseError("score") for feedback without a mark.
    """

    max_attempts: int = 4
    scored: bool = False
    high: int = 25  # the acronym task's total
    temperature: float = 0.7
    max_tokens: int = 1024
    role: str = "teacher"

    name: ClassVar[str] = "self_refine"

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.high < 1:
            raise ConfigError("self_refine: max_attempts and high are at least 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose judgement decides what is kept."""
        return (self.role,) if self.scored else ()

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)
        replies: list[Completion] = []
        drafts: list[Completion] = []
        feedback: list[str] = []
        scores: list[float] = []
        while len(drafts) < self.max_attempts:
            history = [(draft.text, said) for draft, said in zip(drafts, feedback, strict=True)]
            shown = history if self.scored else history[-1:]
            asked = render(f"{self.name}/refine", prompt=prompt, history=shown) if history else record.prompt
            drafts.append(await self._ask(asked, generate, replies))
            if drop := unusable(drafts[-1], self.name):
                return [Discarded(answered(record, drafts[-1], by=self.name, replies=replies), drop)]
            if not self.scored and len(drafts) == self.max_attempts:
                break
            asked = render(
                f"{self.name}/feedback", prompt=prompt, draft=drafts[-1].text, scored=self.scored, high=self.high
            )
            said = await self._ask(asked, generate, replies)
            if drop := unusable(said, self.name):
                return [Discarded(answered(record, drafts[-1], by=self.name, replies=replies), drop)]
            feedback.append(said.text)
            if self.scored:
                scores.append(parse_score(said.text, 0, self.high))
            elif no_issues(said.text):
                break
        best = scores.index(max(scores)) if scores else len(drafts) - 1
        child = answered(record, drafts[best], by=self.name, replies=replies)
        if scores:
            child = child.scored(self_refine=scores[best])
        phrase = leaked(drafts[best].text, META_PHRASES, prompt) if best else None
        return [Discarded(child, Drop("self_refine:meta", {"phrase": phrase})) if phrase else child]

    async def _ask(self, asked: str | Messages, generate: Generate, replies: list[Completion]) -> Completion:
        reply = await generate(asked, role=self.role, temperature=self.temperature, max_tokens=self.max_tokens)
        replies.append(reply)
        return reply
