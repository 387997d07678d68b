"""Judges as data: a rubric, an answer of each mark, and feedback that gives it (Prometheus, arXiv 2310.08491, §3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from kdaug.errors import ConfigError, ParseError
from kdaug.generator import Generate, settled
from kdaug.judging import Verdict, grade
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Record, assistant, text_of, user
from kdaug.teacher import Completion

LEVELS = 5
RUBRIC = {
    "type": "object",
    "properties": {
        "criterion": {"type": "string"},
        "levels": {"type": "array", "items": {"type": "string"}, "minItems": LEVELS, "maxItems": LEVELS},
        "reference": {"type": "string"},
    },
    "required": ["criterion", "levels", "reference"],
}
ANSWER = {
    "type": "object",
    "properties": {"response": {"type": "string"}, "feedback": {"type": "string"}},
    "required": ["response", "feedback"],
}
_LEAK = re.compile(r"\b(?:score|rubric|mark) (?:of )?[1-5]\b|\b[1-5] ?(?:/|out of) ?5\b", re.IGNORECASE)


@dataclass(frozen=True)
class JudgeData:
    """For a record's prompt: a criterion with a description of each mark and a reference answer, then for each mark
    from 1 to 5 an answer that deserves it, with feedback. Marks are thus balanced.

    A record's prompt is the judge's task, its completion feedback and "Score: n", as kdaug's own judge is asked
    (kdaug/judging.py). An answer that speaks of its mark is `judge_data:leak`, feedback that names another mark
    `judge_data:contradicts`, an empty or repeated answer `judge_data:empty` and `judge_data:duplicate`. With
    `tolerance` a judge marks each answer blind, and one more than so far from the mark is `judge_data:disagrees`.
    """

    tolerance: float | None = 1.0
    temperature: float = 1.0
    max_tokens: int = 1536

    name: ClassVar[str] = "judge_data"

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.tolerance < 0:
            raise ConfigError("judge_data: tolerance is at least 0, or null for no check")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("teacher",) if self.tolerance is None else ("teacher", "judge")

    @property
    def judges(self) -> tuple[str, ...]:
        return () if self.tolerance is None else ("judge",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        prompt = text_of(record.prompt)
        reply = await self._ask(render("judge_data/rubric", prompt=prompt, levels=LEVELS), RUBRIC, generate)
        rubric = reply.parsed
        if not isinstance(rubric, dict) or len(rubric.get("levels") or ()) != LEVELS or not rubric.get("criterion"):
            raise ParseError("rubric", reply.text)
        asked = [
            render("judge_data/answer", prompt=prompt, rubric=rubric, score=score) for score in range(1, LEVELS + 1)
        ]
        answers = await settled([self._ask(text, ANSWER, generate) for text in asked])
        made: list[Record | Discarded] = []
        seen: set[str] = set()
        for score, answer in enumerate(answers, 1):
            if not isinstance(answer, Completion):
                made.append(Discarded(record, Drop(answer.reason, {"error": str(answer), "score": score})))
                continue
            made.append(await self._item(record, rubric, score, [reply, answer], seen, generate))
        return made

    async def _item(
        self,
        record: Record,
        rubric: dict[str, Any],
        score: int,
        replies: Sequence[Completion],
        seen: set[str],
        generate: Generate,
    ) -> Record | Discarded:
        said = replies[-1].parsed
        response, feedback = (str(said.get(name) or "").strip() for name in ("response", "feedback"))
        task = render("judge_data/judge", prompt=text_of(record.prompt), rubric=rubric, response=response)
        child = record.child(
            by=self.name,
            replies=replies,
            prompt=user(task),
            completion=assistant(f"{feedback}\nScore: {score}"),
            rejected=None,
            label=None,
            meta={},
        )
        if flaw := _flaw(response, feedback, score, seen):
            return Discarded(child, Drop(f"judge_data:{flaw}", {"score": score}))
        seen.add(" ".join(response.split()))
        if self.tolerance is None:
            return child
        verdict = await self._blind(record, response, rubric, generate)
        far = abs(verdict.score - score)
        child = record.child(
            by=self.name,
            replies=[*replies, verdict.completion],
            prompt=child.prompt,
            completion=child.completion,
            rejected=None,
            label=None,
            meta={},
        )
        if far > self.tolerance:
            return Discarded(child, Drop("judge_data:disagrees", {"score": score, "judge": verdict.score}))
        return child

    async def _blind(self, record: Record, response: str, rubric: dict[str, Any], generate: Generate) -> Verdict:
        answered = record.child(by=self.name, completion=assistant(response), rejected=None, label=None)
        told = render("judge_data/levels", rubric=rubric)
        return await grade(answered, generate, rubric=told, low=1, high=LEVELS, max_tokens=self.max_tokens)

    async def _ask(self, asked: str, schema: Any, generate: Generate) -> Completion:
        reply = await generate(asked, schema=schema, temperature=self.temperature, max_tokens=self.max_tokens)
        if reply.cut or not isinstance(reply.parsed, dict):
            raise ParseError("answer", reply.text)
        return reply


def _flaw(response: str, feedback: str, score: int, seen: set[str]) -> str | None:
    if not response or not feedback:
        return "empty"
    if " ".join(response.split()) in seen:
        return "duplicate"
    if _LEAK.search(response):
        return "leak"
    named = {int(n) for text in _LEAK.findall(feedback) for n in re.findall(r"[1-5]", text)[:1]}
    return "contradicts" if named - {score} else None
