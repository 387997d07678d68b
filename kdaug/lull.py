"""When nothing moves: every live job waits for a teacher that holds requests back until it is told to send them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

Place = tuple[int, int]  # stage, job
# What a call to a teacher that holds requests back waits for: a slot, a part of the budget that other calls may give
# back, or the reply.
WaitsFor: TypeAlias = Literal["slot", "money", "reply"]

# Turns of the event loop in which nothing may have moved. From the end of a job to the start of the next one it takes
# about five: the job's task, the shield round it, the settling hand, the feeding hand, the new job's first step.
QUIET_TURNS = 20


class InFlight(Protocol):
    """`held` of the calls `in_flight` wait for a teacher that holds requests back."""

    in_flight: int
    held: int


class Lull:
    """Sets `here` whenever no job of a run can go on before what is held back is sent.

    A job cannot go on where one of its calls is held back. So a lull is here when that is so of all jobs, when no call
    waits for a teacher that answers by itself or for the journal, and when the loop has had time for all else. `say` is
    told once where the jobs make several such calls in turn.
    """

    def __init__(self, calls: InFlight, say: Callable[[str], None]) -> None:
        self.here = asyncio.Event()
        self._calls, self._say = calls, say
        self._jobs = 0
        self._waiting: Counter[Place] = Counter()
        self._unsent: set[Place] = set()
        self._rounds: Counter[Place] = Counter()  # lulls that a job came through with a call
        self._moves = 0
        self._looking = self._told = False

    @contextmanager
    def at_work(self, stage: int, job: int) -> Iterator[None]:
        """A job, from its first step to its last."""
        self._jobs += 1
        try:
            yield
        finally:
            self._jobs -= 1
            self._rounds.pop((stage, job), None)
            self.look()

    @contextmanager
    def held(self, stage: int, job: int, waits_for: WaitsFor) -> Iterator[None]:
        """A call to a teacher that holds requests back, while it waits."""
        place, in_flight = (stage, job), waits_for != "slot"
        self._waiting[place] += 1
        self._calls.held += in_flight
        if waits_for == "reply":
            self._unsent.add(place)
        self.look()
        try:
            yield
        finally:
            self._moves += 1
            self._calls.held -= in_flight
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def look(self) -> None:
        """Whatever may have been the last move before a lull calls this."""
        self._moves += 1
        if self._waiting and not self._looking and self._still():
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look_again, self._moves, QUIET_TURNS)

    def _still(self) -> bool:
        return len(self._waiting) == self._jobs and self._calls.in_flight == self._calls.held and bool(self._unsent)

    def _look_again(self, moves: int, turns: int) -> None:
        if not self._still():
            self._looking = False
        elif moves != self._moves or turns:
            left = turns - 1 if moves == self._moves else QUIET_TURNS
            asyncio.get_running_loop().call_soon(self._look_again, self._moves, left)
        else:
            self._looking = False
            self._count()
            self.here.set()

    def _count(self) -> None:
        self._rounds.update(self._unsent)
        stages = {place[0] for place in self._unsent if self._rounds[place] > 1}
        self._unsent.clear()
        if stages and not self._told:
            self._told = True
            self._say(
                f"each job of stage {min(stages)} waits for several batches in turn: up to 24 h for every one. "
                "Where that is too long, use a teacher that answers at once (openai:) for this recipe, or for the role "
                "of the later calls (--judge)"
            )
