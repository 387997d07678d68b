"""Several endpoints or keys as one teacher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TypeVar

from kdaug.errors import AccessDenied, ConfigError, RateLimited, TeacherError, TeacherUnavailable
from kdaug.record import Messages
from kdaug.teacher import Completion, Reporting, Request, ScoringTeacher, Teacher, TokenLogprobs, Until, patiently
from kdaug.teachers.breaker import clock
from kdaug.teachers.limit import Limit
from kdaug.teachers.retry import Repeating, Retry

Result = TypeVar("Result")

FIRST_REST, LONGEST_REST = 1.0, 60.0  # seconds; doubled each time, as a restart takes seconds or minutes
DENIED_REST = 60.0  # seconds; as long as an Endpoint remembers it
# Failures in a row, none an outage, that send an endpoint to rest. At a failure by chance in ten calls that is one rest
# in 1,000 calls, of a second, which the others bridge.
RESTS_AFTER = 3


@dataclass(eq=False)
class Route:
    """Several teachers as one: each request goes to the least loaded one, for its concurrency.

    A teacher that cannot be reached, denies access or fails three times in a row is rested, for 1 s and then twice as
    long each time, 60 s at most, and comes back when a single call has come through. One that is rate limited pauses
    as it asks. A request that failed for its teacher's reason goes to another one at once; only when it has failed at
    all of them it waits, as `Retry` says with `tries` and `patience` (the teachers' own retries are not used). When
    every teacher denies access, AccessDenied is raised.

    `concurrency` is the sum; `name` is the name of all where they have the same one, so a run can go on with more or
    fewer of them, else the names with | between. It scores where all teachers do.
    """

    teachers: Sequence[Teacher]
    _: KW_ONLY
    tries: int = 6
    patience: float = 60.0

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ConfigError("a route needs at least one teacher")
        if held := [t.name for t in self.teachers if getattr(t, "holds_back", False)]:
            raise ConfigError(f"{held[0]} holds its requests back: it cannot share a route")
        self._whole = Retry(_Choice([_Lane(_limited(t)) for t in self.teachers]), self.tries, patience=self.patience)
        if isinstance(self._whole, ScoringTeacher):  # an attribute of its own, so that isinstance tells the truth
            self.logprobs = self._whole.logprobs

    @property
    def name(self) -> str:
        return self._whole.name

    @property
    def concurrency(self) -> int:
        return self._whole.concurrency

    @property
    def once(self) -> Teacher:
        """Without waiting when a request failed at all teachers."""
        return self._whole.once

    @property
    def status(self) -> str:
        return self._whole.status

    async def open(self, state: Path) -> None:
        await self._whole.open(state)

    async def generate(self, request: Request) -> Completion:
        return await self._whole.generate(request)

    async def flush(self) -> None:
        await self._whole.flush()

    async def aclose(self) -> None:
        await self._whole.aclose()


def _limited(teacher: Teacher) -> Limit:
    """A teacher without its own repeating, as whoever waits for one endpoint could ask another."""
    once = teacher.once if isinstance(teacher, Repeating) else teacher
    return once if isinstance(once, Limit) else Limit(once, adaptive=False)


@dataclass(eq=False)
class _Lane:
    """One teacher of a route, and how it fares."""

    teacher: Limit
    flying: int = 0
    failures: int = 0  # in a row
    rests: int = 0  # in a row
    rests_until: float = 0.0
    error: TeacherError | None = None  # that sent it to rest

    @property
    def load(self) -> float:
        return self.flying / self.teacher.concurrency

    def awake(self, now: float) -> bool:
        """Whether calls may go there; after a rest one alone, until it has come through."""
        return self.error is None or (now >= self.rests_until and not self.flying)

    def came_through(self) -> None:
        self.failures, self.rests, self.error = 0, 0, None

    def failed(self, error: TeacherError, now: float) -> None:
        if isinstance(error, RateLimited):  # its Limit pauses
            return
        self.failures += 1
        if not error.fatal and self.error is None and self.failures < RESTS_AFTER:
            return
        if self.error is not None and now < self.rests_until:
            return  # it was sent before the rest
        self.error = error
        rest = DENIED_REST if isinstance(error, AccessDenied) else min(LONGEST_REST, FIRST_REST * 2**self.rests)
        self.rests += 1
        self.rests_until = now + rest


@dataclass(eq=False)
class _Choice:
    """Sends each request to the best of its lanes, and on to the next one where it fails for the lane's reason."""

    lanes: list[_Lane]
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        if all(isinstance(lane.teacher, ScoringTeacher) for lane in self.lanes):
            self.logprobs = self._logprobs

    @property
    def name(self) -> str:
        return "|".join(sorted({lane.teacher.name for lane in self.lanes}))

    @property
    def concurrency(self) -> int:
        return sum(lane.teacher.concurrency for lane in self.lanes)

    @property
    def status(self) -> str:
        return "; ".join(words for number, lane in enumerate(self.lanes, 1) if (words := _fares(number, lane)))

    async def open(self, state: Path) -> None:
        for number, lane in enumerate(self.lanes):
            folder = state / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            await lane.teacher.open(folder)

    async def generate(self, request: Request) -> Completion:
        return await self._somewhere(lambda teacher: teacher.generate(request), request)

    async def flush(self) -> None:
        for lane in self.lanes:
            await lane.teacher.flush()

    async def aclose(self) -> None:
        for lane in self.lanes:
            await lane.teacher.aclose()

    async def _logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        return await self._somewhere(lambda teacher: teacher.logprobs(prompt, completion, top_k), None)

    async def _somewhere(self, call: Callable[[Limit], Awaitable[Result]], request: Request | None) -> Result:
        failed: dict[int, TeacherError] = {}  # by the lane's identity
        until = patiently if request is None else request.until
        while (lane := await self._lane(failed, until)) is not None:
            if failed and request is not None:
                await request.again(request, list(failed.values())[-1])
            lane.flying += 1
            try:
                result = await call(lane.teacher)
            except TeacherError as e:
                if not (e.retryable or e.fatal):  # the request's own fault
                    lane.came_through()
                    raise
                lane.failed(e, clock())
                failed[id(lane)] = e
            else:
                lane.came_through()
                return result
            finally:
                lane.flying -= 1
                self._wake()
        raise self._verdict(list(failed.values()))

    async def _lane(self, failed: dict[int, TeacherError], until: Until) -> _Lane | None:
        """The least loaded lane with room where this request has not failed; waits for one. None: it failed at all."""
        while True:
            now = clock()
            left = [lane for lane in self.lanes if id(lane) not in failed and lane.awake(now)]
            if open_ := [lane for lane in left if lane.teacher.room > 0]:
                return min(open_, key=lambda lane: lane.load)
            if not left:
                # Where all rest, whoever comes here is a probe: Retry sees to it that there are few.
                return None if failed else min(self.lanes, key=lambda lane: lane.rests_until)
            ends = [lane.teacher.resumes for lane in left] + [lane.rests_until for lane in self.lanes]
            last = next(reversed(failed.values()), None)
            await until(self._room(min((end - now for end in ends if end > now), default=None)), last)

    async def _room(self, seconds: float | None) -> None:
        """Waits until a call has ended, so many seconds at most."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiting)
        timer = loop.call_later(seconds, _resolve, waiting) if seconds is not None else None
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._wake()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    def _verdict(self, errors: list[TeacherError]) -> TeacherError:
        """What a request that came through nowhere fails with: a denial only where every lane denies."""
        resting = [lane.error for lane in self.lanes if lane.error is not None]
        passing = [e for e in (*resting, *errors) if not isinstance(e, AccessDenied)]
        return passing[-1] if passing else errors[-1]


def _fares(number: int, lane: _Lane) -> str:
    words = lane.teacher.status if isinstance(lane.teacher, Reporting) else ""
    if lane.error is not None:
        why = "no connection" if isinstance(lane.error, TeacherUnavailable) else lane.error.reason.partition(":")[2]
        words = f"resting {max(0.0, lane.rests_until - clock()):.0f} s after {why.replace('_', ' ')}"
    return f"{number}: {words}" if words else ""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
