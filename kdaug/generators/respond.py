"""Answers: a teacher labels prompts (the survey's "labeling", arXiv 2402.13116, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kdaug.errors import ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Message, Messages, Record, system


@dataclass(frozen=True)
class Respond:
    """Answers a record's prompt; an answer that it had is replaced.

    `system` names a template of `templates/prompts/respond/` that guides this answer (`careful`, `stepwise`, or one of
    yours). It is not stored in the record: the student learns to answer so without being told. It goes before a
    system message of the record's own.

    An answer ends before the first of `stop`; one of `"\\n\\n"` takes the first paragraph of a model that rambles.

    With `logprobs` the run keeps the teacher's so many likeliest tokens at each step (kdaug/logprobs.py), for training
    that needs no teacher any more.

    Raises ParseError("answer") for an empty answer. An answer cut by `max_tokens` is discarded unless `keep_cut`.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    logprobs: int = 0
    system: str | None = None
    keep_cut: bool = False
    role: str = "teacher"

    name: ClassVar[str] = "respond"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    @property
    def renders(self) -> tuple[str, ...]:
        return () if self.system is None else (f"{self.name}/{self.system}",)

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        reply = await generate(
            self._guided(record.prompt),
            role=self.role,
            tools=record.tools,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=self.stop,
            logprobs=self.logprobs,
        )
        if not reply.text.strip() and not reply.tool_calls:
            raise ParseError("answer", reply.text)
        answer = (Message("assistant", reply.text, reply.tool_calls),)
        child = record.child(by=self.name, replies=[reply], completion=answer, rejected=None, label=None)
        if reply.cut and not self.keep_cut:
            return [Discarded(child, Drop("respond:cut", {"max_tokens": self.max_tokens}))]
        return [child]

    def _guided(self, prompt: Messages) -> Messages:
        if self.system is None:
            return prompt
        guide = render(f"{self.name}/{self.system}")
        if prompt and prompt[0].role == "system":
            return (*system(f"{guide}\n\n{prompt[0].content}"), *prompt[1:])
        return (*system(guide), *prompt)
