"""Trying again: failed calls are repeated with exponential backoff and full jitter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

from kdaug.errors import ConfigError, RateLimited, TeacherError, TeacherUnavailable
from kdaug.record import Messages
from kdaug.teacher import Completion, Request, ScoringTeacher, Teacher, TokenLogprobs

Result = TypeVar("Result")

LONGEST_WISH = 120.0  # seconds; a teacher that asks for a longer pause is asked again after this
# A rate limit says nothing against the request: it gets so many times the tries. Simulated, 64 slots against a limit of
# 500 requests a minute without Retry-After: 6 tries lose 37 % of the requests, 24 lose 0.02 %.
RATE_LIMIT_FACTOR = 4
FIRST_PATIENCE = 10.0  # seconds; a teacher that has never answered is more likely a wrong address than restarting


async def _unpaid(failed: TeacherError) -> None:
    """Scoring is not counted."""


@dataclass(eq=False)
class Retry:
    """A teacher that tries again where its inner teacher fails for a passing reason.

    A retryable error is tried `tries` times in all (a rate limit four times as often) and then raised as it is. Before
    try n + 1 it waits a random time of at most `base` · 2ⁿ⁻¹ seconds, `cap` at most (full jitter, Brooker 2015, AWS
    Architecture Blog), on top of the time that the teacher asked for. An outage is waited out for `patience` seconds,
    or 10 where the teacher has never answered. Everything else is raised at once.

    `retries` counts the repeated calls, `waiting` those that wait for their next try right now.
    """

    teacher: Teacher
    tries: int = 6
    base: float = 0.5
    cap: float = 30.0
    patience: float = 60.0
    retries: int = field(default=0, init=False)
    waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError("tries must be at least 1")
        self._random = Random()
        self._answered = False
        if isinstance(self.teacher, ScoringTeacher):  # an attribute of its own, so that isinstance tells the truth
            self.logprobs = self._logprobs

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def concurrency(self) -> int:
        return self.teacher.concurrency

    async def open(self, state: Path) -> None:
        await self.teacher.open(state)

    async def generate(self, request: Request) -> Completion:
        return await self._persist(lambda: self.teacher.generate(request), partial(request.again, request))

    async def flush(self) -> None:
        await self.teacher.flush()

    async def aclose(self) -> None:
        await self.teacher.aclose()

    async def _logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        scorer = self.teacher
        assert isinstance(scorer, ScoringTeacher)
        return await self._persist(lambda: scorer.logprobs(prompt, completion, top_k))

    async def _persist(
        self, call: Callable[[], Awaitable[Result]], again: Callable[[TeacherError], Awaitable[None]] = _unpaid
    ) -> Result:
        failures, outage = 0, 0.0  # when the outage began
        while True:
            try:
                result = await call()
            except TeacherError as e:
                failures += 1
                self._answered = self._answered or not e.fatal
                down = isinstance(e, TeacherUnavailable)
                outage = (outage or time.monotonic()) if down else 0.0
                pause = self._pause(e, failures, time.monotonic() - outage)
                self.retries += 1
                self.waiting += 1
                try:
                    await asyncio.sleep(pause)
                    await again(e)
                finally:
                    self.waiting -= 1
            else:
                self._answered = True
                return result

    def _pause(self, error: TeacherError, failures: int, down: float) -> float:
        """Seconds until the next try; `down`: how long the outage lasts. Raises the error where it is the last."""
        backoff = self._random.uniform(0, min(self.cap, self.base * 2 ** (failures - 1)))
        if isinstance(error, TeacherUnavailable):
            patience = self.patience if self._answered else min(self.patience, FIRST_PATIENCE)
            if down >= patience:
                words = f"{error} (tried {failures} times in {down:.0f} s)"
                raise TeacherUnavailable(words, request=error.request, teacher=error.teacher) from error
            return min(backoff, patience - down)
        tries = self.tries * RATE_LIMIT_FACTOR if isinstance(error, RateLimited) else self.tries
        if error.fatal or not error.retryable or failures >= tries:
            raise error
        return min(error.retry_after or 0.0, LONGEST_WISH) + backoff
