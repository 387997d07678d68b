"""Lion: new instructions from those at which the student falls behind its teacher (arXiv 2305.12870)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ParseError
from kdaug.generator import Generate, settled
from kdaug.judging import parse_score
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, text_of, user
from kdaug.teacher import Completion

MIN_TOKENS = 64  # of a new instruction: four times the words of "Sort 3, 1, 2." would hold no sentence


@dataclass(frozen=True)
class Lion:
    """Student and teacher answer a prompt, and a referee marks both: the gap says whether it is hard for the student. A
    new instruction is made from it, of the same kind where it was hard, of a rarer one where it was easy, and the
    teacher answers that (Lion, arXiv 2305.12870, §3).

    The referee (`judge`) sees the two answers in both orders, and its marks are averaged; a gap of `gap` or more is
    hard. A record's `by` is `lion/hard` or `lion/easy`: `select: {balance: {n: …, by: by}}` takes as many of each. For
    what resembles an earlier instruction there is the gate `rouge`.

    Drops `lion:unjudged` (an order without two legal marks), `lion:cut`, `lion:empty`, `lion:short`, `lion:words`,
    `lion:start`.
    """

    gap: float = 1.0  # authors' code: 1.0 or more is hard
    max_tokens: int = 1024

    name: ClassVar[str] = "lion"
    roles: ClassVar[tuple[str, ...]] = ("student", "teacher", "judge")
    judges: ClassVar[tuple[str, ...]] = ("judge",)
    renders: ClassVar[tuple[str, ...]] = ("lion/referee", "lion/hard", "lion/easy")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        answers: list[Completion] = []
        for role, temperature in (("teacher", 0.7), ("student", 0.7)):
            answers.append(
                await generate(record.prompt, role=role, temperature=temperature, max_tokens=self.max_tokens)
            )
        try:
            gap = await self._gap(record, answers[0].text, answers[1].text, generate)
        except ParseError as e:
            return [Discarded(record, Drop("lion:unjudged", {"reply": e.text}))]
        kind = "hard" if gap >= self.gap else "easy"
        return [(await self._new(record, kind, gap, generate))]

    async def _gap(self, record: Record, teacher: str, student: str, generate: Generate) -> float:
        """How much better the teacher's answer is, by the mean of both orders. Raises ParseError where one of them has
        no two marks: half a judgement would halve the gap."""

        async def ask(first: str, second: str) -> tuple[float, float]:
            prompt = render("lion/referee", prompt=text_of(record.prompt), first=first, second=second)
            reply = await generate(prompt, role="judge", temperature=0.2, max_tokens=self.max_tokens)
            if reply.cut:
                raise ParseError("score", reply.text)
            return two_scores(reply.text)

        both = []
        for marks in await settled([ask(teacher, student), ask(student, teacher)]):
            if not isinstance(marks, tuple):
                raise marks
            both.append(marks)
        (teacher1, student1), (student2, teacher2) = both
        return (teacher1 + teacher2) / 2 - (student1 + student2) / 2

    async def _new(self, record: Record, kind: str, gap: float, generate: Generate) -> Record | Discarded:
        given = record.prompt[-1].content
        reply = await generate(
            render(f"lion/{kind}", instruction=given),
            temperature=1.0,
            max_tokens=max(MIN_TOKENS, 4 * len(given.split())),
        )
        instruction = reply.text.strip().strip('"“”').strip()
        prompt = (*record.prompt[:-1], *user(instruction))
        if drop := _flaw(instruction, reply):
            return Discarded(self._child(record, kind, prompt, [reply]), drop)
        answer = await generate(prompt, temperature=0.7, max_tokens=self.max_tokens)
        child = self._child(record, kind, prompt, [reply, answer])
        if answer.cut or not answer.text.strip():
            return Discarded(child, Drop("lion:cut" if answer.cut else "lion:empty", {"text": "answer"}))
        return child.scored(gap=gap)

    def _child(self, record: Record, kind: str, prompt: Messages, replies: Sequence[Completion]) -> Record:
        """The new instruction, and its answer where the second reply is one."""
        return record.child(
            by=f"{self.name}/{kind}",
            replies=replies,
            prompt=prompt,
            completion=assistant(replies[1].text) if len(replies) > 1 else None,
            rejected=None,
            label=None,
            meta={},
        )


def two_scores(text: str) -> tuple[float, float]:
    """The marks of a referee's last "Answer 1 … Score: n" and "Answer 2 … Score: n", each on a line of its own.

    Raises ParseError where one is missing or off the scale from 1 to 10.
    """
    marks = []
    for number in (1, 2):
        lines = re.findall(rf"^.*\banswer\s*{number}\b.*$", text, re.IGNORECASE | re.MULTILINE)
        scored = [line for line in lines if re.search(r"\bscore\b", line, re.IGNORECASE)]
        if not scored:
            raise ParseError("score", text)
        marks.append(parse_score(scored[-1], 1, 10, half=True))
    return marks[0], marks[1]


def _flaw(instruction: str, reply: Completion) -> Drop | None:
    """What the authors' code does not take for an instruction."""
    if reply.cut:
        return Drop("lion:cut", {"text": "instruction"})
    if len(instruction.split()) <= 3:
        return Drop("lion:short", {"words": len(instruction.split())})
    if "instruction" in instruction.lower():
        return Drop("lion:words", {"phrase": "instruction"})
    if not instruction[0].isalnum():
        return Drop("lion:start", {"character": instruction[0]})
    return None
