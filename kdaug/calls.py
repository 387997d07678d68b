"""The calls of a run: every request goes to its teacher at most once, and every reply into the journal.

A call is known by its place: stage / job / scope / hash of (teacher, request) / occurrence. The scope is the generator
(empty), or child index and gate, plus `branch` labels; the occurrence counts equal requests within a scope. So a reply
finds its asker again after a kill, and siblings with equal text never swap replies. A reply that lacks its wanted form
is corrected by a call of its own, whose occurrence is that of the first with `.1` behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kdaug.budget import Account, Budget, Tab
from kdaug.errors import ConfigError, TeacherError
from kdaug.generator import Closable
from kdaug.journal import Done, Journal
from kdaug.lull import Lull, WaitsFor
from kdaug.record import Json, Message
from kdaug.structured import Form
from kdaug.teacher import (
    Completion,
    Request,
    ScoringTeacher,
    Teacher,
    TokenLogprobs,
    holds_back,
    lets_go,
    role_option,
)

Result = TypeVar("Result")
Replies = dict[str, Completion | TeacherError | Done]
Held = Callable[[WaitsFor], AbstractContextManager[None]]


def _by_itself(what: WaitsFor) -> AbstractContextManager[None]:
    """`Lull.held` of a call to a teacher that answers by itself."""
    return _NOTHING


_NOTHING: AbstractContextManager[None] = nullcontext()
SLOW_TO_OPEN = 5.0  # seconds after which it is said that a teacher is being loaded


class Closing(Exception):
    """No new call is made any more: the job that wanted one stays open."""


class Unsent(Closing):
    """The run ended before the request was sent, or sent once more after it had `failed`."""

    def __init__(self, failed: TeacherError | None) -> None:
        super().__init__()
        self.failed = failed


@dataclass
class CallStats:
    """The calls and tokens of this process. Of those in flight, `held` wait for a teacher that holds them back.
    `fatal`: the error that ended the run, by its cause."""

    calls: int = 0
    failed: int = 0
    in_flight: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)  # by teacher: how many calls, and their time in all
    held: int = 0
    fatal: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Calls:
    """Asks the teachers of a run. `over` is set when no new call may be made; `state`: a folder for what they keep;
    `round`: of a loop, for the nonces. Without a journal nothing is kept."""

    teachers: Mapping[str, Teacher]
    journal: Journal | None
    state: Path
    over: asyncio.Event
    budget: Budget | None = None
    say: Callable[[str], None] = lambda line: None
    round: int = 0
    stats: CallStats = field(default_factory=CallStats)

    def __post_init__(self) -> None:
        self.lull = Lull(self.stats, self.say)
        self._slots = {id(t): asyncio.Semaphore(t.concurrency) for t in self.teachers.values()}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._turns: set[asyncio.Future[Any]] = set()  # what the unsent calls wait for
        self.shared: dict[str, Closable] = {}  # what is closed at the end of the run, by name
        self._broken = False  # a fatal error is on its way up, which will end the run
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def sent(self) -> int:
        """Calls whose reply is on its way: no teacher holds them back, and they do not wait for their turn."""
        waiting = self.stats.held + len(self._turns)  # or for a worker or the sandbox, which is no call
        return max(0, self.stats.in_flight - waiting)

    def teacher(self, role: str) -> Teacher:
        """The teacher of a role; a judge is the teacher where none is named."""
        found = self.teachers.get(role) or (self.teachers.get("teacher") if role == "judge" else None)
        if found is None:
            option = role_option(role, "SPEC")
            raise ConfigError(f"no teacher for the role {role!r}: give one with {option} (or {role}= in Python)")
        return found

    async def ask(
        self, stage: int, job: int, role: str, key: str, request: Request, form: Form | None = None
    ) -> Completion | TeacherError:
        """Asks for real. The slot is held until the reply is durable: a kill repeats at most the calls in flight.

        An error that is this record's own is a reply as any other; a fatal one is raised. A teacher that passes on the
        words of another one (a replay) names it in its reply.
        """
        teacher = self.teacher(role)
        held = partial(self.lull.held, stage, job) if holds_back(teacher) else _by_itself
        speaker = teacher.name
        async with self._slot(teacher, held("slot")):
            started = time.perf_counter()
            reply = await self._answer(teacher, request, self._account(stage, job, teacher), held)
            timed = self.stats.seconds.setdefault(teacher.name, [0, 0.0])
            timed[0] += 1
            timed[1] += time.perf_counter() - started
            if isinstance(reply, Completion):
                speaker = reply.teacher or speaker
                fit = (await form.read(reply)).fit if form is not None and not reply.tool_calls else ""
                reply = replace(reply, fit=fit, teacher=speaker, key=key)
                self.stats.prompt_tokens += reply.usage.prompt_tokens
                self.stats.completion_tokens += reply.usage.completion_tokens
            else:
                self.stats.failed += 1
            if self.journal is not None:
                await self.journal.add_reply(stage, job, key, role, speaker, request, reply)
            self.stats.calls += 1
        return reply

    async def _answer(
        self, teacher: Teacher, request: Request, account: Account | Tab, held: Held
    ) -> Completion | TeacherError:
        """What the teacher says, every attempt of it within the budget."""
        if not (holds_back(teacher) and account.take_over(request)):
            await self._reserve(account, request, held)

            async def again(request: Request, failed: TeacherError | None = None) -> None:
                if failed is not None:
                    account.failed(failed, last=False)
                await self._reserve(account, request, _by_itself)  # it counts as held all the while

            request = replace(request, again=again)
        try:
            with held("reply"):
                reply = await teacher.generate(request)
        except TeacherError as e:
            account.failed(e, last=not e.fatal)
            if e.fatal:
                if not self._broken:  # the others were not sent: they waited for this one
                    self.stats.fatal[e.reason.partition(":")[2]] += 1
                self._broken = True
                raise
            return e
        except Unsent as e:
            account.unsent(e.failed)
            raise
        except ConfigError:  # found before anything was sent
            account.unsent(None)
            raise
        account.answered(reply)
        return reply

    async def _reserve(self, account: Account | Tab, request: Request, held: Held) -> None:
        if not await account.reserve(request, partial(held, "money")):
            raise Closing

    def _account(self, stage: int, job: int, teacher: Teacher) -> Account | Tab:
        if self.budget is None:
            return Tab(self.journal, stage, job, teacher.name)
        return self.budget.account(stage, job, teacher.name)

    async def until(self, waiting: Awaitable[Result], failed: TeacherError | None = None) -> Result:
        """Awaits what an unsent call waits for; raises Unsent when the run ends first."""
        turn = asyncio.ensure_future(waiting)
        if self.over.is_set():
            turn.cancel()
            raise Unsent(failed)
        self._turns.add(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            itself = asyncio.current_task()
            if turn in self._turns or (itself is not None and itself.cancelling()):
                raise
            raise Unsent(failed) from None
        finally:
            self._turns.discard(turn)

    async def once(self, stage: int, job: int, key: str, do: Callable[[], Awaitable[Json]]) -> Json:
        """Does it for real; it is in flight until its result is durable."""
        if self.over.is_set():
            raise Closing
        with self._in_flight():
            result = await do()
            if self.journal is not None:
                await self.journal.add_result(stage, job, key, result)
        return result

    async def score(
        self, role: str, prompt: Sequence[Message], completion: Sequence[Message], top_k: int
    ) -> TokenLogprobs:
        teacher = self.teacher(role)
        if not isinstance(teacher, ScoringTeacher):
            raise ConfigError(f"{teacher.name} cannot score a given text: use a white-box teacher such as local:MODEL")
        async with self._slot(teacher, nullcontext()):
            return await teacher.logprobs(tuple(prompt), tuple(completion), top_k)

    async def send(self) -> None:
        """For as long as the run goes on: whenever every job waits, the teachers send what they hold back."""
        while True:
            await self.lull.here.wait()
            self.lull.here.clear()
            for teacher, opening in self._opened():
                await asyncio.wait([opening])
                await teacher.flush()

    async def let_go(self) -> None:
        """Ends the calls that nobody waits for at the end of a run, those that were not sent among them: their jobs
        stay open, and the next run of the same command finds what was sent."""
        turns, self._turns = self._turns, set()
        for turn in turns:
            turn.cancel()
        if self.stats.held:
            self.say(f"{self.stats.held} calls wait for batches: the same command goes on with them")
        if self.budget is not None:
            self.budget.close()
        for teacher, opening in self._opened():
            if lets_go(teacher):
                await asyncio.wait([opening])
                await teacher.aclose()

    async def aclose(self) -> None:
        """Waits for the calls in flight, then closes the teachers that were opened."""
        if self.budget is not None:
            self.budget.close()
        await self._quiet.wait()
        for thing in self.shared.values():
            await thing.aclose()
        for teacher, opening in self._opened():
            await asyncio.wait([opening])
            await teacher.aclose()

    def _opened(self) -> Iterator[tuple[Teacher, asyncio.Task[None]]]:
        for teacher in {id(t): t for t in self.teachers.values()}.values():
            if (opening := self._opening.get(id(teacher))) is not None:
                yield teacher, opening

    @asynccontextmanager
    async def _slot(self, teacher: Teacher, waiting: AbstractContextManager[None]) -> AsyncIterator[None]:
        with waiting:
            await self._slots[id(teacher)].acquire()
        try:
            if self.over.is_set() or self._broken:
                raise Closing
            with self._in_flight():
                await self._open(teacher)
                yield
        finally:
            self._slots[id(teacher)].release()

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self.stats.in_flight += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self.stats.in_flight -= 1
            if self.stats.in_flight == 0:
                self._quiet.set()
            self.lull.look()

    async def _open(self, teacher: Teacher) -> None:
        """Opened at its first call, once: a run that the journal answers needs no engine and no key."""
        opening = self._opening.get(id(teacher))
        if opening is None:
            folder = self.state / "".join(c if c.isalnum() or c in "-._" else "_" for c in teacher.name)
            folder.mkdir(parents=True, exist_ok=True)
            opening = self._opening[id(teacher)] = asyncio.create_task(teacher.open(folder))
            slow = asyncio.get_running_loop().call_later(SLOW_TO_OPEN, self.say, f"{teacher.name} is being loaded")
            opening.add_done_callback(lambda _: slow.cancel())
        if not opening.done():
            await asyncio.shield(opening)
        opening.result()
