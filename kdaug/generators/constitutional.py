"""Constitutional AI, supervised stage: answers are criticised and revised by principles (arXiv 2212.08073)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.erasure import PromptEraser
from kdaug.errors import ConfigError
from kdaug.generator import Generate
from kdaug.generators.feedback import META_PHRASES
from kdaug.judging import leaked
from kdaug.prompts import listed, render
from kdaug.record import Discarded, Drop, Messages, Record, text_of
from kdaug.samples import answered, unusable
from kdaug.teacher import Completion


@dataclass(frozen=True)
class Constitutional:
    """Answers a prompt, and then in each of `rounds` rounds draws one of the principles, criticises the answer by it
    and revises it (§3.1). Every revision is a record, not the last alone; the prompt stays as it was.

    Principles are `templates/prompts/constitutional/principles.j2`, a line each: `name | critique request | revision
    request`. A revision that repeats an earlier one is discarded (`constitutional:duplicate`), one that speaks of its
    critique (`:meta`) or holds words of a principle (`:leak`) too; the rounds go on. A part that was cut or is empty
    ends them.

    `role` answers and revises, `critic` criticises; in the paper both are the model itself.
    """

    rounds: int = 4  # paper, §3.2
    temperature: float = 1.0  # paper, §3.2
    max_tokens: int = 1024
    role: str = "student"
    critic: str = "student"

    name: ClassVar[str] = "constitutional"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"constitutional: rounds is {self.rounds}; it is at least 1")

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.role, self.critic)))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)
        principles = [(name, *halves(name, text)) for name, text in listed(f"{self.name}/principles")]
        eraser = PromptEraser({name: f"{critique}\n{revision}" for name, critique, revision in principles})
        answer = await self._ask(record.prompt, self.role, generate)
        if drop := unusable(answer, self.name):
            return [Discarded(answered(record, answer, by=self.name), drop)]
        answers, replies = [answer], [answer]
        made: list[Record | Discarded] = []
        for _ in range(self.rounds):
            name, critique, revision = rng.choice(principles)
            told = {"prompt": prompt, "answer": answers[-1].text}
            said = await self._ask(render(f"{self.name}/critique", principle=critique, **told), self.critic, generate)
            if drop := unusable(said, self.name):
                return [*made, Discarded(answered(record, answers[-1], by=self.name, replies=[*replies, said]), drop)]
            told["critique"] = said.text
            revised = await self._ask(render(f"{self.name}/revise", principle=revision, **told), self.role, generate)
            replies = [*replies, said, revised]
            child = answered(record, revised, by=f"{self.name}/{name}", replies=replies)
            if drop := unusable(revised, self.name):
                return [*made, Discarded(child, drop)]
            drop = unusable(revised, self.name, answers) or self._leak(child, eraser, record)
            made.append(Discarded(child, drop) if drop else child)
            answers.append(revised)
        return made

    def _leak(self, child: Record, eraser: PromptEraser, record: Record) -> Drop | None:
        phrase = leaked(text_of(child.completion), META_PHRASES, text_of(record.prompt))
        if phrase:
            return Drop(f"{self.name}:meta", {"phrase": phrase})
        return eraser.drop(self.name, child, given=record.prompt)

    async def _ask(self, asked: str | Messages, role: str, generate: Generate) -> Completion:
        return await generate(asked, role=role, temperature=self.temperature, max_tokens=self.max_tokens)


def halves(name: str, text: str) -> tuple[str, str]:
    """The two requests of a principle. Raises ConfigError for a line without them."""
    critique, bar, revision = text.partition("|")
    if not bar:
        raise ConfigError(
            f"template prompts/constitutional/principles.j2: {name}: expected `name | critique | revision`"
        )
    return critique.strip(), revision.strip()
