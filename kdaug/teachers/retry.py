"""Trying again: failed calls are repeated with exponential backoff; when all fail, one is tried for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar, runtime_checkable

from kdaug.errors import ConfigError, RateLimited, TeacherError, TeacherTimeout, TeacherUnavailable
from kdaug.record import Messages
from kdaug.teacher import Completion, Reporting, Request, ScoringTeacher, Teacher, TokenLogprobs, patiently
from kdaug.teachers.breaker import LONGEST_WISH, Breaker

Result = TypeVar("Result")

# A rate limit says nothing against the request: it gets so many times the tries. Simulated, 64 slots against a limit of
# 500 requests a minute without Retry-After: 6 tries lose 37 % of the requests, 24 lose 0.02 %.
RATE_LIMIT_FACTOR = 4
# Unless it is this one alone that is refused (a prompt above the tokens that a minute has): so many others came
# through meanwhile, and eight times as many as failed.
OTHERS, SHARE = 3, 8


# So many timeouts of one call are enough: each takes all of the timeout, and holds up the jobs behind it. Where one
# call in a hundred hangs by chance, three in a row are one in a million; a prompt that hangs hangs again.
TIMEOUTS = 3


@runtime_checkable
class Repeating(Protocol):
    """A teacher that repeats failed calls. `once`: the same without, for whoever repeats them himself."""

    @property
    def once(self) -> Teacher: ...


@dataclass(eq=False)
class Retry:
    """A teacher that tries again where its inner teacher fails for a passing reason.

    A retryable error is tried `tries` times in all (a rate limit that others meet too four times as often, a timeout
    three times at most) and then raised as it is. Before try n + 1 it waits a random time of at most
    `base` · 2ⁿ⁻¹ seconds, `cap` at most (full jitter, Brooker 2015, AWS Architecture Blog), on top of the time that the
    teacher asked for.

    When no call comes through any more (an outage, or 10 failures in a row), none is given up: all wait while one at a
    time goes out as a probe, at growing intervals, for `patience` seconds (10 where the teacher has never answered);
    then all raise TeacherUnavailable. See `Breaker`. Everything else is raised at once.

    `retries` counts the repeated calls, `waiting` those that wait for their next try right now, `late` those that have
    timed out and are tried again.
    """

    teacher: Teacher
    tries: int = 6
    base: float = 0.5
    cap: float = 30.0
    patience: float = 60.0
    retries: int = field(default=0, init=False)
    waiting: int = field(default=0, init=False)
    late: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError("tries must be at least 1")
        self._random = Random()
        self._breaker = Breaker(self.base, self.cap, self.patience)
        if isinstance(self.teacher, ScoringTeacher):  # an attribute of its own, so that isinstance tells the truth
            self.logprobs = self._logprobs

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def concurrency(self) -> int:
        return self.teacher.concurrency

    @property
    def once(self) -> Teacher:
        return self.teacher

    @property
    def status(self) -> str:
        inner = self.teacher.status if isinstance(self.teacher, Reporting) else ""
        again = f"{self.late} tried again after a timeout" if self.late else ""
        return ", ".join(words for words in (self._breaker.status, again, inner) if words)

    async def open(self, state: Path) -> None:
        await self.teacher.open(state)

    async def generate(self, request: Request) -> Completion:
        return await self._persist(lambda: self.teacher.generate(request), request)

    async def flush(self) -> None:
        await self.teacher.flush()

    async def aclose(self) -> None:
        await self.teacher.aclose()

    async def _logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        scorer = self.teacher
        assert isinstance(scorer, ScoringTeacher)
        return await self._persist(lambda: scorer.logprobs(prompt, completion, top_k), None)

    async def _persist(self, call: Callable[[], Awaitable[Result]], request: Request | None) -> Result:
        past, breaker = _Past(self._breaker.through, self._breaker.fallen), self._breaker
        until = patiently if request is None else request.until
        try:
            while True:
                probe = breaker.open and await self._wait(until(breaker.turn(request, self.name), past.last))
                try:
                    if past.last is not None:
                        self.retries += 1
                        if request is not None:
                            await request.again(request, past.last)
                    result = await call()
                except TeacherError as e:
                    pause = self._weigh(e, past, probe)
                except BaseException:
                    breaker.step_back(probe)
                    raise
                else:
                    breaker.came_through()
                    return result
                if pause is not None:
                    await self._wait(until(asyncio.sleep(pause), past.last))
        finally:
            self.late -= past.timeouts > 0

    def _weigh(self, error: TeacherError, past: _Past, probe: bool) -> float | None:
        """Seconds until the next try, None where the breaker says when. Raises the error where it is the last."""
        breaker, past.last = self._breaker, error
        if not isinstance(error, TeacherUnavailable) and (error.fatal or not error.retryable):
            if error.fatal:
                breaker.step_back(probe)
            else:  # an answer, if not the one that was hoped for
                breaker.came_through()
            raise error
        timed_out, through = isinstance(error, TeacherTimeout), breaker.through - past.through
        hangs = timed_out and past.timeouts > 0 and through >= OTHERS  # this call, and not the teacher
        if breaker.failed(error, probe, alone=hangs):
            return None
        past.failures += 1
        if timed_out:
            self.late += past.timeouts == 0
            past.timeouts += 1
        alone = through >= max(OTHERS, SHARE * (breaker.fallen - past.fallen - past.failures))
        tries = self.tries * RATE_LIMIT_FACTOR if isinstance(error, RateLimited) and not alone else self.tries
        if past.failures >= tries or past.timeouts >= TIMEOUTS:
            raise error
        backoff = self._random.uniform(0, min(self.cap, self.base * 2 ** (past.failures - 1)))
        return min(error.retry_after or 0.0, LONGEST_WISH) + backoff

    async def _wait(self, until: Awaitable[Result]) -> Result:
        self.waiting += 1
        try:
            return await until
        finally:
            self.waiting -= 1


@dataclass(slots=True)
class _Past:
    """What became of a call so far. `through`, `fallen`: how many had come through, and failed, when it began."""

    through: int
    fallen: int
    failures: int = 0
    timeouts: int = 0
    last: TeacherError | None = None
