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
from functools import reduce
from math import exp, log

# All simulated with tests/simulated.py: 128 slots, calls of 1 s (lognormal, sigma 0.6), 300 s or more.
# Of what a server with a hard limit of 40 in flight can do, a cut to 0.5 / 0.7 / 0.85 uses 80 / 83 / 85 % where it
# asks for 1 s after a refusal, 40 / 37 / 30 % for 10 s, and it refuses 2.2 / 2.7 / 4.3 % of the calls.
CUT = 0.5
WINDOW = 64  # calls; the mean log latency then has a standard error of 0.6 / 8 = 0.075
RECENT = 20  # windows
# A healthy window lies at most 0.3 above the lowest of 20 (4 standard errors); log 2 = 0.69 is out of its reach.
GROWTH = 2.0
# With half the calls in flight a saturated server takes 0.5 of the time, a healthy one all of it. 0.6 is 1.7 standard
# errors (0.106, of a difference) above the one and 4.8 below the other: a trial of too few costs more than one missed.
FELL = 0.6
SAME = 0.3  # of the log: paces nearer to each other than this (4 standard errors) are the same
# Until the first trial without a cause; twice as long after each that was in vain. A healthy server then does 99.5 % of
# what it can in 10 minutes, one with calls of 1 to 20 s 98 %; after 8 windows 96 %. One that works on 20 calls at once
# has 28 in flight after 5 minutes, not 128, and 97 % of its time is used.
TRIAL_WINDOWS, TRIAL_SECONDS = 16, 60.0
FEW = 8  # slots; no trial goes below, as a trial of so few takes long and so short a queue does no harm
IN_COMMON = 8.0  # as much as two windows of 16 calls of one length have
BUSY = 0.75  # a window with fewer of its slots in use says nothing about their number
QUICK = 0.1  # seconds; below, it is our own event loop that one would measure


class Pace:
    """How long calls took: the mean log seconds of those whose replies have about the same length, from 2^n tokens to
    twice as many, so that like is compared with like."""

    def __init__(self) -> None:
        self.calls = 0
        self._by_length: dict[int, tuple[int, float]] = {}  # calls, log seconds

    def add(self, seconds: float, tokens: int) -> None:
        length = tokens.bit_length()
        calls, logs = self._by_length.get(length, (0, 0.0))
        self._by_length[length] = calls + 1, logs + log(max(seconds, 1e-6))
        self.calls += 1

    @property
    def quick(self) -> bool:
        return sum(logs for _, logs in self._by_length.values()) < self.calls * log(QUICK)

    def over(self, other: Pace) -> float:
        """By how much it is slower: the difference of the logs, weighted by how well it is known; 0 where the two have
        too little in common."""
        weights = differences = 0.0
        for length, (calls, logs) in self._by_length.items():
            others, their_logs = other._by_length.get(length, (0, 0.0))
            if others:
                weight = calls * others / (calls + others)
                weights += weight
                differences += weight * (logs / calls - their_logs / others)
        return differences / weights if weights >= IN_COMMON else 0.0


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
        self._gain = 2.0  # of the step, from window to window
        self._interval, self._windows, self._tried_at = 1, 0, 0.0
        self._pace, self._peak = Pace(), 0  # of the window
        self._cut_at = self._since = 0.0

    def came_through(self, sent: float, now: float, tokens: int, flying: int) -> None:
        """A call that was sent at `sent` was answered with so many tokens; `flying` were in flight, itself included."""
        self._tried_at = self._tried_at or now
        if sent < self._since:
            return  # it flew among another number of calls
        if self.limit < self._ceiling and self._on_trial is None:
            self.limit = min(self._ceiling, self.limit + max(1.0, (self._ceiling - self.limit) / 2) / self.limit)
        self._pace.add(now - sent, tokens)
        self._peak = max(self._peak, flying)
        if self._pace.calls >= max(WINDOW, self.limit):
            self._judge(now)

    def refused(self, sent: float, now: float, flying: int) -> bool:
        """A call was turned away (or timed out). Many are at once: only those sent since the last cut count."""
        if sent < self._cut_at:
            return False
        self._ceiling = max(1.0, min(self.limit, flying))
        self.limit = max(1.0, self._ceiling * CUT)
        self._step, self._gain, self._on_trial, self._cut_at = 1.0, 2.0, None, now
        self._begin(now)
        return True

    def _begin(self, now: float) -> None:
        """A new window, of calls that are sent from now on."""
        self._since = now
        self._pace, self._peak = Pace(), 0

    def _judge(self, now: float) -> None:
        pace, busy = self._pace, self._peak >= BUSY * self.limit
        # Only calls sent from now on, in a trial and before it: those that take long are missing in both alike.
        self._begin(now)
        if self._on_trial is not None:
            self._end_trial(pace, busy, now)
        elif busy and not pace.quick:
            grown = any(pace.over(other) > log(GROWTH) for other in self._recent)
            growing = bool(self._recent) and pace.over(self._recent[-1]) > SAME  # a trial needs to know by how much
            self._recent.append(pace)
            if (grown and not growing) or self._is_due(now):
                self._try_half(pace, now)
            else:
                self._raise_ceiling()
        else:
            self._raise_ceiling()

    def _raise_ceiling(self) -> None:
        if self.limit > self._ceiling - 1 and self._ceiling < self.most:
            self._ceiling = min(float(self.most), self._ceiling + self._step)
            self._step *= self._gain

    def _is_due(self, now: float) -> bool:
        self._windows += 1
        long = now - self._tried_at >= self._interval * TRIAL_SECONDS
        return long and self._windows >= self._interval * TRIAL_WINDOWS

    def _try_half(self, pace: Pace, now: float) -> None:
        if self.limit >= 2 * FEW:
            self._on_trial = self.limit, pace
            self.limit, self.trials = self.limit / 2, self.trials + 1
            self._windows, self._tried_at = 0, now

    def _end_trial(self, pace: Pace, busy: bool, now: float) -> None:
        assert self._on_trial is not None
        (limit, before), self._on_trial = self._on_trial, None
        if busy and before.over(pace) > -log(FELL):
            best = reduce(lambda a, b: b if a.over(b) > 0 else a, self._recent, before)
            self._recent.append(pace)
            # What half of them took of the time says how many were worked on (Little's law).
            self.limit = min(limit, self.limit * max(1.0, 2 * exp(-before.over(pace))))
            self._ceiling, self._step, self._gain, self._interval = self.limit, 1.0, 1.0, 1
            if abs(pace.over(best)) > SAME:  # fewer may be better still
                self._try_half(pace, now)
        else:  # not our doing: this is its pace now
            self.limit = limit
            self._recent.clear()
            self._interval *= 2
