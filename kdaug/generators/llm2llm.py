"""LLM2LLM: new questions like those that the student gets wrong (arXiv 2403.15042)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.answers import final_answer, same_answer
from kdaug.errors import ConfigError, ParseError, shorten
from kdaug.generator import Generate
from kdaug.prompts import converse, render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user

_LABEL = r"^[\s>#*_`\-]*(?:\d+[.)]\s*)?{}\s*#?\d*[*_]*\s*[:.][*_]*[ \t]*"
_QUESTION = re.compile(_LABEL.format("question"), re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(_LABEL.format("answer"), re.IGNORECASE | re.MULTILINE)


class Solved(NamedTuple):
    """A question and its worked answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class LLM2LLM:
    """The student answers a question whose answer is known; where it is wrong, the teacher writes `n` questions like
    it, each with a worked answer (LLM2LLM, arXiv 2403.15042, §3).

    Only seeds are asked, so that errors do not build up: what was written is trained on and never expanded. `form` says
    how the student is asked: a template of `rest_em/`, or nothing for the plain question.

    Drops `llm2llm:right` (the student can do it), `llm2llm:no_reference`, `llm2llm:not_a_seed`, `llm2llm:cut` (the last
    question of a cut reply), `llm2llm:no_answer` (no final answer), `llm2llm:copy` (the question itself again),
    `llm2llm:surplus` (more than `n`).
    """

    n: int = 1
    form: str = ""
    temperature: float = 0.7
    max_tokens: int = 1024
    answer_tokens: int = 512

    name: ClassVar[str] = "llm2llm"
    roles: ClassVar[tuple[str, ...]] = ("student", "teacher")

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"llm2llm: n is {self.n}: at least 1")

    @property
    def renders(self) -> tuple[str, ...]:
        return ("llm2llm/similar", *((f"rest_em/{self.form}",) if self.form else ()))

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (seed,) = parents
        if seed.parents:
            return [Discarded(seed, Drop("llm2llm:not_a_seed"))]
        if seed.completion is None:
            return [Discarded(seed, Drop("llm2llm:no_reference"))]
        reference = text_of(seed.completion)
        asked = seed.prompt
        if self.form:
            asked = (*asked[:-1], *converse(f"rest_em/{self.form}", prompt=asked[-1].content))
        tried = await generate(asked, role="student", temperature=0.0, max_tokens=self.answer_tokens)
        if same_answer(tried.text, reference):
            return [Discarded(seed, Drop("llm2llm:right", {"answer": shorten(final_answer(tried.text))}))]
        return await self._similar(seed, reference, generate)

    async def _similar(self, seed: Record, reference: str, generate: Generate) -> list[Record | Discarded]:
        question = seed.prompt[-1].content
        prompt = render(f"{self.name}/similar", question=question, answer=reference, n=self.n)
        reply = await generate(prompt, temperature=self.temperature, max_tokens=self.max_tokens)
        found = parse_solved(reply.text)
        if not found:
            raise ParseError("questions", reply.text)
        made: list[Record | Discarded] = []
        for place, (new, answer) in enumerate(found):
            child = seed.child(
                by=self.name,
                replies=[reply],
                prompt=(*seed.prompt[:-1], *user(new)),
                completion=assistant(answer),
                rejected=None,
                label=None,
                meta={},
            )
            last = place == len(found) - 1
            if reply.cut and last:
                made.append(Discarded(child, Drop("llm2llm:cut")))
            elif place >= self.n:
                made.append(Discarded(child, Drop("llm2llm:surplus", {"n": self.n})))
            elif "####" not in answer or not final_answer(answer):
                made.append(Discarded(child, Drop("llm2llm:no_answer")))
            elif new.split() == question.split():
                made.append(Discarded(child, Drop("llm2llm:copy")))
            else:
                made.append(child)
        return made


def parse_solved(text: str) -> list[Solved]:
    """The "Question n: … Answer n: …" blocks of a reply; one without an answer has an empty one."""
    found = []
    for piece in _QUESTION.split(text)[1:]:
        question, *answers = _ANSWER.split(piece, maxsplit=1)
        if question.strip():
            found.append(Solved(question.strip(), answers[0].strip() if answers else ""))
    return found
