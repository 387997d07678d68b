"""A scripted teacher: for tests, and for `kdaug check`, which runs a recipe without a model."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from random import Random
from typing import TypeAlias

from kdaug.errors import BadRequest, TeacherError, shorten
from kdaug.teacher import Completion, Request, Usage

Answer: TypeAlias = str | Completion | TeacherError
Scripted: TypeAlias = Callable[[Request], Answer]

SYLLABLES = (
    "ba be bi bo da de di do fa fe fi ka ke ki ko la le li lo ma me mi mo na ne no pa pe ra re ri sa se ta te to"
)


@dataclass(eq=False)
class Fake:
    """A teacher that answers as it is told.

    `reply` is a function of the request; or a mapping from regular expressions to answers (or functions), where the
    first that is found in the last user message counts and a prompt that none fits is a BadRequest; or None: nonsense
    words that depend on the request and its nonce alone, in every process. An answer is a text, a Completion, or a
    TeacherError, which is raised. `latency` seconds pass before each, and up to `jitter` more, by chance.

    `calls` lists the requests in the order of their arrival, `peak` is the most that were in flight at once.
    """

    reply: Scripted | Mapping[str, Answer | Scripted] | None = None
    _: KW_ONLY
    latency: float = 0.0
    jitter: float = 0.0
    name: str = "fake"
    concurrency: int = 64
    calls: list[Request] = field(default_factory=list, init=False, repr=False)
    peak: int = field(default=0, init=False)
    _flying: int = field(default=0, init=False, repr=False)
    _random: Random = field(default_factory=Random, init=False, repr=False)

    async def open(self, state: Path) -> None:
        pass

    async def generate(self, request: Request) -> Completion:
        self.calls.append(request)
        self._flying += 1
        self.peak = max(self.peak, self._flying)
        try:
            await asyncio.sleep(self.latency + self._random.uniform(0, self.jitter))
            answer = self._answer(request)
        finally:
            self._flying -= 1
        if isinstance(answer, TeacherError):
            error = copy.copy(answer)  # one script may raise it many times
            error.request, error.teacher = request, self.name
            raise error
        return answer if isinstance(answer, Completion) else _completion(request, answer)

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _answer(self, request: Request) -> Answer:
        if self.reply is None:
            return _nonsense(request)
        if callable(self.reply):
            return self.reply(request)
        asked = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        for pattern, answer in self.reply.items():
            if re.search(pattern, asked):
                return answer(request) if callable(answer) else answer
        return BadRequest(f"the fake teacher has no reply to {shorten(asked)!r}")


def _completion(request: Request, text: str) -> Completion:
    """Words stand for tokens in its usage."""
    asked = sum(len(m.content.split()) for m in request.messages)
    return Completion(text, usage=Usage(asked, len(text.split())))


def _nonsense(request: Request) -> str:
    """One sentence of 12 to 40 made-up words, so that two of them are no near-duplicates."""
    rng, syllables = Random(f"{request.digest('fake')}/{request.nonce}"), SYLLABLES.split()
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(rng.randint(12, 40))]
    return " ".join(words).capitalize() + "."
