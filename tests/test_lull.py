"""The engine tells a teacher that holds requests back when to send: when no job can go on before, and not earlier."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from kdaug.calls import Closing
from kdaug.gate import Gate, Prepared
from kdaug.generator import Generate
from kdaug.generators.respond import Respond
from kdaug.progress import Log
from kdaug.recipe import Recipe
from kdaug.record import Record, assistant, user
from kdaug.running import Outcome, execute
from kdaug.source import Each
from kdaug.stage import Stage
from kdaug.teacher import Completion, Request, Teacher, Usage
from kdaug.teachers.fake import Fake


@dataclass(eq=False)
class Holding:
    """Holds what it is asked, and answers all of it when it is flushed; `flushes` are the numbers of the answered."""

    concurrency: int = 10
    answers: bool = True
    flushes: list[int] = field(default_factory=list)
    holds_back: ClassVar[bool] = True
    name: ClassVar[str] = "holding:m"

    async def open(self, state: Path) -> None:
        self._held: list[tuple[Request, asyncio.Future[Completion]]] = []

    async def generate(self, request: Request) -> Completion:
        reply: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._held.append((request, reply))
        return await reply

    async def flush(self) -> None:
        held, self._held = self._held, []
        self.flushes.append(len(held))
        if not self.answers:
            self._held = held
            return
        for request, reply in held:
            reply.set_result(Completion(f"({request.messages[-1].content})", usage=Usage(10, 10)))

    async def aclose(self) -> None:
        for _, reply in self._held:
            reply.set_exception(Closing())
        self._held = []


@dataclass(frozen=True)
class InTurn:
    """`turns` rounds of `each` calls, each of which needs the one before it."""

    turns: int = 1
    each: int = 1
    name: ClassVar[str] = "in_turn"
    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    async def __call__(self, parents: Sequence[Record], generate: Generate, rng: Random) -> list[Record]:
        text = parents[0].instruction
        for _ in range(self.turns):
            replies = await asyncio.gather(*(generate(f"{text}/{n}") for n in range(self.each)))
            text = replies[0].text
        return [parents[0].child(by=self.name, completion=assistant(text), replies=replies)]


@dataclass(frozen=True)
class Slow(Gate):
    """Works in a thread, then asks `role`."""

    role: str
    name: ClassVar[str] = "slow"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def prepare(self, record: Record, generate: Generate) -> Prepared:
        await asyncio.to_thread(time.sleep, Random(record.id).random() * 0.05)
        await generate(f"judge {record.id}", role=self.role)
        return Prepared(record)


def ran(
    out: Path, jobs: int, stages: Sequence[Stage], limits: Mapping[str, Any] | None = None, **roles: Teacher
) -> Outcome:
    seeds = [Record(prompt=user(f"question {i}")) for i in range(jobs)]
    return execute(Recipe(Each(seeds), stages, **(limits or {})), out, roles, log=Log(quiet=True))


def test_what_is_held_goes_when_every_job_waits(tmp_path: Path) -> None:
    teacher = Holding(concurrency=10)
    outcome = ran(tmp_path / "run", 25, [Stage(Respond())], teacher=teacher)
    assert outcome.facts["kept"] == 25
    assert teacher.flushes == [10, 10, 5]


def test_no_more_is_sent_than_the_target_needs(tmp_path: Path) -> None:
    teacher = Holding(concurrency=100)
    outcome = ran(tmp_path / "run", 50, [Stage(Respond())], {"target": 7}, teacher=teacher)
    assert outcome.facts["kept"] == 7
    assert teacher.flushes == [7]


def test_a_job_that_works_by_itself_is_waited_for(tmp_path: Path) -> None:
    """Threads in `prepare` end at different times; the calls behind them go together all the same."""
    teacher = Holding(concurrency=12)
    ran(tmp_path / "run", 12, [Stage(Respond(), [Slow("teacher")])], teacher=teacher)
    assert teacher.flushes == [12, 12]


def test_a_teacher_that_answers_by_itself_is_waited_for(tmp_path: Path) -> None:
    """A live judge behind a batch teacher must not make a batch of every few records."""
    teacher, judge = Holding(concurrency=40), Fake(lambda request: "5", name="judge", concurrency=2)
    stages = [Stage(Respond()), Stage(InTurn(), [Slow("judge")])]
    outcome = ran(tmp_path / "run", 80, stages, teacher=teacher, judge=judge)
    assert outcome.facts["kept"] == 80
    assert sum(teacher.flushes) == 160
    assert len(teacher.flushes) <= 6


def test_calls_that_wait_for_a_slot_do_not_keep_the_held_ones_back(tmp_path: Path) -> None:
    teacher = Holding(concurrency=4)
    outcome = ran(tmp_path / "run", 3, [Stage(InTurn(each=5), window=3)], teacher=teacher)
    assert outcome.facts["kept"] == 3
    assert teacher.flushes == [4, 4, 4, 3]


@pytest.mark.parametrize(("turns", "told"), [(1, False), (3, True)])
def test_jobs_that_need_several_batches_in_turn_are_told_of_once(tmp_path: Path, turns: int, told: bool) -> None:
    teacher = Holding(concurrency=10)
    ran(tmp_path / "run", 20, [Stage(InTurn(turns=turns, each=2), window=5)], teacher=teacher)
    assert teacher.flushes == [10] * 4 * turns
    log = (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert log.count("several batches in turn") == told


def test_at_the_end_nobody_waits_for_what_is_held(tmp_path: Path) -> None:
    """The cap of one second comes, no reply does: the jobs stay open and are done by the next run."""
    outcome = ran(tmp_path / "run", 5, [Stage(Respond())], {"max_time": 1}, teacher=Holding(answers=False))
    assert (outcome.facts["ended_by"], outcome.facts["kept"]) == ("max_time", 0)
    assert outcome.error is None
    assert "5 calls wait for batches" in (tmp_path / "run" / "log.txt").read_text("utf-8")
    assert ran(tmp_path / "run", 5, [Stage(Respond())], teacher=Holding()).facts["kept"] == 5


def test_a_cap_is_reached_though_calls_wait_for_money_and_others_are_held(tmp_path: Path) -> None:
    teacher = Holding(concurrency=10)
    outcome = ran(tmp_path / "run", 10, [Stage(Respond())], {"max_calls": 4}, teacher=teacher)
    assert (outcome.facts["ended_by"], teacher.flushes) == ("max_calls", [4])
    assert ran(tmp_path / "run", 10, [Stage(Respond())], {"max_calls": 10}, teacher=teacher).facts["kept"] == 10
    assert teacher.flushes == [4, 6]


def test_money_that_comes_back_makes_the_next_batch(tmp_path: Path) -> None:
    """Each of ten calls reserves more than 1,000 tokens, and needs 20."""
    teacher = Holding(concurrency=10)
    outcome = ran(tmp_path / "run", 10, [Stage(Respond())], {"max_tokens": 5_000}, teacher=teacher)
    assert (outcome.facts["ended_by"], outcome.facts["kept"]) == ("source", 10)
    assert sum(teacher.flushes) == 10
    assert 2 < len(teacher.flushes) < 6


def test_what_a_stopped_run_has_reserved_for_batches_is_not_reserved_again(tmp_path: Path) -> None:
    limits = {"max_calls": 5}
    ran(tmp_path / "run", 5, [Stage(Respond())], limits | {"max_time": 1}, teacher=Holding(answers=False))
    outcome = ran(tmp_path / "run", 5, [Stage(Respond())], limits, teacher=Holding())
    assert (outcome.facts["ended_by"], outcome.facts["kept"]) == ("source", 5)
