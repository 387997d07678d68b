"""Limits of an endpoint: requests and tokens a minute, calls in flight, and the pauses that it asks for."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from kdaug.calls import Closing
from kdaug.errors import BadRequest, ConfigError, RateLimited, ServerError, TeacherError, TeacherTimeout
from kdaug.record import Messages
from kdaug.teacher import Completion, Reporting, Request, ScoringTeacher, Teacher, TokenLogprobs, Until, patiently
from kdaug.teachers.breaker import LONGEST_WISH, clock
from kdaug.teachers.slots import Slots

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds, where it refuses and does not say for how long; doubled each time
# Of so many outcomes, a share of refusals that is no limit: at 3 % by chance, 98 of 100 windows stay below.
RECENT, LONE = 32, 1 / 8
LATE = 3  # timeouts in a row are a refusal; one alone is an accident (at a rate of 1 %, three are 1 in a million calls)
BURST = 1.0  # seconds' worth that may go at once; a minute then refills what is left of the limit
BYTES_PER_TOKEN = 4.0  # of English text; corrected by what the usage says
LEARNED_OVER = 100  # calls over which the token estimate is averaged


@dataclass(eq=False)
class Limit:
    """A teacher whose limits are kept.

    `rpm` and `tpm`: requests and tokens (prompt and completion) a minute, in any minute. A call's tokens are estimated
    before it is sent, and the difference is made up once its usage is known: a token of the prompt is 4 bytes, a
    completion has `max_tokens`, and both are scaled by what the usage of the last 100 calls or so said of that. A call
    that failed keeps its estimate. (A provider that counts `max_tokens` itself, as Azure does, refuses earlier.) A call
    of more tokens than `tpm` is never sent: ConfigError where it is among the first ones, else BadRequest.

    `adaptive`: fewer calls than `concurrency` are in flight while the teacher refuses some or has them wait, see
    `Slots`. A refusal pauses all calls, for as long as it asks (at most 120 s), else 0.5 s, doubled each time; one that
    comes alone among many answers is that call's own affair, which waits by itself.

    `status` says in a few words what holds calls back; it is empty when nothing does.
    """

    teacher: Teacher
    rpm: float | None = None
    tpm: float | None = None
    adaptive: bool = True

    def __post_init__(self) -> None:
        if any(rate is not None and rate <= 0 for rate in (self.rpm, self.tpm)):
            raise ConfigError("rpm and tpm must be more than zero")
        self._requests = _Bucket(self.rpm) if self.rpm else None
        self._tokens = _Bucket(self.tpm) if self.tpm else None
        self._estimate = _Estimate()
        self._slots = Slots(self.teacher.concurrency)
        self._flying = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._recent: deque[bool] = deque(maxlen=RECENT)  # which of the last calls were refused
        self._paused_until, self._refusals, self._late, self._why = 0.0, 0, 0, ""
        if isinstance(self.teacher, ScoringTeacher):  # an attribute of its own, so that isinstance tells the truth
            self.logprobs = self._logprobs

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def concurrency(self) -> int:
        return self.teacher.concurrency

    @property
    def room(self) -> int:
        """How many more calls could be sent now: none in a pause."""
        paused = self._paused_until and clock() < self._paused_until
        return 0 if paused else max(0, int(self._slots.limit) - self._flying - len(self._waiting))

    @property
    def resumes(self) -> float:
        """When the pause ends, on the event loop's clock; 0 or past where there is none."""
        return self._paused_until

    @property
    def status(self) -> str:
        words, slots = [], int(self._slots.limit)
        if slots < self.concurrency:
            words.append(f"{slots} of {self.concurrency} slots")
        if (left := self._paused_until - clock()) > 0:
            words.append(f"pausing {left:.0f} s after {self._why}")
        elif self._waiting and self._flying < slots:
            rates = [(self.rpm, self._requests, "requests"), (self.tpm, self._tokens, "tokens")]
            needs = (1.0, self._waiting[0][1])
            words += [
                f"at {rate:,.0f} {what} a minute"
                for (rate, bucket, what), need in zip(rates, needs, strict=True)
                if bucket and bucket.level < max(1.0, need)
            ]
        if isinstance(self.teacher, Reporting) and (inner := self.teacher.status):
            words.append(inner)
        return ", ".join(words)

    async def open(self, state: Path) -> None:
        await self.teacher.open(state)

    async def generate(self, request: Request) -> Completion:
        cost = self._cost(request) if self.tpm else 0.0
        sent = await self._enter(cost, request.until)
        try:
            completion = await self.teacher.generate(request)
        except TeacherError as e:
            self._failed(e, sent)
            raise
        else:
            used = completion.usage
            if self._tokens and (used.prompt_tokens or used.completion_tokens):
                self._tokens.level += cost - used.prompt_tokens - used.completion_tokens
                self._estimate.learn(request, used.prompt_tokens, used.completion_tokens)
            self._came_through(sent, used.completion_tokens)
            return completion
        finally:
            self._leave()

    async def flush(self) -> None:
        await self.teacher.flush()

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.teacher.aclose()

    async def _logprobs(self, prompt: Messages, completion: Messages, top_k: int) -> TokenLogprobs:
        """Counts as a request; of tokens a minute only the calls that generate know."""
        scorer = self.teacher
        assert isinstance(scorer, ScoringTeacher)
        sent = await self._enter(0.0, patiently)
        try:
            return await scorer.logprobs(prompt, completion, top_k)
        except TeacherError as e:
            self._failed(e, sent)
            raise
        finally:
            self._leave()

    def _cost(self, request: Request) -> float:
        """In tokens. Raises ConfigError where no minute has as many, BadRequest where other calls had less."""
        assert self.tpm is not None
        cost = self._estimate.of(request)
        if cost <= self.tpm:
            return cost
        words = (
            f"a request of about {cost:,.0f} tokens (max_tokens is {request.sampling.max_tokens:,}) is larger than "
            f"tpm={self.tpm:g}, what may be sent in a minute: give a higher tpm or a lower max_tokens"
        )
        if self._estimate.learned:  # this record is longer than others: it alone cannot be asked
            raise BadRequest(f"{self.name}: {words}", request=request, teacher=self.name)
        raise ConfigError(f"{self.name}: {words}")

    async def _enter(self, cost: float, until: Until) -> float:
        """Waits for its turn, first come first served; the time at which it is over."""
        now = clock()
        if self._waiting or self._wait(now, cost) > 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((turn, cost))
            self._admit()
            try:
                await until(turn)
            except (asyncio.CancelledError, Closing):
                if turn.done() and not turn.cancelled():  # its turn had come in the same moment
                    self._leave()
                raise
            return clock()
        self._take(cost)
        return now

    def _leave(self) -> None:
        self._flying -= 1
        if self._waiting:
            self._admit()

    def _take(self, cost: float) -> None:
        self._flying += 1
        if self._requests:
            self._requests.level -= 1.0
        if self._tokens:
            self._tokens.level -= cost

    def _wait(self, now: float, cost: float) -> float:
        """Seconds until a call may be sent; infinite until one that is in flight ends."""
        if self._flying >= int(self._slots.limit):
            return float("inf")
        wait = self._paused_until - now if self._paused_until else 0.0
        if self._requests:
            wait = max(wait, self._requests.wait(now, 1.0))
        if self._tokens:
            wait = max(wait, self._tokens.wait(now, cost))
        return wait

    def _admit(self) -> None:
        """Lets in as many of those that wait as may be; a timer comes back for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = clock()
        while self._waiting:
            turn, cost = self._waiting[0]
            if not turn.done():
                wait = self._wait(now, cost)
                if wait > 0:
                    if wait < float("inf"):
                        self._timer = asyncio.get_running_loop().call_later(wait, self._admit)
                    return
                self._take(cost)
                turn.set_result(None)
            self._waiting.popleft()

    def _came_through(self, sent: float, tokens: int) -> None:
        self._refusals = self._late = 0
        self._recent.append(False)
        if self.adaptive:
            self._slots.came_through(sent, clock(), tokens, self._flying)

    def _failed(self, error: TeacherError, sent: float) -> None:
        now = clock()
        asked = isinstance(error, ServerError) and error.retry_after is not None
        refused = isinstance(error, RateLimited) or asked
        late = isinstance(error, TeacherTimeout)
        self._late += late
        if refused:
            self._recent.append(True)
            if sum(self._recent) <= LONE * len(self._recent):
                return
        if self.adaptive and (refused or (late and self._late >= LATE)):
            self._slots.refused(sent, now, self._flying)
        if not refused:
            return
        if error.retry_after:
            pause = min(error.retry_after, LONGEST_WISH)
        elif sent >= self._paused_until:  # one of many that were refused together adds nothing
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._refusals)
            self._refusals += 1
        else:
            return
        if now + pause > self._paused_until:
            self._paused_until, self._why = now + pause, "429" if isinstance(error, RateLimited) else "503"


class _Bucket:
    """A budget that refills evenly; `level` may fall below zero, where a call took more than was thought."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute, self._burst, self.level, self._seen = per_minute, 0.0, 0.0, 0.0
        self._widen(per_minute / 60 * BURST)

    def wait(self, now: float, cost: float) -> float:
        """Seconds until `cost` may be taken."""
        if cost > self._burst:
            self._widen(cost)
        self.level = min(self._burst, self.level + (now - self._seen) * self._rate)
        self._seen = now
        short = cost - self.level
        return short / self._rate if short > 1e-9 else 0.0

    def _widen(self, burst: float) -> None:
        """It holds the largest call. What it may give at once is taken off what refills it, so that both together keep
        the limit in any minute (but for a call of more than half the limit)."""
        self.level += burst - self._burst
        self._burst, self._rate = burst, max(self._per_minute - burst, self._per_minute / 2) / 60


class _Estimate:
    """The tokens of a call, before it is made: `max_tokens` and bytes / 4, each times what was learned."""

    def __init__(self) -> None:
        self._prompt, self._completion, self._calls = 1.0, 1.0, 0

    @property
    def learned(self) -> bool:
        return self._calls > 0

    def of(self, request: Request) -> float:
        return self._prompt * _size(request) + self._completion * request.sampling.max_tokens

    def learn(self, request: Request, prompt_tokens: int, completion_tokens: int) -> None:
        self._calls = min(self._calls + 1, LEARNED_OVER)
        weight = 1 / self._calls
        self._prompt += weight * (prompt_tokens / max(1.0, _size(request)) - self._prompt)
        self._completion += weight * (completion_tokens / request.sampling.max_tokens - self._completion)


def _size(request: Request) -> float:
    return sum(len(message.content.encode()) for message in request.messages) / BYTES_PER_TOKEN
