"""A circuit breaker: when no call to a teacher comes through any more, one call at a time finds out when some do."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from random import Random

from kdaug.errors import TeacherError, TeacherUnavailable
from kdaug.teacher import Request

# Failures in a row, none of them an outage, that open it. Where calls fail by chance with probability p, p^10 is the
# chance that it opens without need: 6e-6 at 0.3, 1e-3 at 0.5; it then costs one pause of `base` seconds.
OPENS_AFTER = 10
FIRST_PATIENCE = 10.0  # seconds; a teacher that has never answered is more likely a wrong address than restarting
LONGEST_WISH = 120.0  # seconds; a teacher that asks for a longer pause is asked again after this


@dataclass(eq=False)
class Breaker:
    """Holds calls back while none comes through.

    It opens when `OPENS_AFTER` calls in a row have failed, or at the first one that nobody answered at all (an outage).
    Then calls wait in `turn`, and one of them after the other goes out as the probe: after up to `base` seconds, then
    twice as many, `cap` at most, and no sooner than the teacher asked for. Any call that comes through closes it. The
    first probe that fails `patience` seconds after it opened is the last one: it and all that wait raise
    TeacherUnavailable.

    A caller of `turn` reports how his call ended, in one of `came_through`, `failed` and `step_back`.
    """

    base: float
    cap: float
    patience: float

    def __post_init__(self) -> None:
        self._random = Random()
        self._answered = False
        self.through, self.fallen = 0, 0  # calls that came through, and that failed
        self._queue: deque[asyncio.Future[str]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._close()

    def _close(self) -> None:
        self.open, self._probing, self._row = False, False, 0
        self._opened = self._next = 0.0
        self._words = ""

    @property
    def status(self) -> str:
        if not self.open:
            return ""
        now = clock()
        when = "trying one call" if self._probing else f"one call in {max(0.0, self._next - now):.0f} s"
        return f"nothing comes through for {now - self._opened:.0f} s, {when}"

    async def turn(self, request: Request | None, teacher: str) -> bool:
        """Waits while it is open; whether this call is the probe. Raises TeacherUnavailable when patience ends."""
        if not self.open:
            return False
        loop = asyncio.get_running_loop()
        if not self._probing and loop.time() >= self._next:
            self._probing = True
            return True
        waiting: asyncio.Future[str] = loop.create_future()
        self._queue.append(waiting)
        self._set_timer()
        try:
            verdict = await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.result() == PROBE:
                self.step_back(True)
            raise
        if verdict not in (PROBE, GO):
            raise TeacherUnavailable(verdict, request=request, teacher=teacher)
        return verdict == PROBE

    def came_through(self) -> None:
        self._answered = True
        self.through += 1
        if self._row:
            self._close()
            self._wake_all(GO)

    def failed(self, error: TeacherError, probe: bool, alone: bool = False) -> bool:
        """A call failed for a passing reason. Whether it is open: then nothing is held against the single call.
        `alone`: it is known to fail where others come through, so it says nothing of the teacher.

        Raises TeacherUnavailable when this was the last probe.
        """
        now = clock()
        outage = isinstance(error, TeacherUnavailable)
        self.fallen += 1
        self._answered = self._answered or not outage
        self._row += not alone
        opening = not self.open and (outage or self._row >= OPENS_AFTER)
        if opening:
            self.open, self._opened, self._pause = True, now, self.base
        if probe:
            self._probing = False
        if opening or (probe and self.open):
            self._wait_on(error, now)
        return self.open

    def step_back(self, probe: bool) -> None:
        """The call was not made after all, or says nothing about the others: the next one that waits takes its turn."""
        if probe and self.open:
            self._probing = False
            self._set_timer()

    def _wait_on(self, error: TeacherError, now: float) -> None:
        patience = self.patience if self._answered else min(self.patience, FIRST_PATIENCE)
        down = now - self._opened
        if down >= patience:
            words = f"{error} (tried {self._row} times in {down:.0f} s)"
            self._close()
            self._wake_all(words)
            raise TeacherUnavailable(words, request=error.request, teacher=error.teacher) from error
        pause = min(self._pause * self._random.uniform(0.5, 1.0), patience - down)
        self._pause = min(self.cap, 2 * self._pause)
        self._next = now + max(pause, min(error.retry_after or 0.0, LONGEST_WISH))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue and self.open and not self._probing:
            self._timer = asyncio.get_running_loop().call_at(self._next, self._send_probe)

    def _send_probe(self) -> None:
        self._timer = None
        while self._queue and self.open and not self._probing:
            waiting = self._queue.popleft()
            if not waiting.done():
                self._probing = True
                waiting.set_result(PROBE)

    def _wake_all(self, verdict: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_result(verdict)


def clock() -> float:
    """The event loop's time, in seconds; outside of it, where a status may be asked for, that of its usual clock."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


PROBE, GO = "probe", "go"  # what a waiting call is told; anything else is why it is given up
