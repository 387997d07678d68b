"""How many calls an endpoint can use at once, learned from how it answers.

A refusal (429, 503, a timeout) halves the slots. Towards the number that was last too many they grow back by half the
distance a round, beyond it by 1, 2, 4 … a window (binary increase, Xu, Harfoush and Rhee 2004, INFOCOM).

A saturated server that queues refuses nothing: its calls just take longer. Longer calls alone prove little (the
server may be slow for others' sake, the replies long), so the slots are halved on trial: where calls then take half
the time, the other half of them had only been waiting, and stays out; else all come back. A trial is due when a
window of calls takes more than GROWTH times as long as the fastest recent one, and now and then without any cause, for
a server that was saturated from the start.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import log

# Simulated (tests/teachers/simulation.py), 128 slots, calls of 1 s (lognormal, sigma 0.6):
CUT = 0.5  # against a hard limit of 40 calls in flight, Retry-After 1 s: see the table in docs/benchmarks.md
WINDOW = 64  # calls; the mean log latency then has a standard error of 0.6 / 8 = 0.075
RECENT = 20  # windows
# A healthy window lies at most 0.3 above the lowest of 20 (4 standard errors); log 2 = 0.69 is out of its reach.
GROWTH = 2.0
# With half the calls in flight a saturated server takes 0.5 of the time, a healthy one all of it. 0.6 is 1.7 standard
# errors (0.106, of a difference) above the one and 4.8 below the other: a trial of too few costs more than one missed.
FELL = 0.6
FIRST_TRIAL = 32  # windows until the first trial without a cause; then twice as many, and so on
BUSY = 0.75  # a window with fewer of its slots in use says nothing about their number
QUICK = 0.1  # seconds; below, it is our own event loop that one would measure


@dataclass(frozen=True, slots=True)
class Pace:
    """Mean log seconds a call and a token: lower is faster. Only what grew in both is slower, for replies differ in
    length."""

    call: float
    token: float

    def over(self, other: Pace) -> float:
        return min(self.call - other.call, self.token - other.token)


@dataclass(eq=False)
class Slots:
    """At most `most` calls; `limit` of them may be in flight now. All times are seconds of one clock."""

    most: int
    limit: float = field(init=False)
    trials: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.limit = self._ceiling = float(self.most)
        self._step = 1.0
        self._recent: deque[Pace] = deque(maxlen=RECENT)
        self._on_trial: tuple[float, Pace] | None = None  # the limit and the pace before it
        self._due = self._interval = FIRST_TRIAL
        self._count = self._peak = 0  # of the window, as are the sums of the log seconds a call and a token
        self._calls = self._tokens = 0.0
        self._cut_at = self._since = 0.0

    def came_through(self, sent: float, now: float, tokens: int, flying: int) -> None:
        """A call that was sent at `sent` was answered with so many tokens; `flying` were in flight, itself included."""
        if sent < self._since:
            return  # it flew among another number of calls
        if self.limit < self._ceiling and self._on_trial is None:
            self.limit = min(self._ceiling, self.limit + max(1.0, (self._ceiling - self.limit) / 2) / self.limit)
        seconds = log(max(now - sent, 1e-6))
        self._count += 1
        self._calls += seconds
        self._tokens += seconds - log(max(1, tokens))
        self._peak = max(self._peak, flying)
        if self._count >= max(WINDOW, self.limit):
            self._judge(now)

    def refused(self, sent: float, now: float, flying: int) -> bool:
        """A call was turned away, or timed out. Many do at once: only those sent since the last cut count."""
        if sent < self._cut_at:
            return False
        self._ceiling = max(1.0, min(self.limit, flying))
        self.limit = max(1.0, self._ceiling * CUT)
        self._step, self._on_trial, self._cut_at = 1.0, None, now
        self._begin(now)
        return True

    def _begin(self, now: float) -> None:
        """A new window, of calls that are sent from now on."""
        self._since = now
        self._clear()

    def _clear(self) -> None:
        self._count = self._peak = 0
        self._calls = self._tokens = 0.0

    def _judge(self, now: float) -> None:
        pace, busy = Pace(self._calls / self._count, self._tokens / self._count), self._peak >= BUSY * self.limit
        self._clear()
        if self._on_trial is not None:
            self._end_trial(pace, busy, now)
        elif busy and pace.call > log(QUICK):
            self._due -= 1
            grown = any(pace.over(other) > log(GROWTH) for other in self._recent)
            self._recent.append(pace)
            if grown or self._due <= 0:
                self._try_half(pace, now)
            else:
                self._raise_ceiling()
        else:
            self._raise_ceiling()

    def _raise_ceiling(self) -> None:
        if self.limit > self._ceiling - 1 and self._ceiling < self.most:
            self._ceiling = min(float(self.most), self._ceiling + self._step)
            self._step *= 2

    def _try_half(self, pace: Pace, now: float) -> None:
        if self.limit >= 2:
            self._on_trial = self.limit, pace
            self.limit, self.trials = self.limit / 2, self.trials + 1
            self._begin(now)

    def _end_trial(self, pace: Pace, busy: bool, now: float) -> None:
        assert self._on_trial is not None
        (limit, before), self._on_trial = self._on_trial, None
        if busy and before.over(pace) > -log(FELL):
            best = all(pace.over(other) < 0 for other in self._recent)
            self._recent.append(pace)
            self._ceiling, self._step, self._interval = self.limit, 1.0, FIRST_TRIAL
            self._due = self._interval
            if best:  # half as many may be better still
                self._try_half(pace, now)
        else:  # not our doing: this is its pace now
            self.limit = limit
            self._recent.clear()
            self._interval *= 2
            self._due = self._interval
            self._begin(now)
