"""Reflection-Tuning: a teacher criticises and rewrites request and answer (arXiv 2310.11716), and in the selective form
the student chooses what is taken of it (arXiv 2402.10110)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from random import Random
from typing import ClassVar, NamedTuple

from kdaug.errors import ParseError
from kdaug.generator import Generate
from kdaug.prompts import render
from kdaug.record import Discarded, Drop, Messages, Record, assistant, text_of, user
from kdaug.teacher import Completion


@dataclass(frozen=True)
class ReflectionTuning:
    """The teacher criticises a record's request and writes a better one with an answer, then criticises that answer and
    writes a better one (Reflection-Tuning, arXiv 2310.11716, §3).

    A reply without all of its sections, or a cut one, changes nothing: what was there is kept. Drops
    `reflection_tuning:no_answer` for a record without one.
    """

    temperature: float = 0.0
    max_tokens: int = 2048

    name: ClassVar[str] = "reflection_tuning"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)
    renders: ClassVar[tuple[str, ...]] = ("reflection_tuning/instruction", "reflection_tuning/response")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop("reflection_tuning:no_answer"))]
        reflect = Reflection(generate, self.temperature, self.max_tokens)
        asked = await reflect.on_request(record)
        answered = await reflect.on_answer(record, asked)
        return [answered or asked or record]


@dataclass(frozen=True)
class SelectiveReflection:
    """Reflection-Tuning in which the student chooses (Selective Reflection-Tuning, arXiv 2402.10110, §3).

    IFD is ppl(answer | request) / ppl(answer), r-IFD is ppl(request | answer) / ppl(request), both by the student,
    which must be white-box. The new request, with its answer, is taken where its IFD is higher: it is harder. The new
    answer is taken where its r-IFD is lower: it fits its request better. Only records whose answer was replaced come
    out, and none with an IFD or r-IFD of 1 or more.

    Drops `selective_reflection:no_answer`, `:unchanged`, `:ifd` and `:r_ifd`.
    """

    temperature: float = 0.0
    max_tokens: int = 2048

    name: ClassVar[str] = "selective_reflection"
    roles: ClassVar[tuple[str, ...]] = ("teacher", "student")
    judges: ClassVar[tuple[str, ...]] = ()
    renders: ClassVar[tuple[str, ...]] = (*ReflectionTuning.renders, "reflection_tuning/guess")

    async def __call__(
        self, parents: Sequence[Record], generate: Generate, rng: Random
    ) -> Sequence[Record | Discarded]:
        (record,) = parents
        if record.completion is None:
            return [Discarded(record, Drop(f"{self.name}:no_answer"))]
        reflect = Reflection(generate, self.temperature, self.max_tokens)
        asked = await reflect.on_request(record)
        if asked and not await ifd(asked, generate) > await ifd(record, generate):
            asked = None
        taken = asked or record
        answered = await reflect.on_answer(record, asked)
        if answered is None or not (after := await r_ifd(answered, generate)) < await r_ifd(taken, generate):
            return [Discarded(taken, Drop(f"{self.name}:unchanged", {"new_request": asked is not None}))]
        made = answered.scored(ifd=(before := await ifd(answered, generate)), r_ifd=after)
        if before >= 1:
            return [Discarded(made, Drop(f"{self.name}:ifd", {"score": before}))]
        if after >= 1:
            return [Discarded(made, Drop(f"{self.name}:r_ifd", {"score": after}))]
        return [made]


class Reflection(NamedTuple):
    """A teacher that criticises and rewrites; None where its reply lacks a section."""

    generate: Generate
    temperature: float
    max_tokens: int

    async def on_request(self, record: Record) -> Record | None:
        """The record with a better request and its answer."""
        reply, found = await self._ask("instruction", record, "New Request", "New Answer")
        if not found:
            return None
        prompt = (*record.prompt[:-1], *user(found[0]))
        return record.child(
            by="reflection_tuning/instruction", replies=[reply], prompt=prompt, completion=assistant(found[1]), meta={}
        )

    async def on_answer(self, record: Record, asked: Record | None) -> Record | None:
        """The record with a better answer; where there is one that was `asked` better, that one, as the record's own
        child: what nobody keeps is nobody's parent."""
        now = asked or record
        reply, found = await self._ask("response", now, "Better Answer")
        if not found:
            return None
        made = record.child(
            by="reflection_tuning/response",
            replies=[reply],
            prompt=now.prompt,
            completion=assistant(found[0]),
            meta=now.meta,
        )
        return replace(made, replies=(*asked.replies, *made.replies)) if asked else made

    async def _ask(self, template: str, record: Record, *sections: str) -> tuple[Completion, list[str]]:
        asked = render(
            f"reflection_tuning/{template}",
            instruction=record.prompt[-1].content,
            answer=text_of(record.completion),
        )
        reply = await self.generate(asked, temperature=self.temperature, max_tokens=self.max_tokens)
        try:
            return reply, [] if reply.cut else [section(reply.text, name) for name in sections]
        except ParseError:
            return reply, []


def section(text: str, name: str) -> str:
    """What stands between the last `[name]` and the `[End]` after it, whatever marks the model set around the tags.

    Raises ParseError where one of the two is missing or nothing stands between them: without its end a section may be
    torn.
    """
    title = r"\s+".join(map(re.escape, name.split()))
    found = re.findall(rf"\[\s*{title}\s*\][*_:]*(.*?)[*_]*\[\s*end\b[^\]\n]*\]", text, re.IGNORECASE | re.DOTALL)
    if not found or not (body := str(found[-1]).strip(" \n*")):
        raise ParseError(name.lower().replace(" ", "_"), text)
    return body


async def ifd(record: Record, generate: Generate) -> float:
    """ppl(answer | request) / ppl(answer), by the student."""
    given = await _loss(record.prompt, record.completion or (), generate)
    return exp(given - await _loss(user(""), record.completion or (), generate))


async def r_ifd(record: Record, generate: Generate) -> float:
    """ppl(request | answer) / ppl(request), by the student, which is asked to guess the request."""
    request = assistant(record.prompt[-1].content)
    asked = user(render("reflection_tuning/guess", answer=text_of(record.completion)))
    return exp(await _loss(asked, request, generate) - await _loss(user(""), request, generate))


async def _loss(prompt: Messages, completion: Messages, generate: Generate) -> float:
    """The mean negative log-likelihood of a token, in nats."""
    view = await generate.logprobs(prompt, completion, role="student")
    return -float(view.token_logprobs.mean(dtype="float64"))
