"""Endpoints that exist in virtual time only: what they do depends on their load, and they count what they see."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from kdaug.errors import RateLimited, TeacherError, TeacherTimeout
from kdaug.record import user
from kdaug.teacher import Completion, Request, Teacher, Usage

HELLO = Request(user("Hello."))


@dataclass(eq=False)
class Simulated:
    """A teacher that takes `base` + `per_token` · tokens seconds (times a lognormal factor of mean 1).

    Beyond `works_on` calls at once the others queue for their turn; beyond `refuses_over` in flight it answers 429,
    as it does beyond `rate` requests a second, and while `down` is set, which is raised.
    """

    base: float = 1.0
    per_token: float = 0.0
    sigma: float = 0.6
    lengths: tuple[int, ...] = (100,)
    works_on: int | None = None
    refuses_over: int | None = None
    rate: float | None = None
    retry_after: float | None = None
    timeout: float = 120.0
    down: TeacherError | None = None
    name: str = "simulated"
    concurrency: int = 128
    seed: int = 0
    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    used: list[tuple[float, int]] = field(default_factory=list)  # when, tokens
    refused: int = 0
    flying: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._hands: list[float] = []  # when each hand is free
        self._bucket, self._seen = 0.0, 0.0

    async def open(self, state: Path) -> None:
        pass

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def generate(self, request: Request) -> Completion:
        loop = asyncio.get_running_loop()
        self.sent.append(loop.time())
        self.flying += 1
        self.peak = max(self.peak, self.flying)
        try:
            if self.down is not None:
                await asyncio.sleep(0.01)
                raise self.down
            if (self.refuses_over and self.flying > self.refuses_over) or not self._within_rate(loop.time()):
                self.refused += 1
                await asyncio.sleep(0.05)
                raise RateLimited("slow down", retry_after=self.retry_after)
            tokens = self._random.choice(self.lengths)
            factor = self._random.lognormvariate(-(self.sigma**2) / 2, self.sigma)
            wait = self._queue(loop.time(), (self.base + self.per_token * tokens) * factor)
            await asyncio.sleep(min(wait, self.timeout))
            if wait > self.timeout:
                raise TeacherTimeout("no complete reply in time")
            asked = sum(len(m.content) for m in request.messages) // 4
            self.answered.append(loop.time())
            self.used.append((loop.time(), asked + tokens))
            return Completion("fine", usage=Usage(asked, tokens))
        finally:
            self.flying -= 1

    def _queue(self, now: float, seconds: float) -> float:
        if self.works_on is None:
            return seconds
        free = now if len(self._hands) < self.works_on else max(now, heapq.heappop(self._hands))
        heapq.heappush(self._hands, free + seconds)
        return free + seconds - now

    def _within_rate(self, now: float) -> bool:
        if self.rate is None:
            return True
        self._bucket = min(max(1.0, self.rate), self._bucket + (now - self._seen) * self.rate)
        self._seen = now
        if self._bucket < 1:
            return False
        self._bucket -= 1
        return True


async def keep_busy(teacher: Teacher, seconds: float, request: Request = HELLO) -> list[TeacherError]:
    """As many calls as the teacher takes, for so long; the errors that came of them."""
    loop, errors = asyncio.get_running_loop(), list[TeacherError]()
    end = loop.time() + seconds

    async def worker() -> None:
        while loop.time() < end:
            try:
                await teacher.generate(request)
            except TeacherError as e:
                errors.append(e)

    await asyncio.gather(*(worker() for _ in range(teacher.concurrency)))
    return errors


def busiest(times: list[float], window: float) -> int:
    """The most that fell into any window of so many seconds."""
    most, first = 0, 0
    times = sorted(times)
    for last, time in enumerate(times):
        while time - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most
